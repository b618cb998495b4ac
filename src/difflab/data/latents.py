"""Latents on the disk: the moments of every picture's posterior, as it is and mirrored, so that a training draws fresh
latents without an encoder.

latents.json           what they are of: the autoencoder, the pictures, how many
labels.npy             (N,) int64, -1 where there is none
captions.json          of every picture the list of its captions, where the data set has such
moments-00000.npy      (n, 2, 2 C, h, w) float16: [as it is, mirrored], [mean, log variance]
"""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from difflab.errors import DifflabError

RECORD, LABELS, CAPTIONS = "latents.json", "labels.npy", "captions.json"
_MAPS = 256  # files held open: a process may often have no more than 1,024


def is_latents(path: Path) -> bool:
    """Whether `path` is a folder of stored latents."""
    return (path / RECORD).is_file()


class Latents:
    """A folder of stored latents. Raises DifflabError if it is damaged or not complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = read_record(path)
        if not (path / LABELS).is_file():
            raise DifflabError(f"{path}: these latents are not complete; run the same `difflab data latents` again.")
        self.description = f"latents of {self.record['pictures']}"
        self.classes = tuple(self.record["classes"]) or None

    def __len__(self) -> int:
        return int(self.record["count"])

    def count_classes(self) -> int:
        """How many classes the labels tell apart. Raises DifflabError where some have none."""
        if self.classes is not None:
            return len(self.classes)
        if self._labels.min() < 0:
            raise DifflabError(f"{self.path}: these latents have no labels to learn.")
        return int(self._labels.max()) + 1

    def captions_of(self, index: int) -> tuple[str, ...]:
        """The captions of a picture; none where the data set has no captions."""
        return self._captions[index] if self._captions else ()

    def batch(self, indices: np.ndarray, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moments (B, 2 C, h, w) float32 and labels (B,) of items, of their mirror images where told (B,) bool."""
        chunk = int(self.record["chunk"])
        rows = [self._chunk(i // chunk)[i % chunk, int(m)] for i, m in zip(indices, mirrored, strict=True)]
        return np.stack(rows).astype(np.float32), self._labels[indices]

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.load(self.path / LABELS, allow_pickle=False)

    @cached_property
    def _captions(self) -> tuple[tuple[str, ...], ...]:
        path = self.path / CAPTIONS
        if not path.is_file():
            return ()
        try:
            found = json.loads(path.read_bytes())
            if len(found) != len(self) or not all(isinstance(c, str) for captions in found for c in captions):
                raise ValueError("other captions than pictures")
            return tuple(map(tuple, found))
        except (ValueError, TypeError) as error:
            raise DifflabError(f"{path}: these captions of latents are damaged; make the latents again.") from error

    @cached_property
    def _chunks(self) -> OrderedDict[int, np.ndarray]:
        return OrderedDict()

    def _chunk(self, number: int) -> np.ndarray:
        if number not in self._chunks:
            path = chunk_file(self.path, number)
            try:
                self._chunks[number] = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise DifflabError(
                    f"{path}: these latents are damaged; delete it and run `difflab data latents` again."
                ) from error
            if len(self._chunks) > _MAPS:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]


def chunk_file(path: Path, number: int) -> Path:
    """Where the moments of a chunk lie."""
    return path / f"moments-{number:05d}.npy"


def read_record(folder: Path) -> dict[str, Any]:
    """What a folder of latents says of itself. Raises DifflabError for a damaged record."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["count"], record["chunk"], record["classes"], record["pictures"], record["autoencoder"], record["size"]
    except (ValueError, KeyError, TypeError) as error:
        raise DifflabError(f"{path}: this record of latents is damaged; make them again.") from error
    return record
