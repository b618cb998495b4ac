"""Films: what a file or a folder of frames holds, and reading frames of it without decoding the rest.

What each film of a data set holds is probed once and kept in an index: its frames are counted from its packets, which
needs no decoding, and films that are broken are known before anything is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from difflab import files
from difflab.data.dataset import BrokenImageError
from difflab.data.images import SUFFIXES as IMAGE_SUFFIXES
from difflab.data.images import decode
from difflab.errors import DifflabError

SUFFIXES = frozenset({".avi", ".mp4", ".webm", ".mkv", ".mov", ".m4v", ".gif"})
FRAME_FOLDER_RATE = 12.0  # frames a second of a folder of frames, which does not say
_INDEX = ".difflab-films.json"
_VERSION = 1


@dataclass(frozen=True)
class Film:
    """A film of a data set.

    name: below the data set's folder; state: size and time of change, by which a change is noticed; frames, rate
    (frames a second), width, height: as far as they are known; seek: whether a frame's time tells its number, so that
    decoding may begin in the middle; problem: why it cannot be used, in words.
    """

    name: str
    state: str
    frames: int = 0
    rate: float = 0.0
    width: int = 0
    height: int = 0
    seek: bool = False
    problem: str | None = None


def is_film(path: Path) -> bool:
    """Whether a file is a film, by its name or, of a .png, by its being animated."""
    return path.suffix.lower() in SUFFIXES or (path.suffix.lower() == ".png" and _is_animated(path))


def is_frame_folder(path: Path) -> bool:
    """Whether a folder's pictures are numbered, and so a film's frames; other files beside them do not matter, but
    films do: there the pictures are something of theirs."""
    if not path.is_dir() or any(p.suffix.lower() in SUFFIXES for p in path.iterdir()):
        return False
    pictures = sorted(_pictures(path))
    return bool(pictures) and all(_number(p) is not None for p in pictures) and not is_film(pictures[0])


def _is_animated(path: Path) -> bool:
    """Whether a .png says, right after its header, that it has several frames."""
    with path.open("rb") as file:
        return file.read(41)[37:] == b"acTL"


def index_films(root: Path, names: Sequence[str]) -> list[Film]:
    """What is known of the films `names` below `root`, in that order; probed where it is not known yet.

    The index is kept in the folder, or where that cannot be written to, in the user's cache.
    """
    known = {film.name: film for film in _read_index(root)}
    states = [_state(root / name) for name in names]
    missing = [(n, s) for n, s in zip(names, states, strict=True) if n not in known or known[n].state != s]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for film in threads.map(lambda one: probe(root, *one), missing):
            known[film.name] = film
    if missing:
        _write_index(root, [known[name] for name in sorted(known)])
    return [known[name] for name in names]


def probe(root: Path, name: str, state: str) -> Film:
    """What one film holds. What is wrong with it is told in its `problem`."""
    path = root / name
    if path.is_dir():
        return _probe_folder(path, name, state)
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return Film(name, state, problem="has no video stream")
            stream = container.streams.video[0]
            times = [packet.pts for packet in container.demux(stream) if packet.size]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            codec, count = stream.codec_context, len(times)
            seek = _tells_numbers(times, rate * float(stream.time_base or 0), container.format.name)
            found = Film(name, state, count, rate, codec.width, codec.height, seek)
            if stream.frames and count < stream.frames:
                return replace(found, problem=f"ends after {count} of its {stream.frames} frames")
            return found if count else replace(found, problem="holds no frames")
    except (av.FFmpegError, ValueError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        return Film(name, state, problem=f"cannot be opened as a film ({said})")


def _tells_numbers(times: Sequence[int | None], step: float, container: str) -> bool:
    """Whether the frames' times, in order, are evenly spaced from zero, and right.

    AVI has no times. Those that are made up for it are wrong where frames are stored in another order than shown.
    """
    known = [time for time in times if time is not None]
    if len(known) < len(times) or step <= 0 or (container == "avi" and known != sorted(known)):
        return False
    return all(abs(time * step - number) < 0.4 for number, time in enumerate(sorted(known)))


def read_frames(root: Path, film: Film, wanted: np.ndarray) -> np.ndarray:
    """The frames with the numbers `wanted` (n,), which ascend and may repeat: uint8 (n, H, W, 3).

    Of a file, decoding begins at the key frame before the first of them. Raises BrokenImageError for a film that cannot
    be used, or whose frames cannot be decoded.
    """
    path = root / film.name
    if film.problem:
        raise BrokenImageError(f"{path}: {film.problem}; replace or delete it.")
    if path.is_dir():
        pictures = _frame_files(path)
        numbers, where = np.unique(wanted, return_inverse=True)
        frames = [decode(pictures[n].read_bytes(), str(pictures[n])) for n in numbers]
        for number, frame in zip(numbers, frames, strict=True):
            if frame.shape != frames[0].shape:
                sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (frame, frames[0])]
                raise BrokenImageError(
                    f"{pictures[number]}: is of {sizes[0]} pixels, but others are of {sizes[1]}; make them alike."
                )
        return np.stack(frames)[where]
    found = _decoded(path, film, set(wanted.tolist()))
    if len(found) < len(set(wanted.tolist())):
        lost = min(set(wanted.tolist()) - found.keys())
        raise BrokenImageError(f"{path}: frame {lost} of {film.frames} cannot be decoded; replace or delete it.")
    return np.stack([found[int(n)] for n in wanted])


def _decoded(path: Path, film: Film, wanted: set[int]) -> dict[int, np.ndarray]:
    import av

    found: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # a clip's few frames are too little for more threads; clips take one each
            step = film.rate * float(stream.time_base or 0)  # frames in a unit of its times
            if film.seek and min(wanted) > 0:
                container.seek(int(min(wanted) / step), stream=stream, backward=True)
            number = -1
            for frame in container.decode(stream):
                number = round(frame.pts * step) if film.seek and frame.pts is not None else number + 1
                if number in wanted and number not in found:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number >= max(wanted):
                    break
    except (av.FFmpegError, ValueError, OSError) as error:
        raise BrokenImageError(
            f"{path}: cannot be decoded ({str(error).splitlines()[0]}); replace or delete it."
        ) from error
    return found


def _probe_folder(path: Path, name: str, state: str) -> Film:
    pictures = _frame_files(path)
    numbers = [number for picture in pictures if (number := _number(picture)) is not None]
    found = Film(name, state, len(pictures), FRAME_FOLDER_RATE)
    if not pictures:
        return replace(found, problem="holds no pictures whose names end in a number")
    for before, after in pairwise(numbers):
        if after == before:
            return replace(found, problem=f"has frame {after} twice")
        if after != before + 1:
            return replace(found, problem=f"has no frame {before + 1}, but goes on with {after}")
    try:
        height, width = decode(pictures[0].read_bytes(), str(pictures[0])).shape[:2]
    except DifflabError as error:
        return replace(found, problem=str(error))
    return replace(found, width=width, height=height)


def _frame_files(path: Path) -> list[Path]:
    numbered = (p for p in _pictures(path) if _number(p) is not None)
    return sorted(numbered, key=lambda p: _number(p) or 0)


def _pictures(path: Path) -> list[Path]:
    """The pictures in a folder, as far as names tell."""
    return [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]


def _number(path: Path) -> int | None:
    """The number that a frame's name ends in."""
    match = re.search(r"(\d+)$", path.stem)
    return int(match[1]) if match else None


def _state(path: Path) -> str:
    state = path.stat()
    size = sum(1 for _ in path.iterdir()) if path.is_dir() else state.st_size
    return f"{size}-{state.st_mtime_ns}"


def _index_places(root: Path) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "difflab" / "films"
    return [root / _INDEX, cache / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"]


def _read_index(root: Path) -> list[Film]:
    for place in _index_places(root):
        try:
            record = json.loads(place.read_text(encoding="utf-8"))
            if record["version"] == _VERSION:
                return [Film(**fields) for fields in record["films"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not there, or not ours: probing makes it anew
    return []


def _write_index(root: Path, films: Sequence[Film]) -> None:
    record = {"version": _VERSION, "films": [asdict(film) for film in films]}
    place, instead = _index_places(root)
    files.write_json(place if os.access(root, os.W_OK) else instead, record)
