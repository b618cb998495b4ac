"""Samples out: one .npz, one .png grid, clips as .gif or .mp4, or a folder of .png files."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from difflab.errors import DifflabError
from difflab.files import check_writable, writing

FRAME_RATE = 8  # frames a second at which clips play
_ENDINGS = (".npz", ".png", ".gif", ".mp4")
_STILL = "these samples are pictures, which do not play; save them as .png."
_MARGIN = 2
_PLAYED_SIDE = 512
_BACKGROUND = 255
_GRID_LIMIT = 4096  # more tiles than this make no picture that anyone could look at


def save_samples(path: str | Path, images: np.ndarray | Iterable[np.ndarray], labels: np.ndarray | None = None) -> int:
    """Write images or clips where and how `path` says, and return their number.

    `images` is uint8 (N, H, W, C), of clips (N, F, H, W, C), with C of 1 or 3, or an iterable of such batches, of which
    one is held at a time.
    - `.npz`: `arr_0` the images, stored uncompressed, and `arr_1` the `labels` (N,) if given (ADM's layout);
    - `.png`: one nearly square grid; clips lie in rows, frame after frame;
    - `.gif`, `.mp4`: one nearly square grid of clips that play, 8 frames a second. Both lose detail, so score others;
    - no ending, or an existing folder: `000000.png`, `000001.png`, ...; those of clips play (APNG) and lose nothing.
    Only `.npz` has a place for labels. A file is there whole or not at all, and so are all pictures of a folder unless
    the process is killed. Raises DifflabError for another ending, for
    images that are not such arrays, for no images, for a number of labels that is not that of the images, and for a
    folder in which numbered pictures lie already.
    """
    path = Path(path)
    stream = _checked([images] if isinstance(images, np.ndarray) else images)
    if path.is_dir() or path.suffix == "":
        return _save_folder(path, stream)
    if path.suffix == ".npz":
        return _save_npz(path, stream, labels)
    if path.suffix in _ENDINGS:
        return _save_grid(path, stream)
    raise DifflabError(_unknown_ending(path))


def _unknown_ending(path: Path) -> str:
    return (
        f"{path}: unknown ending {path.suffix!r}; use .npz, .png (a grid), .gif or .mp4 (clips), or a folder's name "
        "without ending."
    )


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images (N, H, W, C) as one picture (H', W', C): in rows of `columns`, ceil(sqrt(N)) by default, with white
    margins of 2 pixels between."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    step_y, step_x = height + _MARGIN, width + _MARGIN
    canvas = np.full((rows * step_y + _MARGIN, columns * step_x + _MARGIN, channels), _BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * step_y + _MARGIN, index % columns * step_x + _MARGIN
        canvas[top : top + height, left : left + width] = image
    return canvas


def check_grid(path: Path, count: int) -> None:
    """Raise DifflabError if `count` images are too many for a grid at `path`."""
    if count > _GRID_LIMIT:
        raise DifflabError(f"{path}: a grid takes up to {_GRID_LIMIT:,} images; save more as .npz or into a folder.")


def check_target(path: Path, count: int, clips: bool) -> None:
    """Raise DifflabError where `count` images, or clips, cannot be saved at `path`, before any is made.

    That is for all that `save_samples` would refuse, and for places that cannot be written to.
    """
    if re.match(r"[a-z0-9]{2,}:/", str(path)):  # a Path has lost the second slash
        raise DifflabError(f"{path}: samples are written to this machine; give a path here, and copy them from it.")
    if path.is_dir() or path.suffix == "":
        _check_folder(path)
        path /= "000000.png"
    elif path.suffix not in _ENDINGS:
        raise DifflabError(_unknown_ending(path))
    elif path.suffix in (".gif", ".mp4") and not clips:
        raise DifflabError(f"{path}: {_STILL}")
    elif path.suffix != ".npz":
        check_grid(path, count)
    check_writable(path)


def _checked(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The batches, as long as they are images of one shape; at least one image."""
    shape: tuple[int, ...] | None = None
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim not in (4, 5) or batch.shape[-1] not in (1, 3):
            raise DifflabError(
                f"Samples of type {batch.dtype} and shape {batch.shape} cannot be saved as images;"
                " uint8 (N, H, W, 3), or (N, F, H, W, 3) of clips, was expected."
            )
        shape = shape or batch.shape[1:]
        if batch.shape[1:] != shape:
            raise DifflabError(f"Samples of mixed shapes, {shape} and {batch.shape[1:]}, cannot be saved together.")
        yield batch
    if shape is None:
        raise DifflabError("There are no samples to save.")


def _save_npz(path: Path, batches: Iterator[np.ndarray], labels: np.ndarray | None) -> int:
    # An array's header needs the count, which only the end of the stream tells: the pixels wait in a temporary file.
    with writing(path) as file, tempfile.TemporaryFile(dir=path.parent) as pixels:
        count, shape = 0, ()
        for batch in batches:
            pixels.write(np.ascontiguousarray(batch).data)
            count, shape = count + len(batch), batch.shape[1:]
        if labels is not None and labels.shape != (count,):
            raise DifflabError(
                f"{path}: {count} images and labels of shape {labels.shape}; one label for each was expected."
            )
        pixels.seek(0)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(pixels, member, 1 << 20)
            if labels is not None:
                with archive.open("arr_1.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(labels, np.int64), allow_pickle=False)
    return count


def _save_grid(path: Path, batches: Iterator[np.ndarray]) -> int:
    collected: list[np.ndarray] = []
    count = 0
    for batch in batches:
        collected.append(batch)
        count += len(batch)
        check_grid(path, count)
    samples = np.concatenate(collected)
    if samples.ndim == 4 and path.suffix != ".png":
        raise DifflabError(f"{path}: {_STILL}")
    if samples.ndim == 4:
        _save_png(path, grid(samples), sync=True)
    elif path.suffix == ".png":
        _save_png(path, grid(samples.reshape(-1, *samples.shape[2:]), samples.shape[1]), sync=True)
    else:
        _save_playing(path, np.stack([grid(frame) for frame in samples.swapaxes(0, 1)]))
    return count


def _save_playing(path: Path, frames: np.ndarray) -> None:
    """Frames (F, H, W, C) as a film, again and again as .gif."""
    frames = frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames
    times = max(1, _PLAYED_SIDE // max(frames.shape[1:3]))  # small pictures enlarged by whole pixels
    frames = frames.repeat(times, axis=1).repeat(times, axis=2)
    with writing(path) as file:
        if path.suffix == ".gif":
            first, *rest = map(Image.fromarray, frames)
            first.save(file, "GIF", save_all=True, append_images=rest, duration=1000 // FRAME_RATE, loop=0)
            return
        import av

        even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]  # as the codec needs it
        with av.open(file, "w", format="mp4") as film:
            stream = film.add_stream("libx264", rate=FRAME_RATE)
            stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
            for frame in even:
                film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            film.mux(stream.encode())


def _save_folder(folder: Path, batches: Iterator[np.ndarray]) -> int:
    _check_folder(folder)
    new = not folder.exists()
    count = 0
    try:
        for batch in batches:
            for image in batch:
                _save_png(folder / f"{count:06d}.png", image, sync=False)
                count += 1
    except BaseException:  # a second try would take the pictures of this one for another's
        for number in range(count):
            (folder / f"{number:06d}.png").unlink(missing_ok=True)
        if new and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return count


def _check_folder(folder: Path) -> None:
    """Raise DifflabError where numbered pictures are already: whose would they be afterwards?"""
    there = sum(path.stem.isdecimal() for path in folder.glob("*.png"))
    if there:
        raise DifflabError(f"{folder}: holds {there:,} numbered pictures already; delete them or choose another.")


def _save_png(path: Path, image: np.ndarray, *, sync: bool) -> None:
    first, *rest = (
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        for frame in (image if image.ndim == 4 else image[None])
    )
    plays = {"save_all": True, "append_images": rest, "duration": 1000 // FRAME_RATE, "loop": 0} if rest else {}
    with writing(path, sync=sync) as file:
        first.save(file, "PNG", **plays)
