from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from PIL import Image, ImageFilter

from difflab.data.shapes import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    COLUMNS,
    KINDS,
    ROWS,
    SIZES,
    Recognition,
    Scenes,
    Shapes,
    draw,
    every_scene,
    recognise,
    sample_scenes,
)

N = 512


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return sample_scenes(0, np.arange(N))


@pytest.fixture(scope="module")
def pictures(scenes: Scenes) -> np.ndarray:
    return draw(scenes)


@pytest.fixture(scope="module")
def seen(pictures: np.ndarray) -> Recognition:
    return recognise(pictures)


def equal(a: Scenes, b: Scenes) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scenes))


def present(scenes: Scenes) -> np.ndarray:
    """(N, 2) which shapes are there."""
    return scenes.count[:, None] > np.arange(2)


# --- the same scene for the same (seed, index)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_scene_i_is_the_same_in_any_batch(scenes, batch):
    for begin in range(0, 70, batch):
        rows = slice(begin, begin + batch)
        assert equal(sample_scenes(0, np.arange(N)[rows]), scenes[rows])


def test_scenes_can_be_asked_for_in_any_order_and_across_blocks():
    indices = np.array([5000, 3, 1024, 1023, 3])
    mixed = sample_scenes(0, indices)
    alone = [sample_scenes(0, np.array([i])) for i in indices]
    assert all(equal(mixed[i : i + 1], scene) for i, scene in enumerate(alone))


@pytest.mark.parametrize(("a", "b"), [(0, 1), (2**64 - 2, 2**64 - 1)])
def test_another_seed_is_another_world(a, b):
    indices = np.arange(100)
    labels = [sample_scenes(seed, indices).labels for seed in (a, b)]
    assert (labels[0] == labels[1]).mean() < 0.3, "20 classes agree by chance one time in 20"


def test_indices_far_apart_are_different_scenes():
    labels = [sample_scenes(0, np.arange(first, first + 100)).labels for first in (0, 1024, 10**9)]
    assert all((a == b).mean() < 0.3 for a, b in [(labels[0], labels[1]), (labels[1], labels[2])])


# --- what a scene may be


def test_every_attribute_takes_all_its_values_and_no_other(scenes):
    there = present(scenes)
    assert set(scenes.count) == {1, 2}
    assert set(scenes.background) == set(range(len(BACKGROUNDS)))
    for name, table in [("kind", KINDS), ("colour", COLOURS), ("size", SIZES), ("row", ROWS), ("column", COLUMNS)]:
        assert set(getattr(scenes, name)[there]) == set(range(len(table))), name


def test_kinds_and_colours_are_drawn_evenly():
    labels = sample_scenes(0, np.arange(20_000)).labels
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert len(counts) == len(CLASSES) == 20
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


def test_labels_name_kind_and_colour_of_the_main_shape(scenes):
    for i in range(50):
        expected = f"{list(COLOURS)[scenes.colour[i, 0]]} {KINDS[scenes.kind[i, 0]]}"
        assert CLASSES[scenes.labels[i]] == expected


def test_of_two_shapes_the_main_one_comes_first_in_reading_order(scenes):
    two = scenes[scenes.count == 2]
    place = two.row * 3 + two.column
    assert (place[:, 0] < place[:, 1]).all()


def test_two_shapes_are_independent_but_for_their_places():
    """Each pair of values of an attribute comes up as often as chance has it, within five deviations."""
    scenes = sample_scenes(0, np.arange(40_000))
    two = scenes[scenes.count == 2]
    for name, values in (("kind", len(KINDS)), ("colour", len(COLOURS)), ("size", len(SIZES))):
        pairs = getattr(two, name)
        counts = np.bincount(pairs[:, 0] * values + pairs[:, 1], minlength=values**2)
        expected = len(two) / values**2
        assert np.abs(counts - expected).max() < 5 * expected**0.5, name


def test_bounding_boxes_stay_in_the_picture_and_do_not_touch(scenes):
    radius = np.array(list(SIZES.values()))[scenes.size]
    there = present(scenes)
    y, x = scenes.y / 4, scenes.x / 4
    for centre in (y, x):
        assert (centre - radius)[there].min() >= 0
        assert (centre + radius)[there].max() <= 32
    gap = np.maximum(*(np.abs(c[:, 0] - c[:, 1]) for c in (y, x))) - radius.sum(1)
    assert gap[scenes.count == 2].min() > 0


def test_centres_lie_on_a_row_and_a_column(scenes):
    for anchor, centre in [(scenes.row, scenes.y), (scenes.column, scenes.x)]:
        assert np.array_equal(centre / 4, np.array([8, 16, 24])[anchor])


# --- pictures


