"""Encoded images: decoding them, and reading a folder of them."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from difflab.data.dataset import BrokenImageError, Item
from difflab.errors import DifflabError
from difflab.files import folders_below

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})

# Pillow would also open formats that start other programs (EPS runs Ghostscript), whatever a file is called.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")

_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

_SPLIT = re.compile(r"(train|training|val|valid|validation|test)(20\d\d)?")


def decode(content: bytes, name: str) -> np.ndarray:
    """Bytes of an image file to uint8 (H, W, 3) RGB.

    As torchvision's loader: Pillow's conversion to RGB (alpha is dropped, grey is repeated, the first frame of a GIF is
    taken) and no turning by EXIF. Raises BrokenImageError, naming `name`, if the bytes are not such an image, and
    DifflabError if it has more than 8 bits a channel, which that conversion would clip.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            mode = image.mode
            x = np.asarray(image.convert("RGB"))
    except _UNDECODABLE as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BrokenImageError(
            f"{name}: not a readable image ({reason}); replace or delete it; where pictures "
            "are measured, --skip-broken passes over such."
        ) from error
    if mode.startswith(("I", "F")):
        raise DifflabError(
            f"{name}: more than 8 bits a channel (Pillow mode {mode}); convert it to an 8-bit image first."
        )
    return x


class EncodedImages(ABC):
    """Images kept as the bytes of image files, perhaps with labels; subclasses read and name one of them."""

    def __init__(
        self,
        description: str,
        count: int,
        labels: Sequence[int] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.description = description
        self.classes = classes
        self._count = count
        self._labels = labels

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        name = self.describe(index)
        label = None if self._labels is None else self._labels[index]
        return Item(decode(self.read(index), name), label=label, name=name)

    @abstractmethod
    def describe(self, index: int) -> str:
        """What to call image `index` in a message."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of image `index`, as they are stored; safe to call from several threads."""


class ImageFolder(EncodedImages):
    """All images below a folder, sorted by path.

    If every image lies in a subfolder, the names of the first-level folders are the classes, numbered in sorted order.
    Folders called train, val, test and the like are splits rather than classes: `split` picks one, and has to if there
    are several. Hidden files are passed over. Raises DifflabError if there is no folder, no image, or no such split.
    """

    def __init__(self, path: str | Path, *, split: str | None = None) -> None:
        self._root = Path(path)
        if not self._root.is_dir():
            raise DifflabError(f"{path}: no such folder; a folder of images was expected.")
        found = arrange(str(path), _image_files(self._root), split)
        self._names = found.names
        description = f"{counted(len(found.names))}{in_classes(found.classes)} in folder {path}"
        super().__init__(description, len(found.names), found.labels, found.classes)

    def describe(self, index: int) -> str:
        return str(self._root / self._names[index])

    def read(self, index: int) -> bytes:
        return read_file(self._root / self._names[index])


class Arrangement(NamedTuple):
    """Names of images in order, and the classes that their folders say."""

    names: list[str]
    labels: list[int] | None
    classes: tuple[str, ...] | None


def arrange(source: str, names: Iterable[str], split: str | None, *, wrapped: bool = False) -> Arrangement:
    """Sort `names` (paths with forward slashes, relative to `source`), pick a split and number the classes.

    The rules are those of `ImageFolder`. `wrapped` first strips the folders that all names share, as archives have
    them. Class numbers are those of all splits together, so that they agree between splits.
    """
    paths = sorted(tuple(name.split("/")) for name in names)
    if not paths:
        raise DifflabError(f"{source}: no images found; files ending in {', '.join(sorted(SUFFIXES))} were expected.")
    depth = _wrapper_depth(paths) if wrapped else 0
    split = split or _implied_split(source, {path[depth] for path in paths})
    chosen, related = paths, paths
    if split is not None:
        chosen = [path for path in paths if path[depth] == split]
        related = [path for path in paths if path[depth] == split or _SPLIT.fullmatch(path[depth])]
        if not chosen:
            tops = sorted({path[depth] for path in paths if len(path) > depth + 1})
            raise DifflabError(
                f"{source}: no split {split!r}; its folders are: {', '.join(tops[:10]) or 'none'}; "
                "choose one of them, or leave the split out (split: null in a recipe) for all pictures."
            )
        depth += 1
    files = ["/".join(path) for path in chosen]
    if any(len(path) == depth + 1 for path in chosen):
        return Arrangement(files, None, None)
    classes = tuple(sorted({path[depth] for path in related if len(path) > depth + 1}))
    number = {name: index for index, name in enumerate(classes)}
    return Arrangement(files, [number[path[depth]] for path in chosen], classes)


def is_image_name(path: str) -> bool:
    """Whether a path (forward slashes) looks like an image that is not hidden."""
    parts = path.split("/")
    return os.path.splitext(parts[-1])[1].lower() in SUFFIXES and not any(part.startswith(".") for part in parts)


def read_file(path: Path) -> bytes:
    """The bytes of a file; DifflabError if the system refuses."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DifflabError(f"{path}: cannot be read ({error.strerror}).") from error


def counted(count: int) -> str:
    """`"1 image"`, `"2,000 images"`."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def in_classes(classes: tuple[str, ...] | None) -> str:
    """`" in 10 classes"`, or nothing."""
    return "" if classes is None else f" in {len(classes):,} class{'' if len(classes) == 1 else 'es'}"


def _image_files(root: Path) -> Iterator[str]:
    for folder, files in folders_below(root):
        below = folder.relative_to(root).as_posix()
        for file in files:
            name = file if below == "." else f"{below}/{file}"
            if is_image_name(name):
                yield name


def _wrapper_depth(paths: list[tuple[str, ...]]) -> int:
    """How many leading folders all paths share, not counting a folder that names a split and what lies below it."""
    first, last = paths[0], paths[-1]
    depth = 0
    while depth < min(len(first), len(last)) - 1 and first[depth] == last[depth] and not _SPLIT.fullmatch(first[depth]):
        depth += 1
    return depth


def _implied_split(source: str, tops: set[str]) -> str | None:
    if not all(_SPLIT.fullmatch(top) for top in tops):
        return None
    if len(tops) > 1:
        raise DifflabError(
            f"{source}: holds several splits ({', '.join(sorted(tops))}); say which one with split (--split)."
        )
    return next(iter(tops))
