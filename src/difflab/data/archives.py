"""Images in one file: a tar archive of image files, or a .npz of pixels."""

from __future__ import annotations

import gzip
import io
import mmap
import posixpath
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

from difflab.data.dataset import Item
from difflab.data.images import EncodedImages, arrange, counted, in_classes, is_image_name
from difflab.errors import DifflabError

_GZIP_MAGIC = b"\x1f\x8b"
_IN_MEMORY = 1 << 30  # a decompressed archive beyond this many bytes goes to a temporary file
_ZIP_LOCAL_HEADER = struct.Struct("<26xHH")  # the lengths of the name and of the extra field that follow it

# What a damaged archive raises; the ValueError is that of mapping an empty file.
UNREADABLE_TAR = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)


class ImageTar(EncodedImages):
    """The images of a .tar or .tar.gz archive, sorted by path; nothing is ever extracted to a path.

    Folders that all images share are stripped, then classes and splits are read from the folders as in `ImageFolder`. A
    gzipped archive is decompressed once, into memory or, from 1 GiB on, into a temporary file. Raises DifflabError if
    the archive is damaged or holds no images.
    """

    def __init__(self, path: str | Path, *, split: str | None = None) -> None:
        self._path = Path(path)
        try:
            self._content = _uncompressed(self._path)
            places = _index(self._content)
        except UNREADABLE_TAR as error:
            raise DifflabError(f"{path}: not a complete tar archive ({error}); copy or download it again.") from error
        except OSError as error:
            raise DifflabError(f"{path}: cannot be read ({error.strerror}).") from error
        found = arrange(str(path), places, split, wrapped=True)
        self._names = found.names
        self._places = [places[name] for name in found.names]
        description = f"{counted(len(found.names))}{in_classes(found.classes)} in archive {path}"
        super().__init__(description, len(found.names), found.labels, found.classes)

    def describe(self, index: int) -> str:
        return f"{self._path}, member {self._names[index]}"

    def read(self, index: int) -> bytes:
        offset, size = self._places[index]
        return self._content[offset : offset + size]


class NpzImages:
    """Images as the array `arr_0` of an .npz: uint8 (N, H, W, 3), (N, H, W, 1) or (N, H, W); labels in `arr_1`, if any.

    Clips are (N, F, H, W, 3) or (N, F, H, W, 1).

    This is the layout of ADM's sample files. Pixels stay on the disk if they are stored uncompressed (as `np.savez` and
    difflab write them) and are read whole if not. Raises DifflabError if the file is damaged or holds something else.
    """

    classes = None

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            with zipfile.ZipFile(self._path) as archive:
                names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
                if "arr_0" not in names:
                    raise DifflabError(_no_images(path, names))
                self._x = _images(path, _array(archive, self._path, "arr_0.npy"))
                self._labels = None
                if "arr_1" in names:
                    self._labels = _labels(path, _array(archive, self._path, "arr_1.npy"), len(self._x))
        except DifflabError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error) as error:
            raise DifflabError(f"{path}: not a complete .npz file of plain arrays ({error}).") from error
        except OSError as error:
            raise DifflabError(f"{path}: cannot be read ({error.strerror}).") from error
        height, width = self._x.shape[-3:-1]
        what = counted(len(self._x))
        if self._x.ndim == 5:
            what = f"{len(self._x):,} clips of {self._x.shape[1]} frames"
        self.description = f"{what} of {width}x{height} in {path}"

    @property
    def frames(self) -> int | None:
        """Frames of each clip; None for images."""
        return self._x.shape[1] if self._x.ndim == 5 else None

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Item:
        x = np.asarray(self._x[index])
        label = None if self._labels is None else int(self._labels[index])
        return Item(np.broadcast_to(x, (*x.shape[:-1], 3)), label=label, name=f"{self._path}, image {index}")


def _uncompressed(path: Path) -> bytes | mmap.mmap:
    """The bytes of a tar, mapped from the disk unless they were gzipped and are few."""
    with open(path, "rb") as file:
        if file.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with gzip.open(path) as packed, SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        shutil.copyfileobj(packed, spool, 1 << 20)
        if spool.tell() > _IN_MEMORY:
            spool.flush()
            return mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)
        spool.seek(0)
        return spool.read()


def _index(content: bytes | mmap.mmap) -> dict[str, tuple[int, int]]:
    """Offset and size of every image in an uncompressed tar, by name; of two members with one name the later counts."""
    places = {}
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with tarfile.open(fileobj=file, mode="r:") as archive:
        end = 0
        for member in archive:
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            name = posixpath.normpath(member.name)
            if member.isreg() and is_image_name(name):
                places[name] = (member.offset_data, member.size)
    if content[end : end + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its closing block is missing")
    return places


def _array(archive: zipfile.ZipFile, path: Path, name: str) -> np.ndarray:
    """An array of an .npz, mapped from the disk if it is stored uncompressed."""
    info = archive.getinfo(name)
    with archive.open(info) as member:
        if info.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(member, allow_pickle=False)
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(member)
        header = member.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if 0 in shape:
        return np.empty(shape, dtype)
    offset = _content_offset(path, info) + header
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def _content_offset(path: Path, info: zipfile.ZipInfo) -> int:
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        name, extra = _ZIP_LOCAL_HEADER.unpack(file.read(_ZIP_LOCAL_HEADER.size))
    return info.header_offset + _ZIP_LOCAL_HEADER.size + name + extra


def _images(path: str | Path, array: np.ndarray) -> np.ndarray:
    """`array` as (N, H, W, 1 or 3), or (N, F, H, W, 1 or 3), or DifflabError."""
    if array.dtype != np.uint8:
        raise DifflabError(
            f"{path}: arr_0 holds {array.dtype} values; images are expected as uint8, 0 to 255. Convert and save again."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.shape[:1] == (0,):
        raise DifflabError(f"{path}: arr_0 holds no images.")
    if array.ndim not in (4, 5) or array.shape[-1] not in (1, 3) or 0 in array.shape:
        first = "; these seem to have their channels first, move them last" if array.shape[1:2] in ((1,), (3,)) else ""
        raise DifflabError(
            f"{path}: arr_0 has shape {array.shape}; images are expected as (N, H, W, 3) or (N, H, W), clips as "
            f"(N, F, H, W, 3){first}."
        )
    return array


def _labels(path: str | Path, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DifflabError(
            f"{path}: arr_1 has shape {labels.shape} and type {labels.dtype};"
            f" {count:,} integer class numbers were expected."
        )
    return labels


def _no_images(path: str | Path, names: list[str]) -> str:
    if {"mu", "sigma"} <= set(names):
        return f"{path}: holds statistics (mu, sigma) and no images; images are expected in an array arr_0."
    return f"{path}: no array arr_0; it holds {', '.join(names) or 'nothing'}, images are expected in arr_0."