def scene(**changes: object) -> Scenes:
    """One large red square in the middle of a black picture, but for the changes."""
    values = {
        "count": 1,
        "background": 0,
        "kind": [1, 0],
        "colour": [0, 1],
        "size": [1, 0],
        "row": [1, 0],
        "column": [1, 0],
        "y": [64, 32],
        "x": [64, 32],
    }
    return Scenes(**{name: np.array([value]) for name, value in {**values, **changes}.items()})


def test_background_and_shape_have_exactly_their_colours():
    picture = draw(scene())[0]
    assert tuple(picture[0, 0]) == BACKGROUNDS["black"]
    assert tuple(picture[16, 16]) == COLOURS["red"]


@pytest.mark.parametrize(
    ("kind", "area"), [("circle", np.pi), ("square", 4 * 0.88**2), ("triangle", 1.9), ("cross", 4 * (0.72 - 0.36**2))]
)
def test_shapes_cover_their_area(kind, area):
    """Areas in units of the squared half side of the box; the triangle has base 2 and height 1.9."""
    picture = draw(scene(kind=[KINDS.index(kind), 0])).astype(float)[0, :, :, 0]
    background, colour = BACKGROUNDS["black"][0], COLOURS["red"][0]
    covered = ((picture - background) / (colour - background)).sum()
    assert covered == pytest.approx(area * SIZES["large"] ** 2, rel=0.03), "edges are known to a 16th of a pixel"


def test_edges_are_mixed_by_64ths_and_rounded_to_the_nearest_level():
    background, colour = BACKGROUNDS["black"][0], COLOURS["red"][0]
    levels = {int(background + k / 64 * (colour - background) + 0.5) for k in range(65)}
    found = set(draw(scene(kind=[0, 0]))[0, :, :, 0].ravel().tolist())
    assert len(found) > 5
    assert found <= levels


def test_a_quarter_pixel_moves_the_centre_of_mass_by_a_quarter_pixel():
    def centre(y: int) -> float:
        mask = draw(scene(y=[y, 0])).astype(float)[0, :, :, 0] - BACKGROUNDS["black"][0]
        return (mask.sum(1) * (np.arange(32) + 0.5)).sum() / mask.sum()

    assert [centre(y) for y in (63, 64, 65, 66)] == pytest.approx([15.75, 16.0, 16.25, 16.5], abs=0.02)


def test_the_triangle_points_upwards():
    mask = draw(scene(kind=[2, 0])).astype(float)[0, :, :, 0] - BACKGROUNDS["black"][0]
    widths = mask.sum(1)[11:21]
    assert np.all(np.diff(widths) > 0)


def test_the_second_shape_of_a_scene_of_one_is_not_drawn():
    assert np.array_equal(draw(scene(count=1)), draw(scene(count=1, kind=[1, 3], y=[64, 90], x=[64, 90])))
    assert not np.array_equal(draw(scene(count=2)), draw(scene(count=1)))


def test_pictures_of_64_pixels_are_those_of_32_scaled(scenes):
    large, small = draw(scenes[:64], 64).astype(float), draw(scenes[:64], 32).astype(float)
    halved = large.reshape(64, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(halved - small).mean() < 0.5
    assert np.abs(halved - small).max() < 32, "edges differ by how finely they are sampled, no shape by a pixel"


def test_the_dataset_is_its_scenes(scenes, pictures):
    world = Shapes(count=N)
    item = world[5]
    assert np.array_equal(item.x, pictures[5])
    assert (item.label, item.text) == (scenes.labels[5], scenes.captions()[5])
    batch, labels = world.batch(np.array([7, 5]))
    assert np.array_equal(batch, pictures[[7, 5]])
    assert labels.tolist() == scenes.labels[[7, 5]].tolist()
    assert len(world) == N
    assert world.classes == CLASSES


@pytest.mark.parametrize("index", [-1, 512])
def test_indices_outside_the_dataset_are_refused(index):
    with pytest.raises(IndexError):
        Shapes(count=N)[index]


# --- words


def test_captions_name_one_shape():
    words = scene(kind=[3, 0], colour=[4, 0], size=[0, 0], row=[2, 0], column=[0, 0], background=2).captions()
    assert words == ["a small purple cross at the bottom left on a white background"]


def test_captions_name_two_shapes_and_the_middle():
    words = scene(count=2, row=[1, 0], column=[1, 1], kind=[1, 0]).captions()
    assert words == ["a large red square in the middle and a small green circle at the top on a black background"]


def test_different_scenes_have_different_captions(scenes):
    """The caption tells as much as all attributes together."""

    def told(i: int) -> tuple:
        s = scenes
        return (
            s.background[i],
            *((s.kind[i, j], s.colour[i, j], s.size[i, j], s.row[i, j], s.column[i, j]) for j in range(s.count[i])),
        )

    captions = scenes.captions()
    assert len(set(captions)) == len({told(i) for i in range(N)}) == len({(told(i), captions[i]) for i in range(N)})


# --- the way back


def test_recognition_returns_the_scene_that_was_drawn(scenes, seen):
    there = present(scenes)
    assert np.array_equal(seen.scenes.count, scenes.count)
    assert np.array_equal(seen.scenes.background, scenes.background)
    for name in ("kind", "colour", "size", "row", "column", "y", "x"):
        found, truth = getattr(seen.scenes, name), getattr(scenes, name)
        assert np.array_equal(found[there], truth[there]), name


def test_every_drawn_scene_is_valid_and_nearly_fully_explained(seen):
    assert seen.valid.all()
    assert seen.match.min() > 0.99
    assert seen.residual.max() < 1.0, "rounding to 8 bits alone"


def noisy(pictures: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, pictures.shape)
    return np.clip(pictures + noise, 0, 255).round().astype(np.uint8)


def blurred(pictures: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius))) for p in pictures])


