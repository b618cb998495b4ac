"""CIFAR-10 from the official archives, both kinds, without executing anything that a pickle might ask for."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from difflab.data.archives import UNREADABLE_TAR
from difflab.data.dataset import Item
from difflab.data.images import counted, read_file
from difflab.errors import DifflabError
from difflab.files import digest

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

OFFICIAL_MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")

_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_PIXELS = 3 * 32 * 32  # a record's planes: red, green, blue, each row by row


class Cifar10:
    """CIFAR-10 in the official order: 32 x 32 images, labels 0 to 9.

    `source` is an official archive (binary or python version), the folder it unpacks to or that folder's parent, or a
    single batch file. `split` is "train" or "test" ("train" if not said) and does not apply to a single file. Raises
    DifflabError if a batch is missing or is not one.
    """

    classes = CLASSES

    def __init__(self, source: str | Path, *, split: str | None = None) -> None:
        source = Path(source)
        if split not in (None, *_FILES):
            raise DifflabError(f"{source}: CIFAR-10 has no split {split!r}; choose train or test.")
        batches = _batches(source, split or "train")
        self._x = np.concatenate([x for x, _ in batches])
        self._labels = np.concatenate([labels for _, labels in batches])
        self._name = str(source)
        self.description = f"CIFAR-10, {counted(len(self._x))} from {source}{_provenance(source)}"

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Item:
        return Item(self._x[index], label=int(self._labels[index]), name=f"{self._name}, image {index}")


def is_cifar10(path: Path) -> bool:
    """Whether `path` is an official archive, its unpacked folder or that folder's parent, or a batch file."""
    if path.is_dir():
        return any((path / folder).is_dir() for folder in FOLDERS) or _is_unpacked(path)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _first_folder(path) in FOLDERS
    return _batch_name(path.name) is not None


def _batches(source: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels (n, 32, 32, 3) and labels (n,) of each batch file, in official order."""
    if source.is_file() and _batch_name(source.name) is not None:
        return [_parse(source.name, read_file(source), str(source))]
    wanted = _FILES[split]
    found = {}
    for name, content in _members(source, wanted):
        found[_batch_name(name)] = _parse(name, content, f"{source}, {name}")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DifflabError(
            f"{source}: not a complete CIFAR-10, {', '.join(missing)} missing; expected is cifar-10-binary.tar.gz,"
            " cifar-10-python.tar.gz, or what one of them unpacks to."
        )
    return [found[name] for name in wanted]


def _members(source: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        nested = [source / folder for folder in FOLDERS if (source / folder).is_dir()]
        for path in sorted((nested[0] if nested else source).iterdir()):
            if _batch_name(path.name) in wanted:
                yield path.name, read_file(path)
        return
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isreg() and _batch_name(name) in wanted and (file := archive.extractfile(member)):
                    yield name, file.read()
    except UNREADABLE_TAR as error:
        raise DifflabError(f"{source}: not a complete tar archive ({error}); download it again.") from error
    except OSError as error:
        raise DifflabError(f"{source}: cannot be read ({error.strerror}).") from error


def _parse(name: str, content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    planes, labels = _parse_binary(content, where) if name.endswith(".bin") else _parse_pickle(content, where)
    if len(labels) == 0 or labels.max() >= len(CLASSES):
        raise DifflabError(f"{where}: not a CIFAR-10 batch; its labels are not all from 0 to 9.")
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _parse_binary(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if len(content) % (1 + _PIXELS):
        raise DifflabError(
            f"{where}: not a CIFAR-10 batch; {len(content):,} bytes are no whole number of {1 + _PIXELS}-byte records."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0]


def _parse_pickle(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _Unpickler(content, where).load()
    try:
        labels = np.array([int(label) for label in batch[b"labels"]], dtype=np.uint8)
        return batch[b"data"].pixels().reshape(len(labels), _PIXELS), labels
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DifflabError(
            f"{where}: not a CIFAR-10 batch; a pickled dict of data (n x {_PIXELS} bytes) and labels was expected."
        ) from error


class _DType:
    """Stands for numpy.dtype in a pickle and keeps its name."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: of no consequence for bytes."""


class _Array:
    """Stands for numpy.ndarray in a pickle and keeps what the array was made of."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self._shape, self._dtype, self._fortran, self._raw = state

    def pixels(self) -> np.ndarray:
        if self._dtype.name not in (b"u1", "u1"):
            raise ValueError("not an array of bytes")
        return np.frombuffer(self._raw, np.uint8).reshape(self._shape, order="F" if self._fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes in the old protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"unexpected text encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Reads plain values and arrays of bytes. Every name a pickle may ask for leads to a stand-in from this file, so
    nothing of numpy or of any other library is called on its behalf."""

    _STAND_INS: ClassVar[dict[tuple[str, str], Callable[..., object]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, content: bytes, where: str) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._where = where

    def load(self) -> Any:
        try:
            return super().load()
        except DifflabError:
            raise
        except (pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DifflabError(f"{self._where}: not a CIFAR-10 batch, the pickle cannot be read ({error}).") from error

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in self._STAND_INS:
            raise DifflabError(
                f"{self._where}: refused, the pickle asks for {module}.{name} and a CIFAR-10 batch needs only numpy"
                " arrays; download the official archive again."
            )
        return self._STAND_INS[module, name]


def _batch_name(file_name: str) -> str | None:
    """`data_batch_3` for `data_batch_3` and `data_batch_3.bin`, None for anything that is not a batch."""
    stem = file_name.removesuffix(".bin")
    return stem if any(stem in names for names in _FILES.values()) else None


def _is_unpacked(folder: Path) -> bool:
    return any(_batch_name(path.name) is not None for path in folder.iterdir())


def _first_folder(archive: Path) -> str | None:
    try:
        with tarfile.open(archive, "r|*") as file:
            first = file.next()
    except (*UNREADABLE_TAR, OSError):
        return None
    return PurePosixPath(first.name).parts[0] if first and first.name else None


def _provenance(source: Path) -> str:
    """Whether an archive with an official name is the official file."""
    expected = OFFICIAL_MD5.get(source.name)
    if expected is None or not source.is_file():
        return ""
    found = digest(source, "md5")
    return (
        " (official archive, md5 verified)" if found == expected else f" (not the official archive: its md5 is {found})"
    )
