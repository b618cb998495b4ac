"""Results as plain files: `cells/<key>/` with chunks and, written last, `result.json`. No torch here.

The folder may lie on this machine, on a disk of the network, or in an object store; see `difflab.places`.

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
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place
from difflab.study.spec import key_of

_CHUNK = re.compile(r"chunk-(\d{5,})\.npz")


@contextmanager
def _undamaged(path: Place) -> Iterator[None]:
    """Turn what reading a damaged file raises into one sentence. No kill leaves such a file; copies and disks do."""
    try:
        yield
    except DifflabError:  # it cannot be read now, which says nothing of the file
        raise
    except PermissionError as error:
        raise DifflabError(f"{path}: no permission to read this; change its rights.") from error
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DifflabError(f"{path}: this file of a study is damaged; delete it and run the study again.") from error


def read_json(path: Place) -> Any:
    """The object that a JSON file holds. Raises DifflabError for a damaged one."""
    with _undamaged(path):
        found = json.loads(files.read_bytes(path))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found


def _arrays(path: Place, *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names, or all, of an .npz. Raises DifflabError for a damaged one."""

    def read() -> dict[str, np.ndarray]:
        with files.reading(path) as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in names or found.files}

    with _undamaged(path):
        return files.patient(read, path)


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of arrays as an .npz, not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


@dataclass(frozen=True)
class CellStore:
    """The folder of one cell."""

    path: Place

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.path.name

    def begin(self, decides: Mapping[str, Any]) -> None:
        """Record what decides the numbers, unless it is there."""
        if not self.begun():
            files.write_json(self.path / "decides.json", decides)

    def begun(self) -> bool:
        """Whether that is recorded."""
        return files.exists(self.path / "decides.json")

    def has_chunk(self, index: int) -> bool:
        """Whether chunk `index` is complete."""
        return files.exists(self._chunk(index))

    def put_chunk(self, index: int, arrays: Mapping[str, np.ndarray], timing: Mapping[str, Any]) -> None:
        """Write a chunk. Its timing goes first, so that a chunk that is there always has one."""
        files.write_json(self._chunk(index).with_suffix(".json"), timing)
        files.write_bytes(self._chunk(index), packed(arrays))

    def chunk(self, index: int, name: str) -> np.ndarray:
        """One array of one chunk; the others are not read. Raises DifflabError when the chunk is damaged."""
        return _arrays(self._chunk(index), name)[name]

    def drawn(self) -> set[int]:
        """The numbers of the chunks that are complete, by one look at the folder."""
        return {int(found[1]) for name in files.names(self.path) if (found := _CHUNK.fullmatch(name))}

    def chunks(self) -> int:
        """How many chunks are complete."""
        return len(self.drawn())

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
        return _arrays(path) if files.exists(path) else None

    def put(self, name: str, value: Any) -> None:
        """Write a JSON record, such as `result`."""
        files.write_json(self.path / f"{name}.json", value)

    def get(self, name: str) -> Any | None:
        """Read a JSON record, or None."""
        path = self.path / f"{name}.json"
        return read_json(path) if files.exists(path) else None

    def _chunk(self, index: int) -> Place:
        return self.path / f"chunk-{index:05d}.npz"


@dataclass(frozen=True)
class Store:
    """The folder of a study or a problem set."""

    root: Place

    def cell(self, decides: Mapping[str, Any]) -> CellStore:
        """The folder of the cell with these deciding facts."""
        return self.at(key_of(decides))

    def at(self, key: str) -> CellStore:
        """The folder of the cell with this key."""
        return CellStore(self.root / "cells" / key)
