"""Clips: windows of a data set's films, brought to one length and size.

Known layouts are UCF101 (`ucfTrainTestlist` beside `UCF-101`) and Something-Something V2 (`labels` beside
`20bn-something-something-v2`); any other folder of films, or of folders of frames, is read as it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from difflab.data.dataset import Crop, Item, Transform
from difflab.data.films import SUFFIXES as FILM_SUFFIXES
from difflab.data.films import Film, index_films, is_film, is_frame_folder, probe, read_frames
from difflab.data.images import SUFFIXES as IMAGE_SUFFIXES
from difflab.data.sources import data_root
from difflab.errors import DifflabError, see, suggest

Start = Literal["random", "first", "middle"]
Short = Literal["drop", "repeat", "loop"]

FILM_SETS = {  # data sets of films that have a name, and where they can be had
    "ucf101": "UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip (unpacked) from https://www.crcv.ucf.edu/data/UCF101.php",
    "something-something-v2": "20bn-something-something-v2 and labels (unpacked) from"
    " https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
}
_SPLITS = ("train", "training", "val", "valid", "validation", "test")
_UCF, _UCF_LISTS = "UCF-101", "ucfTrainTestlist"
_SSV2, _SSV2_LABELS = "20bn-something-something-v2", "labels"


@dataclass(frozen=True)
class Window:
    """Which frames of a film make a clip.

    frames: of the clip; stride: every how manieth frame of the film; fps: frames a second that the film is brought to
    before, by taking the nearest ones, None is its own; start: where the window lies; short: what is done with a film
    that is shorter: it is dropped, its last frame repeated, or it begins anew.
    """

    frames: int
    stride: int = 1
    fps: float | None = None
    start: Start = "random"
    short: Short = "drop"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or (self.fps is not None and self.fps <= 0):
            raise DifflabError(
                f"a clip of {self.frames} frames, stride {self.stride}, fps {self.fps}: all must be positive."
            )

    def _rate(self, film: Film) -> float:
        """Frames of the film between two frames of the clip."""
        return self.stride * (film.rate / self.fps if self.fps and film.rate else 1.0)

    def span(self, film: Film) -> int:
        """Frames of the film that a clip reaches over."""
        return round((self.frames - 1) * self._rate(film)) + 1

    def repeats(self, film: Film) -> bool:
        """Whether a clip has frames of the film twice because it is brought to another rate."""
        return self.span(film) < self.frames

    def numbers(self, film: Film, seed: Sequence[int]) -> np.ndarray:
        """The film's frames (frames,) that make a clip, ascending but where a short film begins anew."""
        room = film.frames - self.span(film)
        if room < 0:
            wanted = np.rint(np.arange(self.frames) * self._rate(film)).astype(np.int64)
            return wanted % film.frames if self.short == "loop" else np.minimum(wanted, film.frames - 1)
        begin = {"first": 0, "middle": room // 2}.get(self.start)
        if begin is None:
            begin = int(np.random.default_rng(list(seed)).integers(room + 1))
        return begin + np.rint(np.arange(self.frames) * self._rate(film)).astype(np.int64)

    @property
    def length(self) -> str:
        """How many frames, and how far apart, in words."""
        every = f", stride {self.stride}" if self.stride > 1 else ""
        rate = f", at {self.fps:g} frames a second" if self.fps else ""
        return f"{self.frames} frames{every}{rate}"

    def __str__(self) -> str:
        return f"{self.length}, {self.start} start, short films: {self.short}"


@dataclass(frozen=True)
class Listed:
    """Films of a data set by name below `root`, with a class number and a caption each where there are such."""

    root: Path
    what: str
    names: list[str]
    labels: list[int | None]
    captions: list[str | None]
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Clips:
    """A data set of clips, one of each film; which window, `item` decides by a seed, `[]` by the film's number.

    films that are broken, and short ones unless they are filled up, are left out and told in the `description`.
    """

    listed: Listed
    window: Window
    transform: Transform
    films: list[Film] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    description: str = ""

    @property
    def broken(self) -> list[str]:
        """Of each film that cannot be used, its name and what is wrong with it."""
        return [f"{self.listed.root / film.name}: {film.problem}" for film in self.films if film.problem]

    @property
    def short(self) -> int:
        """How many sound films are left out because they are too short."""
        return len(self.films) - len(self.broken) - len(self.kept)

    @property
    def slower(self) -> int:
        """How many of the films are slow enough for the rate they are brought to that clips repeat frames."""
        return sum(self.window.repeats(self.films[i]) for i in self.kept)

    def warn(self) -> None:
        """Warn of films that are left out, and of films whose frames are repeated, if there are such."""
        if self.slower:
            warnings.warn(
                f"{self.listed.root}: {self.slower} of {len(self)} films are slower than {self.window.fps:g} frames a "
                "second; frames of theirs are repeated.",
                UserWarning,
                stacklevel=3,
            )
        if self.broken or self.short:
            warnings.warn(
                f"{self.listed.root}: {len(self.broken)} broken films and {self.short} shorter than "
                f"{self.window.frames} frames are left out.",
                UserWarning,
                stacklevel=3,
            )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes."""
        return self.listed.classes

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Item:
        return self.item(index, (0, index))

    def captions_of(self, index: int) -> tuple[str, ...]:
        """The caption of a film, none where it has no such."""
        caption = self.listed.captions[self.kept[index]]
        return () if caption is None else (caption,)

    def item(self, index: int, seed: Sequence[int]) -> Item:
        """A clip of film `index`, its window by `seed` where that is random."""
        if not 0 <= index < len(self.kept):
            raise IndexError(index)
        number = self.kept[index]
        film = self.films[number]
        frames = read_frames(self.listed.root, film, self.window.numbers(film, seed))
        x = np.stack([self.transform(frame) for frame in frames])
        return Item(x, self.listed.labels[number], self.listed.captions[number], film.name)


def open_clips(
    source: str | Path, window: Window, size: int, *, split: str | None = None, crop: Crop | None = None
) -> Clips:
    """The clips of a folder.

    Args:
        source: UCF101's folder, Something-Something V2's, or any folder of films.
        window: which frames make a clip.
        size, crop: how frames are brought to size x size pixels; None is their central square.
        split: `train` or `test` for UCF101's first lists, `train2`, .. for others; `train` or `validation` for
            Something-Something; for other folders a subfolder of that name. None is all.

    Raises DifflabError if there is no such folder or split, or no film in it can be used.
    """
    root = _home(source)
    listed = _listed(root, split)
    films = index_films(listed.root, listed.names)
    broken = [film for film in films if film.problem]
    short = [f for f in films if not f.problem and window.short == "drop" and f.frames < window.span(f)]
    out = {film.name for film in (*broken, *short)}
    kept = [i for i, film in enumerate(films) if film.name not in out]
    if not kept:
        longest = max((film.frames for film in short), default=0)
        first = (
            f"the longest has {longest} frames"
            if short
            else f"{broken[0].name} {broken[0].problem}"
            if broken
            else f"{listed.what} names none that is there"
        )
        raise DifflabError(
            f"{source}: none of {len(films)} films has a clip of {window.frames} frames ({first}); take fewer frames, "
            "or let a recipe's data.short be repeat or loop."
        )
    lost = [f"{len(broken)} broken ({broken[0].name} {broken[0].problem})"] if broken else []
    lost += [f"{len(short)} too short"] if short else []
    left = f"; left out: {', '.join(lost)}" if lost else ""
    transform = Transform(size, crop or "center-short")
    told = f"{len(kept)} clips of {listed.what} ({window}; {transform}){left}"
    return Clips(listed, window, transform, films, kept, told)


def holds_films(source: str | Path) -> bool:
    """Whether a source is a data set of films by name or layout, or a folder with no fewer films than pictures."""
    path = Path(source).expanduser()
    if source in FILM_SETS or (path / _UCF).is_dir() or (path / _SSV2).is_dir():
        return True
    endings = Counter(entry.suffix.lower() for entry in path.rglob("*")) if path.is_dir() else Counter()
    films = sum(endings[ending] for ending in FILM_SUFFIXES - IMAGE_SUFFIXES)  # a .gif may be either
    return films > 0 and films >= sum(endings[ending] for ending in IMAGE_SUFFIXES)


def describe_films(source: str | Path, split: str | None = None) -> list[str]:
    """What the films of a source are, a line each: how many, how long and large, and what is wrong with some.

    Raises DifflabError if there is no such folder or split, or no film in it.
    """
    listed = _listed(_home(source), split)
    if not listed.names:
        raise DifflabError(f"{source}: {listed.what} names no film that is there.")
    films = index_films(listed.root, listed.names)
    sound = [film for film in films if not film.problem]
    lines = [f"{listed.what}: {len(films)} films, {len(films) - len(sound)} of them broken"]
    if sound:
        frames, sizes = [film.frames for film in sound], sorted({(film.width, film.height) for film in sound})
        lines.append(
            f"{min(frames)} to {max(frames)} frames of {' and '.join(f'{w}x{h}' for w, h in sizes[:3])}"
            f"{' and others' if len(sizes) > 3 else ''}"
        )
    if listed.classes:
        lines.append(
            f"{len(listed.classes)} classes: {', '.join(listed.classes[:12])}{', ..' * (len(listed.classes) > 12)}"
        )
    return lines + [f"{listed.root / film.name}: {film.problem}" for film in films if film.problem]


def beginning(path: Path, frames: int | None, size: int) -> np.ndarray:
    """The first frames of a film or folder of frames, all of it for None, as uint8 (n, size, size, 3).

    Raises DifflabError if it is not there, is broken, or has fewer.
    """
    if not path.exists():
        raise DifflabError(f"{path}: no such film or folder of frames.")
    if frames is not None and frames < 1:
        raise DifflabError(f"{frames} frames of {path} were asked for, but at least one is needed.")
    film = probe(path.parent, path.name, "")
    if film.problem:
        raise DifflabError(f"{path}: {film.problem}; give a film, or a folder of numbered frames.")
    if frames is not None and film.frames < frames:
        raise DifflabError(f"{path}: has {film.frames} frames, but {frames} were asked for.")
    transform = Transform(size)
    return np.stack([transform(x) for x in read_frames(path.parent, film, np.arange(frames or film.frames))])


def side_of_films(source: str | Path, split: str | None = None) -> int:
    """The side in pixels of films that are all squares of one size. Raises DifflabError for others."""
    listed = _listed(_home(source), split)
    sizes = sorted({(film.width, film.height) for film in index_films(listed.root, listed.names) if not film.problem})
    if len(sizes) == 1 and sizes[0][0] == sizes[0][1]:
        return sizes[0][0]
    found = " and ".join(f"{width}x{height}" for width, height in sizes[:2]) or "none that can be read"
    raise DifflabError(
        f"{source}: has films of {found}{' and others' if len(sizes) > 2 else ''}, but squares of one size are needed; "
        "say with --size how many pixels wide to make them."
    )


def films_fingerprint(source: str | Path) -> str:
    """What tells whether a data set still has the same films: a hash of their names, sizes and times."""
    listed = _listed(_home(source), None)
    films = index_films(listed.root, listed.names)
    return hashlib.sha256("\n".join(f"{film.name} {film.state}" for film in films).encode()).hexdigest()[:16]


def _home(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source in FILM_SETS:
        home = data_root() / str(source)
        if home.is_dir():
            return home
        raise DifflabError(
            f"Data set {str(source)!r} is not on this machine: get {FILM_SETS[str(source)]} and put it into {home}; "
            f"{see('how-to/missing')}."
        )
    raise DifflabError(
        f"{source}: no such folder; clips are read from a folder of films.{suggest(str(source), FILM_SETS)}"
    )


def _listed(root: Path, split: str | None) -> Listed:
    home = root.parent if root.name in (_UCF, _SSV2) else root
    if (home / _UCF).is_dir() and (home / _UCF_LISTS).is_dir():
        return _ucf101(home, split)
    if (home / _SSV2).is_dir() and (home / _SSV2_LABELS).is_dir():
        return _something(home, split)
    return _folder(root, split)


def _ucf101(home: Path, split: str | None) -> Listed:
    """By the official lists. The class is the folder's: film names spell HandstandPushups another way."""
    lists, root = home / _UCF_LISTS, home / _UCF
    with _read_as(lists / "classInd.txt", "a number and a class name in each line"):
        classes = tuple(line.split()[1] for line in _lines(lists / "classInd.txt"))
    if split is None:
        names = [str(path.relative_to(root)) for path in sorted(root.glob("*/*")) if is_film(path)]
    else:
        match = re.fullmatch(r"(train|test)([123]?)", split)
        path = lists / (f"{match[1]}list0{match[2] or 1}.txt" if match else "")
        if not path.is_file():
            raise DifflabError(
                f"{home}: UCF101 has no split {split!r}; it has train, test, train2, test2, train3, test3."
            )
        names = [line.split()[0] for line in _lines(path)]
        names = [name for name in names if (root / name).is_file()]  # a part of the films will do
    labels = [classes.index(name.split("/")[0]) if name.split("/")[0] in classes else None for name in names]
    what = f"UCF101, {f'split {split}' if split else 'all'}"
    return Listed(root, what, names, list(labels), [None] * len(names), classes)


def _something(home: Path, split: str | None) -> Listed:
    """With the sentence as caption and the template's number as class."""
    labels, root = home / _SSV2_LABELS, home / _SSV2
    with _read_as(labels / "labels.json", "an object of templates and their numbers"):
        numbers = {name: int(number) for name, number in _json(labels / "labels.json").items()}
    parts = ["train", "validation"] if split is None else [split]
    records: list[dict[str, Any]] = []
    for part in parts:
        path = next(
            (p for p in (labels / f"{part}.json", labels / f"something-something-v2-{part}.json") if p.is_file()), None
        )
        if path is None:
            raise DifflabError(f"{home}: has no labels of a split {part!r}.{suggest(part, ['train', 'validation'])}")
        with _read_as(path, "a list of objects with an id each"):
            records += [record for record in _json(path) if (root / f"{record['id']}.webm").is_file()]
    plain = [str(record.get("template", "")).replace("[", "").replace("]", "") for record in records]
    return Listed(
        root, f"Something-Something V2, {split or 'all'}", [f"{record['id']}.webm" for record in records],
        [numbers.get(template) for template in plain], [record.get("label") for record in records],
        tuple(sorted(numbers, key=lambda name: numbers[name])),
    )  # fmt: skip


def _folder(root: Path, split: str | None) -> Listed:
    """All films below a folder; where all lie in folders of it, these are the classes."""
    if split is not None and split not in _SPLITS:
        raise DifflabError(f"{root}: has no split {split!r}.{suggest(split, _SPLITS)}")
    parts = [name for name in _SPLITS if (root / name).is_dir()]
    if split is not None and parts:  # a folder without such parts is one whole
        if split not in parts:
            raise DifflabError(f"{root}: has no split {split!r}, but {', '.join(parts)}.{suggest(split, parts)}")
        root = root / split
    folders = _frame_folders(root)
    frames = set(folders)
    found = sorted([*folders, *(p for p in root.rglob("*") if p.is_file() and p.parent not in frames and is_film(p))])
    if not found:
        raise DifflabError(f"{root}: no films in this folder; expected .avi, .mp4, .webm, .gif, or folders of frames.")
    names = [path.relative_to(root).as_posix() for path in found]
    heads = [name.split("/")[0] for name in names]
    classes = tuple(sorted(set(heads))) if all("/" in name for name in names) else None
    labels: list[int | None] = [classes.index(head) if classes else None for head in heads]
    return Listed(root, f"{len(names)} films in {root}", names, labels, [None] * len(names), classes)


def _frame_folders(root: Path) -> list[Path]:
    return [path for path in (root, *root.rglob("*")) if path.is_dir() and path != root and is_frame_folder(path)]


@contextmanager
def _read_as(path: Path, expected: str) -> Iterator[None]:
    """Turn what reading a file of another content raises into one sentence."""
    try:
        yield
    except DifflabError:  # a sentence already
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DifflabError(f"{path}: cannot be read, {expected} was expected; copy or download it again.") from error


def _lines(path: Path) -> list[str]:
    """Lines that say something; the official lists end theirs in CRLF."""
    try:
        with _read_as(path, "UTF-8 text"):
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DifflabError(f"{path}: cannot be read ({error.strerror}); UCF101's lists belong there.") from error


def _json(path: Path) -> Any:
    try:
        with _read_as(path, "JSON"):
            return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DifflabError(f"{path}: cannot be read ({error.strerror}); copy or download it again.") from error
