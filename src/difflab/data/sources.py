"""One door to all data: `open_data` finds out what a path or a name stands for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from difflab.data.archives import ImageTar, NpzImages
from difflab.data.celeba import CelebA, is_celeba, partition_file
from difflab.data.cifar10 import Cifar10, is_cifar10
from difflab.data.coco import CocoCaptions, is_coco
from difflab.data.dataset import Crop, Dataset, Transform, transformed
from difflab.data.images import ImageFolder
from difflab.data.latents import is_latents
from difflab.data.lsun import FfhqLmdb, LsunLmdb, is_ffhq, is_lmdb
from difflab.errors import DifflabError, see, suggest
from difflab.files import folders_below
from difflab.places import Place

SHAPES = "shapes"
_SHAPES_SIZE = 32
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Known:
    """A data set that has a name: how it is opened, its usual transform, and where it can be had."""

    open: Callable[[Path, str | None], Dataset]
    transform: Transform
    origin: str


def _cifar10(root: Path, split: str | None) -> Dataset:
    """Whatever form of CIFAR-10 lies in `root`."""
    forms = [root, *sorted(root.iterdir())]
    official = next((path for path in forms if is_cifar10(path)), None)
    if official is not None:
        return Cifar10(official, split=split)
    tars = [path for path in forms if path.name.endswith(_TAR_ENDINGS)]
    return ImageTar(tars[0], split=split or "train") if tars else ImageFolder(root, split=split or "train")


def _lsun(category: str) -> Callable[[Path, str | None], Dataset]:
    return lambda root, split: LsunLmdb(root, category=category, split=split)


KNOWN = {
    "cifar10": Known(
        _cifar10,
        Transform(32, "stretch"),
        "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "celeba": Known(
        lambda root, split: CelebA(root, split=split),
        Transform(64, "celeba"),
        "img_align_celeba (unpacked) and list_eval_partition.txt from"
        " https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
    "lsun-church": Known(
        _lsun("church_outdoor"),
        Transform(256, "center-short"),
        "church_outdoor_train_lmdb (unpacked) from https://github.com/fyu/lsun",
    ),
    "lsun-bedroom": Known(
        _lsun("bedroom"),
        Transform(256, "center-short"),
        "bedroom_train_lmdb (unpacked) from https://github.com/fyu/lsun",
    ),
    "coco": Known(
        lambda root, split: CocoCaptions(root, split=split),
        Transform(256, "center-short"),
        "the images and the annotations of 2014 or 2017 (unpacked: train2017, val2017, annotations) from"
        " https://cocodataset.org/#download",
    ),
    "imagenet": Known(
        lambda root, split: ImageFolder(root, split=split),
        Transform(256, "adm"),
        "ILSVRC2012 (unpacked, in the folders train and val) from https://image-net.org/download.php",
    ),
}


_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches"
REFERENCE_BATCHES = {  # of ADM's evaluation: 10,000 pictures and their statistics in one file
    "VIRTUAL_imagenet64_labeled.npz": f"{_ADM}/imagenet/64/VIRTUAL_imagenet64_labeled.npz",
    "VIRTUAL_imagenet128_labeled.npz": f"{_ADM}/imagenet/128/VIRTUAL_imagenet128_labeled.npz",
    "VIRTUAL_imagenet256_labeled.npz": f"{_ADM}/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
    "VIRTUAL_imagenet512.npz": f"{_ADM}/imagenet/512/VIRTUAL_imagenet512.npz",
    "VIRTUAL_lsun_bedroom256.npz": f"{_ADM}/lsun/bedroom/VIRTUAL_lsun_bedroom256.npz",
}


def open_data(
    source: str | Path, *, split: str | None = None, size: int | None = None, crop: Crop | None = None
) -> Dataset:
    """Open a data set by name or path; its `description` says what it was taken for.

    A name is `shapes` (the procedural world) or one of `KNOWN`, looked up in `$DIFFLAB_DATA/<name>` and brought to its
    usual size. A path is a folder of images, a .tar or .tar.gz, an .npz, an LSUN or FFHQ lmdb, a CelebA folder, MS-COCO
    with its captions, or CIFAR-10 in an official form; its images keep their size. `size` brings either to size x size,
    by the crop that belongs to the data or the one told (`Transform`). `split` picks a part where the data has parts.
    Write `./name` for a local folder that has the name of a data set. Raises DifflabError if nothing is there or it
    cannot be read.
    """
    if source == SHAPES:
        return _shapes(split, size)
    if isinstance(source, str) and source in KNOWN:
        known = KNOWN[source]
        transform = known.transform if size is None else Transform(size, crop or known.transform.crop)
        return transformed(known.open(_home(source), split), transform)
    path = Path(source).expanduser()
    if not path.exists() and path.name in REFERENCE_BATCHES:
        raise DifflabError(
            f"{source}: this reference batch is not here; get it from {REFERENCE_BATCHES[path.name]}, or give its "
            f"path; {see('how-to/missing')}."
        )
    if not path.exists():
        raise DifflabError(f"{source}: no such file, folder or data set.{suggest(str(source), [SHAPES, *KNOWN])}")
    dataset, usual = _open_path(path, split)
    if isinstance(dataset, NpzImages) and dataset.frames is not None:
        raise DifflabError(
            f"{source}: holds clips of {dataset.frames} frames, but pictures are needed; score clips by fvd or kvd."
        )
    return dataset if size is None else transformed(dataset, Transform(size, crop or usual))


def fingerprint(source: str | Path) -> str:
    """What tells whether a source still has the same pictures: a hash of its files' names, sizes and times.

    That of `shapes`, which has no files, is of the world's rules.
    """
    if source == SHAPES:
        from difflab.data.shapes import world_fingerprint

        return world_fingerprint()
    path = _home(source) if isinstance(source, str) and source in KNOWN else Path(source).expanduser()
    splits = partition_file(path) if is_celeba(path) else None  # may lie beside the pictures' folder
    digest = hashlib.sha256()
    for file in sorted({*_files(path), *([splits] if splits else [])}):
        state = file.stat()
        digest.update(f"{os.path.relpath(file, path)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    """All files below a folder, through links as readers go; a file itself."""
    if not path.is_dir():
        return [path]
    found = (folder / name for folder, names in folders_below(path) for name in names)
    return [file for file in found if file.name != "lock.mdb" and file.is_file()]  # an lmdb's lock, touched by readers


def data_root() -> Path:
    """The folder in which named data sets are looked up: `$DIFFLAB_DATA`, or `difflab/data` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DIFFLAB_DATA") or cache / "difflab" / "data")