def half_erased(pictures: np.ndarray, scenes: Scenes) -> np.ndarray:
    """The left half of the main shape painted over with the background."""
    out = pictures.copy()
    for i, picture in enumerate(out):
        picture[:, : scenes.x[i, 0] // 4] = list(BACKGROUNDS.values())[scenes.background[i]]
    return out


def share_valid(pictures: np.ndarray) -> float:
    return recognise(pictures).valid.mean()


def test_a_little_noise_and_blur_leave_scenes_valid(pictures):
    some = pictures[:128]
    assert share_valid(noisy(some, 5)) == 1.0
    assert share_valid(blurred(some, 0.4)) > 0.95


@pytest.mark.parametrize("spoil", [lambda p: noisy(p, 40), lambda p: blurred(p, 4)], ids=["noise", "blur"])
def test_much_noise_or_blur_makes_them_invalid(pictures, spoil):
    assert share_valid(spoil(pictures[:128])) < 0.05


def test_half_a_shape_is_not_that_shape_and_seldom_valid(pictures, scenes):
    one = scenes.count == 1
    whole = scenes[one][:128]
    found = recognise(half_erased(pictures[one][:128], whole))
    same = np.stack(
        [getattr(found.scenes, n)[:, 0] == getattr(whole, n)[:, 0] for n in ("kind", "size", "y", "x")]
    ).all(0)
    assert not (found.valid & same).any()
    assert found.valid.mean() < 0.15, "a few pass as a small shape in a picture as unclean as noise may make it"


def test_empty_flat_and_random_pictures_are_invalid():
    rng = np.random.default_rng(0)
    empty = np.broadcast_to(np.array(list(BACKGROUNDS.values()), np.uint8)[:, None, None], (3, 32, 32, 3))
    flat = np.broadcast_to(rng.integers(0, 256, (8, 1, 1, 3), np.uint8), (8, 32, 32, 3))
    noise = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    assert not recognise(np.concatenate([empty, flat, noise])).valid.any()


def test_two_shapes_that_are_not_on_opposite_sides_are_unlawful():
    two = {"count": 2, "kind": [0, 0], "size": [0, 0]}
    near = scene(**two, row=[0, 1], column=[0, 1], y=[32, 64], x=[32, 64])
    found = recognise(draw(near))
    assert found.match.min() > 0.95, "both shapes are seen clearly"
    assert not found.valid.any()
    assert recognise(draw(scene(**two, row=[0, 2], column=[0, 1], y=[32, 96], x=[32, 64]))).valid.all()


def test_recognition_does_not_depend_on_the_batch(pictures, seen):
    assert equal(recognise(pictures[:50], batch=7).scenes, seen.scenes[:50])


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (32, 32, 3), (2, 32, 32, 1)])
def test_pictures_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="takes pictures"):
        recognise(np.zeros(shape, np.uint8))


def test_every_scene_is_there_once_with_its_probability():
    scenes, probability = every_scene()
    assert len(np.unique(scenes.ids)) == len(scenes) == 3 * (9 * 40 + 16 * 40**2)
    assert probability.sum() == pytest.approx(1)
    assert probability[scenes.count == 1].sum() == pytest.approx(0.5)
    drawn = sample_scenes(0, np.arange(2000))
    place = {scene: i for i, scene in enumerate(scenes.ids.tolist())}
    found = np.array([place[scene] for scene in drawn.ids.tolist()])
    np.testing.assert_array_equal(draw(scenes[found]), draw(drawn))
    np.testing.assert_array_equal(scenes.labels[found], drawn.labels)
