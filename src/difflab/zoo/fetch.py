"""Downloads that can be interrupted: they go on where they stopped, and take their name once the checksum is right."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from difflab.errors import DifflabError, suggest
from difflab.files import digest, explained, write_json
from difflab.zoo.registry import Algorithm, Entry, entries, find, home

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer


def fetch_model(name: str, progress: Progress | None = None) -> Path:
    """Download a model or feature network by its name in the zoo, unless it is there; returns where it lies.

    Raises DifflabError for a name that is not known, and as `fetch` does.
    """
    entry = find(name)
    if entry is None:
        fetchable = [e.name for e in entries().values() if e.url]
        raise DifflabError(f"{name}: nothing of that name can be fetched.{suggest(name, fetchable)}")
    if entry.path is None and entry.url:
        fetch(entry.url, entry.places[0], checksum=entry.checksum, progress=progress)
    path = entry.require()
    verify(entry, path)
    return path


def fetch(url: str, dest: Path, *, checksum: tuple[Algorithm, str] | None, progress: Progress | None = None) -> Path:
    """Download `url` to `dest` unless it is there with the right checksum.

    What an earlier try left in `<dest>.part` is continued if the server can, else begun anew.

    Args:
        checksum: (algorithm, hex digest) of the whole file; None where none was published, and then the length that
            the server tells is all that shows a broken download.
        progress: called after each block with the bytes so far and in all.

    Raises DifflabError if the server cannot be reached or refuses, the connection breaks, the content has another
    checksum, or the disk is full; `dest` is then untouched.
    """
    if dest.is_file() and (checksum is None or digest(dest, checksum[0]) == checksum[1]):
        return dest
    part = dest.with_name(f"{dest.name}.part")
    with explained(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, dest, progress or (lambda done, total: None))
    if checksum is not None and (found := digest(part, checksum[0])) != checksum[1]:
        part.unlink()
        raise DifflabError(
            f"{url}: the {checksum[0]} is {found}, but {checksum[1]} was expected; the file was discarded, try again."
        )
    with explained(dest):
        os.replace(part, dest)
    return dest


def verify(entry: Entry, path: Path) -> None:
    """Check a file of the zoo against its published checksum, once for each size and time of change.

    Raises DifflabError if the content is another.
    """
    if entry.checksum is None:
        return
    algorithm, expected = entry.checksum
    status = path.stat()
    stamp = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    marker = home() / "verified" / f"{expected}.json"
    if marker.is_file() and marker.read_text("utf-8").strip() == f'"{stamp}"':
        return
    if (found := digest(path, algorithm)) != expected:
        raise DifflabError(
            f"{path}: the {algorithm} of {entry.name} is {found}, but {expected} was published; delete it and run "
            f"`difflab models fetch {entry.name}`."
        )
    with contextlib.suppress(DifflabError):  # where nothing can be written the file is checked every time
        write_json(marker, stamp)


def _download(url: str, part: Path, dest: Path, progress: Progress) -> None:
    done = part.stat().st_size if part.exists() else 0
    try:
        with _open(url, done) as answer:
            if getattr(answer, "status", None) != HTTPStatus.PARTIAL_CONTENT:
                done = 0  # the server sends everything, whatever was asked for
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with open(part, "ab" if done else "wb") as file:
                done = _copy(answer, file, done, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # nothing is left to send: the checksum decides whether the part is whole
        raise DifflabError(f"{url}: the server answers {error.code} ({error.reason}); {_by_hand(dest)}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise DifflabError(
            f"{url}: cannot be reached ({reason}); run the same command again to go on, or {_by_hand(dest)}"
        ) from error
    if total is not None and done < total:
        raise DifflabError(
            f"{url}: the connection broke after {done} of {total} bytes; run the same command again to go on."
        )


def _open(url: str, begin: int) -> Any:
    headers = {"User-Agent": "difflab", **({"Range": f"bytes={begin}-"} if begin else {})}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)


def _copy(answer: Any, file: IO[bytes], done: int, total: int | None, progress: Progress) -> int:
    while block := answer.read(_BLOCK):
        file.write(block)
        done += len(block)
        progress(done, total)
    return done


def _by_hand(dest: Path) -> str:
    return f"download it by other means and put it at {dest}."
