"""Results as plain files: `cells/<key>/` with chunks and, written last, `result.json`. No torch here.

<root>/study.yaml                 the study, resolved (a problem set has one below each study's name)
<root>/cells/<key>/decides.json   everything that decides the cell's numbers; the key is its hash
                   chunk-00000.npz   features (n, d) of samples, pictures of the first ones; never redone
                   chunk-00000.json  how long it took and where, beside the numbers and never among them
                   nearest.npz       where asked for, the training samples nearest to some of the samples
                   result.json       the scores, written last: the same bytes however often killed
<root>/reference/<key>.npz        statistics of what cells are scored against
<root>/report/
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difflab import files
from difflab.errors import DifflabError
from difflab.study.spec import key_of


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into one sentence. No kill leaves such a file; copies and disks do."""
    try:
        yield
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DifflabError(f"{path}: this file of a study is damaged; delete it and run the study again.") from error


def read_json(path: Path) -> Any:
    """The object that a JSON file holds. Raises DifflabError for a damaged one."""
    with _undamaged(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of arrays as an .npz, not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


@dataclass(frozen=True)
class CellStore:
    """The folder of one cell."""

    path: Path

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.path.name

    def begin(self, decides: Mapping[str, Any]) -> None:
        """Record what decides the numbers, unless it is there."""
        if not (self.path / "decides.json").exists():
            files.write_json(self.path / "decides.json", decides)

    def has_chunk(self, index: int) -> bool:
        """Whether chunk `index` is complete."""
        return self._chunk(index).exists()

    def put_chunk(self, index: int, arrays: Mapping[str, np.ndarray], timing: Mapping[str, Any]) -> None:
        """Write a chunk. Its timing goes first, so that a chunk that is there always has one."""
        files.write_json(self._chunk(index).with_suffix(".json"), timing)
        files.write_bytes(self._chunk(index), packed(arrays))

    def chunk(self, index: int, name: str) -> np.ndarray:
        """One array of one chunk; the others are not read. Raises DifflabError when the chunk is damaged."""
        with _undamaged(self._chunk(index)), np.load(self._chunk(index), allow_pickle=False) as arrays:
            return arrays[name]

    def chunks(self) -> int:
        """How many chunks are complete."""
        return len(list(self.path.glob("chunk-*.npz")))

    def gather(self, name: str) -> np.ndarray:
        """One array of all chunks, in order of the samples; empty chunks' parts included."""
        return np.concatenate([self.chunk(i, name) for i in range(self.chunks())])

    def pictures(self, n: int) -> np.ndarray:
        """The first `n` kept samples, fewer if fewer were kept: uint8 (n, H, W, C)."""
        parts, have = [], 0
        for i in range(self.chunks()):
            part = self.chunk(i, "pictures")
            parts.append(part)
            have += len(part)
            if have >= n or not len(part):
                break
        return np.concatenate(parts)[:n]

    def timings(self) -> list[dict[str, Any]]:
        """What was recorded beside each chunk: seconds of sampling, in all and for a sample of each batch, samples,
        batch, machine."""
        return [read_json(self._chunk(i).with_suffix(".json")) for i in range(self.chunks())]

    def put_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays beside the chunks, such as `nearest`."""
        files.write_bytes(self.path / f"{name}.npz", packed(arrays))

    def get_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Read arrays beside the chunks, or None."""
        path = self.path / f"{name}.npz"
        if not path.exists():
            return None
        with _undamaged(path), np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, name: str, value: Any) -> None:
        """Write a JSON record, such as `result`."""
        files.write_json(self.path / f"{name}.json", value)

    def get(self, name: str) -> Any | None:
        """Read a JSON record, or None."""
        path = self.path / f"{name}.json"
        return read_json(path) if path.exists() else None

    def _chunk(self, index: int) -> Path:
        return self.path / f"chunk-{index:05d}.npz"


@dataclass(frozen=True)
class Store:
    """The folder of a study or a problem set."""

    root: Path

    def cell(self, decides: Mapping[str, Any]) -> CellStore:
        """The folder of the cell with these deciding facts."""
        return CellStore(self.root / "cells" / key_of(decides))
