from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from difflab.data.dataset import BrokenImageError, Crop, Item, Transform, Transformed, batches
from difflab.errors import DifflabError


class Listed:
    """A data set from a list, in which None is a broken image."""

    description = "a list"
    classes = None

    def __init__(self, items: Sequence[Item | None], slow: bool = False) -> None:
        self.items, self.slow, self.reads = items, slow, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        self.reads += 1
        if self.slow:
            time.sleep(random.random() / 500)
        item = self.items[index]
        if item is None:
            raise BrokenImageError(f"image {index} is broken")
        return item


def numbered(count: int, **fields: object) -> list[Item | None]:
    """Items whose pixels are their number."""
    return [Item(np.full((2, 2, 3), i, np.uint8), name=f"item {i}", **fields) for i in range(count)]


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose channel 0 is its row and channel 1 its column."""
    row, column = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([row, column, np.zeros_like(row)], axis=-1)


def triangle_weights(old: int, new: int) -> np.ndarray:
    """Matrix (new, old) of the antialiased linear filter: a triangle as wide as two output pixels (two input ones if
    the image grows), centred on each output pixel and normalised."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width", "size"), [(40, 28, 9), (13, 17, 32)])
def test_resizing_is_the_antialiased_triangle_filter(
    height: int, width: int, size: int, rng: np.random.Generator
) -> None:
    x = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exact = np.einsum("yh,xw,hwc->yxc", triangle_weights(height, size), triangle_weights(width, size), x)
    # Pillow rounds after each of the two passes.
    assert np.abs(Transform(size, "stretch")(x) - exact).max() <= 1.01


@pytest.mark.parametrize(("width", "left"), [(10, 0), (11, 0), (12, 1), (13, 2), (15, 2), (17, 4)])
def test_centre_crop_offset_is_rounded_half_to_even(width: int, left: int) -> None:
    lying = Transform(10)(coordinates(10, width))
    standing = Transform(10)(coordinates(width, 10))
    assert lying[0, :, 1].tolist() == list(range(left, left + 10))
    assert standing[:, 0, 0].tolist() == list(range(left, left + 10))


def test_long_side_is_truncated_not_rounded(rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (100, 151, 3), dtype=np.uint8)
    # 66 * 151 / 100 = 99.66; the crop starts at round((99 - 66) / 2) = round(16.5) = 16
    resized = np.asarray(Image.fromarray(x).resize((99, 66), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Transform(66)(x), resized[:, 16:82])


def test_celeba_crop_takes_rows_57_to_184_and_columns_25_to_152() -> None:
    cropped = Transform(128, "celeba")(coordinates(218, 178))
    assert cropped[:, 0, 0].tolist() == list(range(57, 185))
    assert cropped[0, :, 1].tolist() == list(range(25, 153))


def test_celeba_crop_refuses_images_of_another_size_by_name() -> None:
    dataset = Transformed(Listed([Item(coordinates(178, 218), name="000007.jpg")]), Transform(64, "celeba"))
    with pytest.raises(DifflabError, match=r"000007\.jpg.*218x178.*178x218"):
        dataset[0]


@pytest.mark.parametrize("crop", ["center-short", "stretch"])
def test_an_image_of_the_right_size_is_left_alone(crop: Crop, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Transform(32, crop)(x), x)


def test_transform_refuses_no_size() -> None:
    with pytest.raises(DifflabError, match="size 0"):
        Transform(0)


def test_transformed_keeps_label_text_and_name() -> None:
    item = Item(coordinates(8, 8), label=3, text="a cat", name="here")
    dataset = Transformed(Listed([item]), Transform(4))
    assert (dataset[0].label, dataset[0].text, dataset[0].name) == (3, "a cat", "here")
    assert dataset[0].x.shape == (4, 4, 3)
    assert dataset.description.startswith("a list")
    assert "4x4" in dataset.description


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_keep_the_order_and_lose_nothing(workers: int) -> None:
    found = list(batches(Listed(numbered(23), slow=True), 5, workers=workers))
    assert [len(batch.x) for batch in found] == [5, 5, 5, 5, 3]
    assert np.concatenate([batch.x for batch in found])[:, 0, 0, 0].tolist() == list(range(23))
    assert found[0].x.dtype == np.uint8


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_an_endless_order_without_reading_far_ahead(workers: int) -> None:
    dataset = Listed(numbered(3))
    stream = batches(dataset, 4, order=itertools.cycle([2, 0, 1]), workers=workers)
    assert next(stream).x[:, 0, 0, 0].tolist() == [2, 0, 1, 2]
    assert dataset.reads <= 4 + 1 + 2 * workers
    stream.close()


def test_labels_and_texts_are_given_only_if_every_item_has_one() -> None:
    labelled, bare = numbered(2, label=7, text="x"), numbered(2)
    whole = next(batches(Listed(labelled), 2))
    assert whole.labels is not None
    assert whole.labels.tolist() == [7, 7]
    assert whole.labels.dtype == np.int64
    assert whole.texts == ("x", "x")
    mixed = next(batches(Listed([labelled[0], bare[1]]), 2))
    assert mixed.labels is None
    assert mixed.texts is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_the_batches_by_its_message(workers: int) -> None:
    with pytest.raises(BrokenImageError, match="image 1 is broken"):
        list(batches(Listed([*numbered(1), None, *numbered(1)]), 2, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_up_to_the_last_one(workers: int) -> None:
    dataset = Listed([None, *numbered(2), None, *numbered(2), None, None])
    found = list(batches(dataset, 2, workers=workers, skip_broken=True))
    assert [len(batch.x) for batch in found] == [2, 2]
    assert found[-1].skipped == 4


def test_nothing_but_broken_images_is_a_mistake() -> None:
    with pytest.raises(DifflabError, match="3 are broken"):
        list(batches(Listed([None] * 3), 2, skip_broken=True))


def test_mixed_sizes_name_two_images_and_their_sizes_even_across_batches() -> None:
    small, wide = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)
    dataset = Listed([Item(small, name="a.png"), Item(small, name="b.png"), Item(wide, name="c.png")])
    with pytest.raises(DifflabError, match=r"a\.png is 4x4, c\.png is 6x4"):
        list(batches(dataset, 2))
