"""Trainings on clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import difflab
from difflab.errors import DifflabError
from difflab.train.config import parse_recipe
from difflab.train.loop import CHECKPOINT
from difflab.train.objective import DiffusionObjective
from difflab.train.run import train

FIELDS = {
    "name": "clips", "family": "unet3d", "batch": 2, "steps": 3, "save_every": 1, "sample_every": 100,
    "network": {
        "image_size": 16, "num_frames": 3, "dim": 8, "dim_mults": [1], "attn_heads": 1, "attn_dim_head": 8, "patch": 4,
        "strict_mask": True, "use_sparse_linear_attn": False,
    },
    "schedule": {"name": "cosine-9999", "timesteps": 20}, "error": "l1",
    "data": {"source": "shapes", "size": 16, "frames": 3, "flip": False},
}  # fmt: skip


def recipe(**changes):
    return parse_recipe({**FIELDS, **changes}, "clips")


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("images", [0, 2])
def test_a_training_that_is_cut_ends_with_the_bits_of_one_that_is_not(images, tmp_path):
    asked = recipe(data={**FIELDS["data"], "images": images})

    def stop(progress):
        if progress.step == 2:
            raise Stop

    whole = train(asked, tmp_path / "whole")
    with pytest.raises(Stop):
        train(asked, tmp_path / "cut", watch=stop)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    cut = train(asked, tmp_path / "cut", resume=True)
    a, b = (difflab.load(path).network.state_dict() for path in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert difflab.sample(difflab.load(cut), n=1, steps=2).shape == (1, 3, 16, 16, 3)


def test_pictures_beside_a_clip_change_its_loss_by_their_own_alone():
    """The loss over clip and pictures is the mean over frames of each alone."""
    joint, plain = recipe(data={**FIELDS["data"], "images": 2}), recipe()
    objective = DiffusionObjective(joint)
    torch.manual_seed(0)
    network = objective.build()
    x = torch.randn(2, 3, 5, 16, 16)
    t, eps = torch.tensor([4, 9]), torch.randn(2, 3, 5, 16, 16)
    whole = objective.loss(network, (x, t, eps))
    alone = DiffusionObjective(plain)
    clip = alone.loss(network, (x[:, :, :3], t, eps[:, :, :3]))
    pictures = [alone.loss(network, (x[:, :, i : i + 1], t, eps[:, :, i : i + 1])) for i in (3, 4)]
    torch.testing.assert_close(whole, (3 * clip + pictures[0] + pictures[1]) / 5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"source": "shapes", "size": 16, "flip": False, "images": 1}}, "but no frames, which make clips"),
        ({"data": {**FIELDS["data"], "frames": 4}}, "set network.image_size and data.size alike, network.num_frames"),
        ({"data": {**FIELDS["data"], "images": 1}, "network": {**FIELDS["network"], "strict_mask": False}},
         "would mix pictures with the clip"),
        ({"network": {**FIELDS["network"], "num_frames": 0}}, "num_frames"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(changes, words):
    with pytest.raises(DifflabError, match=words):
        recipe(**changes)


def test_classes_of_clips_are_hidden_sometimes():
    network = {**FIELDS["network"], "cond_dim": 4, "num_classes": 16, "class_dropout_prob": 0.5}
    objective = DiffusionObjective(recipe(network=network))
    from difflab.train.feed import Batch

    labels = np.arange(16).repeat(20)
    batch = Batch(np.zeros((320, 3, 16, 16, 3), np.uint8), labels, labels)
    told = objective.draw(batch, torch.Generator().manual_seed(0), torch.device("cpu"))[3]
    assert 0.4 < (told == 16).float().mean() < 0.6
    assert ((told == 16) | (told == torch.from_numpy(labels))).all()
