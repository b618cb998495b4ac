"""CelebA: the aligned images with the official partition."""

from __future__ import annotations

from pathlib import Path

from difflab.data.images import EncodedImages, counted, is_image_name, read_file
from difflab.errors import DifflabError

IMAGE_FOLDER = "img_align_celeba"

_PARTITION_FILE = "list_eval_partition.txt"
_PARTITION_PLACES = (
    "",
    "Eval",
    "..",
    "../Eval",
)  # beside the image folder or above it, as the official archives unpack
_PARTITION = {"train": "0", "valid": "1", "test": "2"}


class CelebA(EncodedImages):
    """The aligned CelebA images (178 x 218), sorted by name; the crop is `Transform(size, "celeba")`.

    `path` is `img_align_celeba`, the folder that holds it, or the folder that holds `Img` and `Eval`. With
    `list_eval_partition.txt` beside it `split` picks "train" (if not said), "valid" or "test"; without the file all
    images are taken. Raises DifflabError if there are no images, a listed image is missing, or a split is asked for and
    there is no list.
    """

    def __init__(self, path: str | Path, *, split: str | None = None) -> None:
        if split not in (None, *_PARTITION):
            raise DifflabError(f"{path}: CelebA has no split {split!r}; choose train, valid or test.")
        self._folder = _image_folder(Path(path))
        names = sorted(entry.name for entry in self._folder.iterdir() if is_image_name(entry.name))
        if not names:
            raise DifflabError(
                f"{self._folder}: no images found; the aligned CelebA images (000001.jpg ...) were expected."
            )
        partition = _partition_file(self._folder)
        if partition is not None:
            split = split or "train"
            names = _listed(partition, names, split)
        elif split is not None:
            raise DifflabError(
                f"{self._folder}: split {split!r} needs the official {_PARTITION_FILE}; put it beside this folder."
            )
        self._names = names
        part = split or "all, there is no partition file"
        super().__init__(f"{counted(len(names))} of CelebA ({part}) in {self._folder}", len(names))

    def describe(self, index: int) -> str:
        return str(self._folder / self._names[index])

    def read(self, index: int) -> bytes:
        return read_file(self._folder / self._names[index])


def is_celeba(path: Path) -> bool:
    """Whether `path` is, or leads to, the folder `img_align_celeba`."""
    return path.is_dir() and _innermost(path).name == IMAGE_FOLDER


def partition_file(path: Path) -> Path | None:
    """The list of splits that belongs to the CelebA at `path`, or None."""
    return _partition_file(_innermost(path))


def _image_folder(path: Path) -> Path:
    path = _innermost(path)
    if path.name != IMAGE_FOLDER or not path.is_dir():
        raise DifflabError(f"{path}: no folder {IMAGE_FOLDER} here; unpack img_align_celeba.zip into it.")
    return path


def _innermost(path: Path) -> Path:
    """Follow the folders of the official archives: Img/img_align_celeba, where the latter may be there twice."""
    while inner := next((path / name for name in ("Img", IMAGE_FOLDER) if (path / name).is_dir()), None):
        path = inner
    return path


def _partition_file(folder: Path) -> Path | None:
    candidates = [folder.parent / place / _PARTITION_FILE for place in _PARTITION_PLACES]
    return next((path for path in candidates if path.is_file()), None)


def _listed(partition: Path, names: list[str], split: str) -> list[str]:
    """The images that the partition file puts into `split`; PNG versions of them count as well."""
    by_stem = {Path(name).stem: name for name in names}
    stems = []
    for number, line in enumerate(partition.read_text().splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _PARTITION.values():
            raise DifflabError(f"{partition}, line {number}: {line!r} found where a name and 0, 1 or 2 were expected.")
        if fields[1] == _PARTITION[split]:
            stems.append(Path(fields[0]).stem)
    missing = [stem for stem in stems if stem not in by_stem]
    if missing or not stems:
        raise DifflabError(
            f"{partition}: lists {len(stems):,} images for {split}, of which {len(missing):,} are not there"
            f"{f' (first: {missing[0]})' if missing else ''}; unpack the whole archive."
        )
    return [by_stem[stem] for stem in stems]