def is_place(source: str | Path, folder: Place) -> bool:
    """Whether the data of `source`, a name or a path, lie in `folder`."""
    if str(source) == SHAPES or not isinstance(folder, Path):
        return False
    named = data_root() / source
    return (named if named.is_dir() else Path(source).expanduser()).resolve() == folder.resolve()


def _home(name: str) -> Path:
    home = data_root() / name
    if not home.is_dir():
        raise DifflabError(
            f"Data set {name!r} is not on this machine: get {KNOWN[name].origin} and put it into {home}; "
            f"{see('how-to/missing')}."
        )
    return home


def _open_path(path: Path, split: str | None) -> tuple[Dataset, Crop]:
    """The data set at an existing path, and the crop that belongs to it."""
    if is_latents(path):
        raise DifflabError(f"{path}: holds latents, which are for training alone; give pictures.")
    if is_lmdb(path):
        return (FfhqLmdb(path, split=split) if is_ffhq(path) else LsunLmdb(path, split=split)), "center-short"
    if is_celeba(path):
        return CelebA(path, split=split), "celeba"
    if is_cifar10(path):
        return Cifar10(path, split=split), "stretch"
    if is_coco(path):
        return CocoCaptions(path, split=split), "center-short"
    if path.is_dir():
        return ImageFolder(path, split=split), "center-short"
    if path.name.endswith(_TAR_ENDINGS):
        return ImageTar(path, split=split), "center-short"
    if path.suffix == ".npz":
        _refuse_split(path, split)
        return NpzImages(path), "center-short"
    raise DifflabError(
        f"{path}: not a form of data that difflab reads; expected is a folder of images, .tar, .tar.gz, .npz, an lmdb"
        " folder, MS-COCO's folder, or CIFAR-10 in an official form."
    )


def _shapes(split: str | None, size: int | None) -> Dataset:
    from difflab.data.shapes import Shapes

    _refuse_split(SHAPES, split)
    return Shapes(size=size or _SHAPES_SIZE)


def _refuse_split(source: object, split: str | None) -> None:
    if split is not None:
        raise DifflabError(f"{source}: has no splits, {split!r} was asked for; leave the split out.")
