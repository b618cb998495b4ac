"""Files that are there whole or not at all, read and written with patience.

Everything difflab writes goes to a temporary name in the same folder and is renamed when it is complete, so a kill or a
full disk never leaves half a file under the real name. In an object store it becomes one object, which is seen whole or
not at all. A disk on the network that drops out, or a store that is down, is waited for: see `patient`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from difflab.errors import DifflabError
from difflab.places import Place, place

if TYPE_CHECKING:
    from upath import UPath

T = TypeVar("T")

PATIENCE = 60.0  # seconds that a store is waited for
_WAITS = (0.5, 8.0)  # seconds before it is tried again: at first, and at most
_BLOCK = 1 << 20
_FETCHED = 2 << 20  # bytes of a remote file that are fetched ahead: fewer are more requests, more are for nothing

# What a disk says while the network is away, and a store while it is down.
_PASSING = {getattr(errno, name) for name in (
    "EAGAIN", "EBUSY", "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE",
    "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOTCONN", "ESHUTDOWN",
) if hasattr(errno, name)}  # fmt: skip
# The libraries of stores raise exceptions of their own, known here by name, so that none need be imported.
_LIBRARIES = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "requests"}
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "DefaultCredentialsError", "ClientAuthenticationError",
}  # fmt: skip
_MISTAKES = {"ParamValidationError", "NoRegionError", "InvalidRegionError", "ConfigParseError", "ConfigNotFound"}


@contextmanager
def writing(path: Place | str, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success it takes the name `path`, on any failure it is removed.

    `sync` forces the bytes to the disk before the rename, so that a power cut cannot leave an empty file. What goes to
    an object store waits in memory.
    Raises DifflabError when the folder cannot be written to or the disk is full.
    """
    path = place(path)
    if not isinstance(path, Path):
        content = io.BytesIO()
        yield content
        write_bytes(path, content.getvalue())
        return
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


def check_writable(path: Place) -> None:
    """Raise DifflabError where `path` could not be written; nothing is left there, nor are folders made."""
    if not isinstance(path, Path):
        probe = path.with_name(f".{path.name}.probe")
        patient(lambda: _write(probe, b""), path)
        patient(lambda: _remove(probe), path)
        return
    there = next(folder for folder in path.absolute().parents if folder.exists())
    with explained(path), _taking_files(path), tempfile.TemporaryFile(dir=there):
        pass


def _remove(probe: UPath) -> None:
    with suppress(PermissionError):  # some stores take files and let none be removed
        probe.fs.rm_file(probe.path)


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


def write_bytes(path: Place, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; a store that does not take it is waited for."""
    patient(lambda: _write(path, content), path)


def _write(path: Place, content: bytes) -> None:
    if isinstance(path, Path):
        with writing(path) as file:
            file.write(content)
        return
    try:
        path.fs.pipe_file(path.path, content)  # `path.open` might show an empty object for a while
    except FileNotFoundError as error:
        bucket = f"{path.protocol}://{path.drive}"
        raise DifflabError(f"{bucket}: there is no such bucket; make it, or choose another place.") from error


def read_bytes(path: Place) -> bytes:
    """What a file holds; a store that does not answer is waited for."""
    return patient(path.read_bytes, path)


def reading(path: Place) -> IO[bytes]:
    """Open a file to read, of a remote one only the parts that are asked for. To be used within `patient`."""
    return path.open("rb") if isinstance(path, Path) else path.open("rb", block_size=_FETCHED)


def exists(path: Place) -> bool:
    """Whether a file or folder is there. Unlike `Path.exists` it never takes a store that is away for one without."""

    def look() -> bool:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    return patient(look, path)


def names(folder: Place) -> set[str]:
    """The names of what lies in a folder; none where there is no folder. Unlike `Path.glob` it tells refusals."""

    def look() -> set[str]:
        try:
            if isinstance(folder, Path):
                return set(os.listdir(folder))
            return {found.rstrip("/").rpartition("/")[2] for found in folder.fs.ls(folder.path, detail=False)}
        except FileNotFoundError:
            return set()

    return patient(look, folder)


def patient(act: Callable[[], T], path: Place) -> T:
    """What `act` returns, which reads or writes `path`; tried again while its store is away, up to PATIENCE seconds.

    Raises DifflabError when it stays away, and for what a remote store refuses for good; else, as for a file that is
    not there, what `act` raises.
    """
    wait, until, told = _WAITS[0], time.monotonic() + PATIENCE, False
    while True:
        try:
            return act()
        except Exception as error:
            if not _passes(error):
                if isinstance(path, Path) or isinstance(error, FileNotFoundError) or not _of_a_store(error):
                    raise
                raise DifflabError(_refusal(path, error)) from error
            if time.monotonic() + wait > until:
                raise DifflabError(
                    f"{path}: the store has refused this for {PATIENCE:.0f} s ({_said(error)}); once it does not, the "
                    "same command goes on where it stopped."
                ) from error
            if not told:
                told = True
                warnings.warn(
                    f"{path}: the store refuses this for now ({_said(error)}); trying for up to {PATIENCE:.0f} s.",
                    stacklevel=2,
                )
        time.sleep(wait)
        wait = min(2 * wait, _WAITS[1])


def _passes(error: Exception) -> bool:
    """Whether waiting may help: the network or the store is away."""
    if isinstance(error, OSError):
        return error.errno in _PASSING or isinstance(error, TimeoutError | ConnectionError)
    name = type(error).__name__
    return _of_a_store(error) and name not in _NO_CREDENTIALS and name not in _MISTAKES


def _of_a_store(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES


def _refusal(path: UPath, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path}: no permission here ({_said(error)}); check the credentials and their rights."
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            f"{path}: no credentials for this store ({_said(error)}); give them as its library expects, for S3 in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return f"{path}: the store refuses this ({_said(error)}); check the address and the settings of its library."


def _said(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or "no details").split())[:200].rstrip(".")


def write_text(path: Place, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Place, value: Any) -> None:
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
