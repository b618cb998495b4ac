from __future__ import annotations

import numpy as np
import torch

from difflab.data.shapes import sample_scenes
from difflab.data.shapes_clips import sample_motions
from difflab.train.answers import MOTION_HEADS, SCENE_HEADS, claimed, motion_targets, scene_targets


def test_scene_targets_are_the_attributes_and_minus_one_for_an_absent_shape():
    indices = np.arange(200)
    scenes, targets = sample_scenes(0, indices), scene_targets(0, indices)
    one = scenes.count == 1
    assert targets["count"].tolist() == (scenes.count - 1).tolist()
    assert targets["main colour"].tolist() == scenes.colour[:, 0].tolist()
    assert targets["main place"].tolist() == (scenes.row[:, 0] * 3 + scenes.column[:, 0]).tolist()
    for name in ("other kind", "other colour", "other size", "other place"):
        assert (targets[name].numpy() == -1).tolist() == one.tolist(), name
    assert targets["other kind"][~torch.from_numpy(one)].tolist() == scenes.kind[~one, 1].tolist()


def test_the_heads_that_are_allowed_are_the_ones_that_have_targets():
    targets = scene_targets(0, np.arange(4000))
    assert targets.keys() == SCENE_HEADS.keys()
    assert {name: int(values.max()) + 1 for name, values in targets.items()} == SCENE_HEADS


def test_the_answers_about_a_clip_are_its_attributes():
    indices = np.arange(400)
    motions, targets = sample_motions(0, indices), motion_targets(0, indices)
    assert {name: int(values.max()) + 1 for name, values in targets.items()} == MOTION_HEADS
    for name in MOTION_HEADS:
        assert targets[name].tolist() == getattr(motions, name).tolist(), name


def test_answers_are_asked_for_only_where_there_are_some():
    assert claimed("a small red circle above a cross on a white background") == {
        "first kind": 1, "first colour": 1, "first size": 1, "first place": 0,
        "second kind": 4, "second colour": 0, "second size": 0, "second place": 0,
        "relation": 1, "background": 3, "direction": 0, "speed": 0,
    }  # fmt: skip
    said = claimed("a square moves up fast")
    assert {name for name, answer in said.items() if answer} == {"first kind", "direction", "speed"}
