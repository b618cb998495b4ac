"""Images in an lmdb database: LSUN as its authors publish it, and FFHQ as converted for DDIM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from difflab.data.images import EncodedImages, counted
from difflab.errors import DifflabError

_FFHQ_SPLIT_SEED = 2019

# lmdb refuses to open one path twice in a process, so data sets on the same path share an environment.
_environments: WeakValueDictionary[Path, lmdb.Environment] = WeakValueDictionary()


class _LmdbImages(EncodedImages):
    """Values of an lmdb environment that are image files, in the order of `keys`."""

    def __init__(self, environment: lmdb.Environment, path: Path, description: str, keys: Sequence[bytes]) -> None:
        self._environment = environment
        self._path = path
        self._keys = keys
        super().__init__(description, len(keys))

    def describe(self, index: int) -> str:
        return f"{self._path}, key {self._keys[index]!r}"

    def read(self, index: int) -> bytes:
        with _readable(self._path), self._environment.begin() as transaction:
            value = transaction.get(self._keys[index])
        if value is None:
            raise DifflabError(f"{self.describe(index)}: missing from the database; copy or download it again.")
        return bytes(value)


class LsunLmdb(_LmdbImages):
    """An LSUN category: every value of the database (webp or jpg), in the order of the keys.

    `path` is the environment (the folder with data.mdb), or a folder that holds `{category}_{split}_lmdb` ("train" if
    `split` is not said). The keys are listed once and kept in memory. Raises DifflabError if there is no such database,
    it is damaged or empty, or its name says another split.
    """

    def __init__(self, path: str | Path, *, category: str | None = None, split: str | None = None) -> None:
        path = _locate(Path(path), category, split)
        environment = _open(path)
        with _readable(path), environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
        if not keys:
            raise DifflabError(f"{path}: the database is empty; download it again.")
        super().__init__(environment, path, f"{counted(len(keys))} in LSUN lmdb {path}", keys)


class FfhqLmdb(_LmdbImages):
    """FFHQ in an lmdb with keys `{resolution}-{index:05d}` and `length`.

    As in the DDIM code, a shuffle with numpy seed 2019 comes first and the first 90 % of it are "train", the rest
    "test"; without `split` all images come in their own order.
    """

    def __init__(self, path: str | Path, *, resolution: int = 256, split: str | None = None) -> None:
        path = Path(path)
        environment = _open(path)
        with _readable(path), environment.begin() as transaction:
            length = transaction.get(b"length")
        if length is None or not bytes(length).isdigit():
            raise DifflabError(f"{path}: no key 'length' with a number; an FFHQ lmdb was expected.")
        keys = [b"%d-%05d" % (resolution, index) for index in _ffhq_indices(path, int(length), split)]
        super().__init__(environment, path, f"{counted(len(keys))} of {resolution} px in FFHQ lmdb {path}", keys)


def is_ffhq(path: Path) -> bool:
    """Whether the lmdb environment `path` has FFHQ's layout."""
    with _readable(path), _open(path).begin() as transaction:
        return transaction.get(b"length") is not None


def is_lmdb(path: Path) -> bool:
    """Whether `path` is the folder of an lmdb environment."""
    return (path / "data.mdb").is_file()


def _locate(path: Path, category: str | None, split: str | None) -> Path:
    if is_lmdb(path):
        if split is not None and not path.name.endswith(f"_{split}_lmdb"):
            raise DifflabError(f"{path}: split {split!r} was asked for; open the folder that ends in _{split}_lmdb.")
        return path
    wanted = "data.mdb" if category is None else f"{category}_{split or 'train'}_lmdb"
    if category is not None and is_lmdb(path / wanted):
        return path / wanted
    there = sorted(folder.name for folder in path.glob("*_lmdb"))
    raise DifflabError(f"{path}: no {wanted} here; databases found: {', '.join(there) or 'none'}.")


def _open(path: Path) -> lmdb.Environment:
    path = path.resolve()
    environment = _environments.get(path)
    if environment is None:
        try:
            _check_length(path)
            environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False, create=False)
        except lmdb.Error as error:
            raise _unreadable(path, error) from error
        _environments[path] = environment
    return environment


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: lmdb.Error) -> DifflabError:
    return DifflabError(f"{path}: not a readable lmdb database ({error}); copy or download it again.")


def _check_length(path: Path) -> None:
    """Refuse a database that is shorter than it says: lmdb maps it and would crash the process at the missing part."""
    with lmdb.open(str(path), readonly=True, lock=False, create=False) as environment:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (found := (path / "data.mdb").stat().st_size) < needed:
        raise DifflabError(f"{path}: the database is cut off at {found:,} of {needed:,} bytes; copy it again.")


def _ffhq_indices(path: Path, count: int, split: str | None) -> list[int]:
    indices = list(range(count))
    if split is None:
        return indices
    if split not in ("train", "test"):
        raise DifflabError(f"{path}: FFHQ has no split {split!r}; choose train or test.")
    np.random.RandomState(_FFHQ_SPLIT_SEED).shuffle(indices)
    cut = int(count * 0.9)
    return indices[:cut] if split == "train" else indices[cut:]
