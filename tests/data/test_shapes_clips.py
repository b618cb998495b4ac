from __future__ import annotations

import numpy as np
import pytest

from difflab.data.shapes_clips import (
    CLASSES,
    DIRECTIONS,
    ShapesClips,
    clips_fingerprint,
    draw_clips,
    recognise_clips,
    sample_motions,
)


@pytest.fixture(scope="module")
def motions():
    return sample_motions(3, np.arange(400))


def test_a_clip_depends_on_seed_and_index_alone_and_its_beginning_not_on_its_length():
    short, long = ShapesClips(frames=5, seed=1), ShapesClips(frames=12, seed=1)
    np.testing.assert_array_equal(short.batch(np.array([7, 2000]))[0], long.batch(np.array([7, 2000]))[0][:, :5])
    np.testing.assert_array_equal(short[2000].x, short.batch(np.array([2000]))[0][0])
    assert (short.batch(np.arange(50))[0] != ShapesClips(frames=5, seed=2).batch(np.arange(50))[0]).any()
    assert clips_fingerprint() == clips_fingerprint()


def test_shapes_move_straight_on_stay_inside_and_do_not_bounce_before_the_fourth_frame(motions):
    centres = motions.centres(40)
    assert centres.min() >= 7
    assert centres.max() <= 25
    steps = np.diff(centres, axis=1)
    moved = np.abs(steps).sum(-1)
    assert set(np.unique(moved[:, :3])) == {1, 2}  # a bounce may cost a frame a part of its step
    way = np.array(list(DIRECTIONS.values()))[motions.direction]
    for t in range(3):
        np.testing.assert_array_equal(np.sign(steps[:, t]), way)
    assert (np.sign(steps).sum((1, 2)) != 39 * way.sum(1)).all()  # and after long enough they have turned


@pytest.mark.parametrize("frames", [2, 8, 20])
def test_the_checker_reads_what_was_drawn(motions, frames):
    seen = recognise_clips(draw_clips(motions, frames))
    assert seen.valid.all()
    np.testing.assert_array_equal(seen.motions.labels, motions.labels)
    for name in ("colour", "size", "background", "speed"):
        np.testing.assert_array_equal(getattr(seen.motions, name), getattr(motions, name), err_msg=name)


def test_the_checker_accepts_noise_that_leaves_the_shape_clear(motions):
    clips = draw_clips(motions, 8)
    noisy = (clips + np.random.default_rng(0).normal(0, 8, clips.shape)).clip(0, 255).astype(np.uint8)
    seen = recognise_clips(noisy)
    assert seen.valid.mean() > 0.95
    assert (seen.motions.labels == motions.labels).mean() > 0.99


def test_the_checker_refuses_what_this_world_cannot_do(motions):
    clips = draw_clips(motions, 8)
    spoiled = {
        "frozen": np.repeat(clips[:, :1], 8, axis=1),
        "shuffled": clips[:, [3, 0, 6, 1, 7, 2, 5, 4]],
        "gone": np.concatenate([clips[:, :7], clips[:, 7:, :1, :1].repeat(32, 2).repeat(32, 3)], axis=1),
        "noise": np.random.default_rng(0).integers(0, 256, clips.shape, dtype=np.uint8),
    }
    for name, clip in spoiled.items():
        assert recognise_clips(clip).valid.mean() < 0.01, name
    other = draw_clips(sample_motions(4, np.arange(400)), 8)
    assert recognise_clips(np.concatenate([clips[:, :4], other[:, 4:]], axis=1)).valid.mean() < 0.05


def test_what_does_not_move_has_no_direction(motions):
    clips = draw_clips(motions, 8)
    seen = recognise_clips(clips)
    assert seen.moved.all()
    still = recognise_clips(np.repeat(clips[:, :1], 8, axis=1))
    assert not still.moved.any()
    assert not still.valid.any()


def test_labels_and_captions_name_what_is_there(motions):
    label, caption = motions.labels[0], motions.captions()[0]
    kind, _, direction = CLASSES[label].split()
    assert kind in caption
    assert f"moves {direction}" in caption
    with pytest.raises(ValueError, match="of two frames or more"):
        recognise_clips(np.zeros((1, 1, 32, 32, 3), np.uint8))
