"""Data sets of films: which films they have, and what is known of each.

Known layouts are UCF101 (`ucfTrainTestlist` beside `UCF-101`) and Something-Something V2 (`labels` beside
`20bn-something-something-v2`); any other folder of films, or of folders of frames, is read as it lies.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflab.data.films import SUFFIXES as FILM_SUFFIXES
from difflab.data.films import is_film, is_frame_folder
from difflab.data.images import SUFFIXES as IMAGE_SUFFIXES
from difflab.data.sources import data_root
from difflab.errors import DifflabError, see, suggest

FILM_SETS = {  # data sets of films that have a name, and where they can be had
    "ucf101": "UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip (unpacked) from https://www.crcv.ucf.edu/data/UCF101.php",
    "something-something-v2": "20bn-something-something-v2 and labels (unpacked) from"
    " https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
}
_SPLITS = ("train", "training", "val", "valid", "validation", "test")
_UCF, _UCF_LISTS = "UCF-101", "ucfTrainTestlist"
_SSV2, _SSV2_LABELS = "20bn-something-something-v2", "labels"


@dataclass(frozen=True)
class Listed:
    """Films of a data set by name below `root`, with a class number and a caption each where there are such."""

    root: Path
    what: str
    names: list[str]
    labels: list[int | None]
    captions: list[str | None]
    classes: tuple[str, ...] | None = None


def holds_films(source: str | Path) -> bool:
    """Whether a source is a data set of films by name or layout, or a folder with no fewer films than pictures."""
    path = Path(source).expanduser()
    if source in FILM_SETS or (path / _UCF).is_dir() or (path / _SSV2).is_dir():
        return True
    endings = Counter(entry.suffix.lower() for entry in path.rglob("*")) if path.is_dir() else Counter()
    films = sum(endings[ending] for ending in FILM_SUFFIXES - IMAGE_SUFFIXES)  # a .gif may be either
    return films > 0 and films >= sum(endings[ending] for ending in IMAGE_SUFFIXES)


def home_of(source: str | Path) -> Path:
    """The folder of a data set of films, by name or path. Raises DifflabError if there is none."""
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


def listed_in(root: Path, split: str | None) -> Listed:
    """The films of a split of the data set in `root`, or of all. Raises DifflabError for a split that it lacks."""
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
