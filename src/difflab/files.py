"""Files that are there whole or not at all.

Everything difflab writes goes to a temporary name in the same folder and is renamed when it is complete, so a kill or a
full disk never leaves half a file under the real name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from difflab.errors import DifflabError

_BLOCK = 1 << 20


@contextmanager
def writing(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success it takes the name `path`, on any failure it is removed.

    `sync` forces the bytes to the disk before the rename, so that a power cut cannot leave an empty file.
    Raises DifflabError when the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    with explained(path):
        handle, name = _temporary_beside(path)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            if os.path.exists(name):
                os.unlink(name)
            raise


def check_writable(path: Path) -> None:
    """Raise DifflabError where `path` could not be written; nothing is left there, nor are folders made."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    with explained(path), _taking_files(path), tempfile.TemporaryFile(dir=place):
        pass


def _temporary_beside(path: Path) -> tuple[int, str]:
    with _taking_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)


@contextmanager
def _taking_files(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:  # what a file system that takes no files answers
        raise DifflabError(f"{path}: nothing can be written here; choose another folder.") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at `path` into one sentence each."""
    try:
        yield
    except (OSError, RuntimeError) as raised:
        error = _of_the_system(raised)
        if error is None:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DifflabError(
                f"{path}: the disk is full; no file was left half-written. Free some space and run this again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DifflabError(
                f"{path}: no permission to write here. Choose another folder or change its rights."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise DifflabError(f"{path.name[:40]}…: this name is too long for a file; choose a shorter one.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise DifflabError(f"{path}: a file stands where a folder is needed, or the other way round.") from error
        raise


def _of_the_system(raised: BaseException) -> OSError | None:
    """The operating system's own answer: `torch.save` hides a full disk behind a RuntimeError of its own."""
    error: BaseException | None = raised
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all below it, each with its files' names, through links but for those to a folder around them."""
    for folder, inner, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        inner[:] = [name for name in inner if not _leads_around(os.path.join(folder, name), here)]
        yield Path(folder), names


def _leads_around(folder: str, here: str) -> bool:
    return os.path.islink(folder) and f"{here}/".startswith(os.path.join(os.path.realpath(folder), ""))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file by `algorithm` (a hashlib name), read in blocks."""
    value = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value.update(block)
    return value.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
