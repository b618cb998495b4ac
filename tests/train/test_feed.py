from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from difflab.data.clips import Window, open_clips
from difflab.data.dataset import Item
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.train import feed as feed_module
from difflab.train.draws import step_seed
from difflab.train.feed import Batch, Feed


class Numbers:
    """Picture i is filled with i on its left half and zero on its right."""

    description, classes = "numbers", None

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        x = np.zeros((4, 4, 3), np.uint8)
        x[:, :2] = index + 1
        return Item(x, label=index % 3 if index % 2 else None)


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("pictures", "labels", "indices"))


@pytest.fixture(params=["decoded", "read again"])
def feed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Feeds of a small data set, kept in memory or decoded each time."""
    if request.param == "read again":
        monkeypatch.setattr(feed_module, "_IN_MEMORY", 0)
    return lambda **options: Feed(Numbers(), 4, seed=1, **options)


def test_batch_s_is_the_same_after_a_restart(feed):
    first = feed(flip=True)
    batches = [first.at(s) for s in range(8)]
    again = feed(flip=True)
    assert all(equal(again.at(s), batches[s]) for s in (5, 6, 2, 7))


def test_pictures_and_labels_are_those_of_their_indices(feed):
    batch = feed().at(0)
    items = [Numbers()[i] for i in batch.indices]
    assert np.array_equal(batch.pictures, np.stack([item.x for item in items]))
    assert batch.labels.tolist() == [-1 if item.label is None else item.label for item in items]


def test_an_epoch_is_a_permutation_and_the_next_another_one(feed):
    order = np.concatenate([feed().indices(s) for s in range(5)])  # two epochs of ten in five batches of four
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()


def test_another_seed_is_another_order():
    a, b = (Feed(Numbers(100), 50, seed=s).indices(0) for s in (0, 1))
    assert a.tolist() != b.tolist()


def test_devices_share_each_step_without_overlap():
    alone = Feed(Numbers(), 4, seed=1)
    pair = [Feed(Numbers(), 2, seed=1, rank=r, world=2) for r in range(2)]
    for step in range(5):
        together = np.concatenate([f.indices(step) for f in pair])
        assert np.array_equal(together, alone.indices(step))


def test_shapes_never_repeat():
    world = Feed(Shapes(size=8, count=4), 3, seed=0)
    order = np.concatenate([world.indices(s) for s in range(20)])
    assert len(set(order)) == 60
    batch = world.at(3)
    assert np.array_equal(batch.pictures, Shapes(size=8).batch(batch.indices)[0])


def test_half_of_the_pictures_are_mirrored_left_to_right():
    plain, mirrored = (Feed(Numbers(200), 200, seed=0, flip=f) for f in (False, True))
    before, after = (
        np.concatenate([plain.at(s).pictures for s in range(10)]),
        np.concatenate([mirrored.at(s).pictures for s in range(10)]),
    )
    same = (after == before).all((1, 2, 3))
    turned = (after == before[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ turned).all()
    assert abs(turned.mean() - 0.5) < 5 * 0.5 / len(turned) ** 0.5


def test_step_seeds_differ_by_seed_step_and_device_and_fit_63_bits():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(100) for rank in range(3)}
    assert len(seeds) == 900
    assert all(0 <= s < 2**63 for s in seeds)


def test_frames_of_other_clips_follow_each_clip():
    world = ShapesClips(size=16, frames=4, count=50)
    plain, beside = (Feed(world, 3, seed=1, images=k) for k in (0, 2))
    batch = beside.at(7)
    assert batch.pictures.shape == (3, 6, 16, 16, 3)
    np.testing.assert_array_equal(batch.pictures[:, :4], plain.at(7).pictures)
    every = {frame.tobytes() for frame in world.batch(np.arange(50))[0].reshape(-1, 16, 16, 3)}
    assert all(frame.tobytes() in every for frame in batch.pictures[:, 4:].reshape(-1, 16, 16, 3))
    np.testing.assert_array_equal(batch.pictures, Feed(world, 3, seed=1, images=2).at(7).pictures)
    assert (batch.pictures[:, 4:] != beside.at(8).pictures[:, 4:]).any()


@pytest.mark.parametrize("images", [0, 2])
def test_devices_share_windows_of_films_and_frames_beside_them(tmp_path, images):
    for film in range(3):
        for number in range(30):
            path = tmp_path / f"film{film}" / f"{number:02d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((16, 16, 3), 80 * film + 2 * number, np.uint8)).save(path)
    films = open_clips(tmp_path, Window(4), 16)
    alone = Feed(films, 6, seed=1, flip=True, images=images)
    parts = [Feed(films, 3, seed=1, flip=True, images=images, rank=rank, world=2).at(2).pictures for rank in range(2)]
    assert alone.at(2).pictures.shape[1] == 4 + images
    np.testing.assert_array_equal(np.concatenate(parts), alone.at(2).pictures)
    np.testing.assert_array_equal(
        Feed(films, 3, seed=1, flip=True, images=images, rank=1, world=2).alone().at(2).pictures, alone.at(2).pictures
    )
    assert (alone.at(2).pictures != alone.at(3).pictures).any()
