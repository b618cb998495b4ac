"""MS-COCO's images with their captions, in the layouts of 2014 and of 2017.

A folder holds `annotations/captions_<split>.json` and the images as `<split>/<file_name>`, as the official archives
unpack.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from difflab.data.dataset import Item
from difflab.data.images import EncodedImages, counted, read_file
from difflab.errors import DifflabError

SPLITS = ("train2014", "val2014", "train2017", "val2017")


class CocoCaptions(EncodedImages):
    """The images of one split in ascending order of their ids, each with its captions in the order of the file.

    `split` is one of `SPLITS`, or `train` or `val` where only one year is there; it may be left out where only one
    split is. Images without captions are left out (the official splits have none), and white space in captions counts
    as one space. Raises DifflabError if there is no such split, its annotations are not of COCO's form, or an image
    that they name is missing.
    """

    def __init__(self, path: str | Path, *, split: str | None = None) -> None:
        root = Path(path)
        split = _chosen(root, split)
        file, self._folder = _annotations(root, split), root / split
        self._names, self._captions = _read(file)
        silent = [image for image in self._names if image not in self._captions]
        self._ids = sorted(image for image in self._names if image in self._captions)
        if not self._ids:
            raise DifflabError(f"{file}: not one of its images has a caption; unpack the official file.")
        self._check_images(file)
        said = f"{counted(len(self._ids))} of MS-COCO ({split}) in {path}, {self.caption_count:,} captions"
        left = f", {counted(len(silent))} without any left out" if silent else ""
        super().__init__(said + left, len(self._ids))

    @property
    def caption_count(self) -> int:
        """Captions of all images together."""
        return sum(map(len, self._captions.values()))

    def captions_of(self, index: int) -> tuple[str, ...]:
        """The captions of image `index`."""
        return tuple(self._captions[self._ids[index]])

    def __getitem__(self, index: int) -> Item:
        """As the images are; `text` is the first caption."""
        item = super().__getitem__(index)
        return Item(item.x, text=self.captions_of(index)[0], name=item.name)

    def describe(self, index: int) -> str:
        return str(self._folder / self._names[self._ids[index]])

    def read(self, index: int) -> bytes:
        return read_file(self._folder / self._names[self._ids[index]])

    def _check_images(self, file: Path) -> None:
        there = {entry.name for entry in self._folder.iterdir()} if self._folder.is_dir() else set()
        missing = [name for name in (self._names[image] for image in self._ids) if name not in there]
        if missing:
            raise DifflabError(
                f"{file}: names {counted(len(self._ids))}, of which {len(missing):,} "
                f"{'is' if len(missing) == 1 else 'are'} not in {self._folder} (first: {missing[0]}); "
                f"unpack the whole {self._folder.name}.zip there."
            )


def is_coco(path: Path) -> bool:
    """Whether `path` is a folder with captions of MS-COCO."""
    return any(_annotations(path, split).is_file() for split in SPLITS)


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"captions_{split}.json"


def _chosen(root: Path, split: str | None) -> str:
    """The split that is meant, of those here: with annotations and, unless that is so of none, a folder of images."""
    told = [name for name in SPLITS if _annotations(root, name).is_file()]
    here = [name for name in told if (root / name).is_dir()] or told
    if not here:
        raise DifflabError(
            f"{root}: no captions of MS-COCO here; annotations/captions_<split>.json was expected, of "
            f"{', '.join(SPLITS[:-1])} or {SPLITS[-1]}."
        )
    if split in told:
        return split
    meant = [name for name in here if split is None or (split in ("train", "val") and name.startswith(split))]
    if not meant:
        raise DifflabError(f"{root}: no split {split!r} of MS-COCO here; choose {' or '.join(here)}.")
    if len(meant) > 1:
        raise DifflabError(f"{root}: holds several splits ({', '.join(meant)}); say which one with split (--split).")
    return meant[0]


def _read(file: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """The file names of images, and the captions of those that have some, by the images' ids."""
    try:
        content = json.loads(read_file(file))
        names = {_of_type(image["id"], int): _of_type(image["file_name"], str) for image in content["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            caption = " ".join(_of_type(annotation["caption"], str).split())
            if annotation["image_id"] not in names:
                raise ValueError(f"image {annotation['image_id']} has a caption, but is not listed")
            if caption:
                captions.setdefault(annotation["image_id"], []).append(caption)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise DifflabError(
            f"{file}: not captions in MS-COCO's form ({found[:100]}), which are `images` with id and file_name, and "
            "`annotations` with image_id and caption; unpack the official file again."
        ) from error
    return names, captions


def _of_type(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} stands where {kind.__name__} was expected")
    return value
