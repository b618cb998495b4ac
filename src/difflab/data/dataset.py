"""What a data set is, how an image is brought to size, and how items become batches.

A `Dataset` is a sequence of `Item`s. Readers decode and nothing more; `transformed` puts a resize in front of any of
them, and `batches` stacks them, on threads if asked to. Only numpy and Pillow are used here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from difflab.errors import DifflabError

Crop = Literal["center-short", "stretch", "celeba", "adm"]

# The official crop of aligned CelebA images (178 wide, 218 high): rows 57..184 and columns 25..152.
_CELEBA_SHAPE = (218, 178)
_CELEBA_ROWS, _CELEBA_COLUMNS = slice(57, 185), slice(25, 153)


class BrokenImageError(DifflabError):
    """One image of a data set cannot be decoded; `batches(skip_broken=True)` counts it and goes on."""


@dataclass(frozen=True)
class Item:
    """One sample: `x` uint8 (H, W, 3) RGB, a class number and a caption where the source has them, and where it came
    from (`name`, for messages)."""

    x: np.ndarray
    label: int | None = None
    text: str | None = None
    name: str = ""


class Dataset(Protocol):
    """A sequence of items that can be read from several threads at once.

    `description` says what the source was taken for; `classes` names the labels, in the order of their numbers.
    """

    @property
    def description(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Item: ...


@runtime_checkable
class Captioned(Protocol):
    """A data set whose items have captions, one or several each."""

    def captions_of(self, index: int, /) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Transform:
    """Bring an image to `size` x `size` pixels as the official data loaders do.

    `crop` is one of
    - "center-short": the short side to `size`, then the central square (LSUN);
    - "stretch": both sides to `size`, whatever the shape was (CIFAR-10);
    - "celeba": rows 57..184 and columns 25..152 of a 178 x 218 image, then to `size`;
    - "adm": halved by a box filter while the short side is at least twice `size`, then the short side to `size` by a
      bicubic filter, then the central square (ADM and DiT, for ImageNet).

    But for "adm" resizing is Pillow's bilinear filter with antialiasing. Rounding is torchvision's: the long side is
    cut to an integer, the crop's offset is rounded half to even; with "adm" sides are rounded and the offset is cut.
    """

    size: int
    crop: Crop = "center-short"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DifflabError(f"Image size {self.size}: a positive number of pixels was expected.")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) to uint8 (size, size, 3). DifflabError if "celeba" meets an image that is not 178 x 218."""
        if self.crop == "stretch":
            return _resize(x, self.size, self.size)
        if self.crop == "celeba":
            if x.shape[:2] != _CELEBA_SHAPE:
                raise DifflabError(
                    f"the image is {_width_by_height(x)} where the CelebA crop expects the aligned images of 178x218;"
                    " use img_align_celeba."
                )
            return _resize(x[_CELEBA_ROWS, _CELEBA_COLUMNS], self.size, self.size)
        return self._adm(x) if self.crop == "adm" else self._center_short(x)

    def __str__(self) -> str:
        how = {
            "center-short": "short side and central square",
            "stretch": "stretched",
            "celeba": "CelebA crop",
            "adm": "ADM crop",
        }
        return f"{how[self.crop]} to {self.size}x{self.size}"

    def _adm(self, x: np.ndarray) -> np.ndarray:
        image = Image.fromarray(x)
        while min(image.size) >= 2 * self.size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = self.size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        top, left = (image.height - self.size) // 2, (image.width - self.size) // 2
        return np.asarray(image)[top : top + self.size, left : left + self.size]

    def _center_short(self, x: np.ndarray) -> np.ndarray:
        height, width = x.shape[:2]
        short = min(height, width)
        height, width = int(self.size * height / short), int(self.size * width / short)
        x = _resize(x, height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return x[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class Transformed:
    """A data set seen through a transform."""

    source: Dataset
    transform: Transform

    @property
    def description(self) -> str:
        return f"{self.source.description}, {self.transform}"

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        item = self.source[index]
        try:
            return replace(item, x=self.transform(item.x))
        except DifflabError as error:
            raise DifflabError(f"{item.name}: {error}") from error


@dataclass(frozen=True)
class CaptionedTransformed(Transformed):
    """A data set with captions seen through a transform."""

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Those of the source."""
        assert isinstance(self.source, Captioned), "`transformed` chooses"
        return self.source.captions_of(index)


def transformed(source: Dataset, transform: Transform) -> Transformed:
    """`source` seen through `transform`, with its captions where it has such."""
    return (CaptionedTransformed if isinstance(source, Captioned) else Transformed)(source, transform)


@dataclass(frozen=True)
class Batch:
    """Stacked items: `x` uint8 (N, H, W, 3); `labels` int64 (N,) and `texts` only if every item has one.

    `skipped` is the number of broken images passed over since the first batch; the last batch has the total.
    """

    x: np.ndarray
    labels: np.ndarray | None
    texts: tuple[str, ...] | None
    skipped: int


def batches(
    dataset: Dataset,
    size: int,
    *,
    order: Iterable[int] | None = None,
    workers: int = 0,
    skip_broken: bool = False,
) -> Iterator[Batch]:
    """Yield batches of `size` items (the last one may be smaller), in the data set's order or in the given `order`.

    `workers` threads decode ahead (0: none); the order does not depend on them and memory stays bounded, so `order` may
    be endless. Raises BrokenImageError at an image that cannot be decoded, unless `skip_broken`, and DifflabError if
    sizes differ or if nothing could be decoded.
    """
    first: Item | None = None
    items: list[Item] = []
    skipped = 0
    for outcome in _outcomes(dataset, range(len(dataset)) if order is None else order, workers, size):
        if isinstance(outcome, BrokenImageError):
            if not skip_broken:
                raise outcome
            skipped += 1
            continue
        first = first or outcome
        _check_same_size(first, outcome)
        # A full batch waits for the next good item, so that broken images at the very end still reach the last batch.
        if len(items) == size:
            yield _stack(items, skipped)
            items = []
        items.append(outcome)
    if not items:
        raise DifflabError(f"{dataset.description}: no image could be decoded, {skipped} are broken.")
    yield _stack(items, skipped)


def _outcomes(dataset: Dataset, order: Iterable[int], workers: int, ahead: int) -> Iterator[Item | BrokenImageError]:
    """What reading each index gave, in order. `ahead` items are read while the caller works on those before."""
    if workers == 0:
        for index in order:
            yield _attempt(dataset, index)
        return
    waiting: deque[Future[Item | BrokenImageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index in order:
                waiting.append(pool.submit(_attempt, dataset, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _attempt(dataset: Dataset, index: int) -> Item | BrokenImageError:
    try:
        return dataset[index]
    except BrokenImageError as error:
        return error


def _check_same_size(first: Item, item: Item) -> None:
    if item.x.shape != first.x.shape:
        raise DifflabError(
            f"Images of mixed sizes: {first.name} is {_width_by_height(first.x)}, {item.name} is"
            f" {_width_by_height(item.x)}; ask for one size (--size) or make them equal."
        )


def _stack(items: list[Item], skipped: int) -> Batch:
    labels = [item.label for item in items if item.label is not None]
    texts = tuple(item.text for item in items if item.text is not None)
    return Batch(
        x=np.stack([item.x for item in items]),
        labels=np.array(labels, dtype=np.int64) if len(labels) == len(items) else None,
        texts=texts if len(texts) == len(items) else None,
        skipped=skipped,
    )


def _resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    if x.shape[:2] == (height, width):
        return x
    return np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR))


def _width_by_height(x: np.ndarray) -> str:
    return f"{x.shape[1]}x{x.shape[0]}"
