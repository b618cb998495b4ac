"""Trainings on clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import difflab
from difflab.data.shapes_clips import ShapesClips
from difflab.errors import DifflabError
from difflab.train.config import parse_recipe
from difflab.train.draws import Draws
from difflab.train.feed import Batch
from difflab.train.loop import CHECKPOINT
from difflab.train.motions_denoiser import MotionsDenoiser, known_of_classes
from difflab.train.objective import DiffusionObjective
from difflab.train.run import train
from difflab.zoo.codec import encode

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
        ({"data": {**FIELDS["data"], "images": 1}, "network": {**FIELDS["network"], "norm": "group"}},
         "set network.norm to rms"),
        ({"data": {**FIELDS["data"], "flip": True}, "network": {**FIELDS["network"], "cond_dim": 4, "num_classes": 16}},
         "a mirrored clip moves in another direction"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(changes, words):
    with pytest.raises(DifflabError, match=words):
        recipe(**changes)


def test_classes_of_clips_are_hidden_sometimes():
    network = {**FIELDS["network"], "cond_dim": 4, "num_classes": 16, "class_dropout_prob": 0.5}
    objective = DiffusionObjective(recipe(network=network))
    labels = np.arange(16).repeat(20)
    batch = Batch(np.zeros((320, 3, 16, 16, 3), np.uint8), labels, labels)
    told = objective.draw(batch, Draws(0, 0, len(batch.indices)), torch.device("cpu"))[3]
    assert 0.4 < (told == 16).float().mean() < 0.6
    assert ((told == 16) | (told == torch.from_numpy(labels))).all()


def of_known_clips(**changes):
    network = {**FIELDS["network"], "image_size": 32, "cond_dim": 4, "num_classes": 16}
    data = {"source": "shapes", "size": 32, "frames": 3, "flip": False}
    fields = {"network": network, "data": data, "target": "exact", "prediction": "x0", "error": "l2"}
    return recipe(**fields | {"timesteps": "lognormal", "noise_level": [0.8, 1.1]} | changes)


def test_the_exact_target_is_the_mean_of_the_class_that_is_told():
    asked = of_known_clips()
    objective = DiffusionObjective(asked)
    clips, labels = ShapesClips(32, 3, seed=3).batch(np.arange(6))
    x0, eps = encode(clips), torch.randn(6, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([4, 10, 16, 18, 18, 19]), torch.from_numpy(labels)
    y[4] = 16  # hidden
    exact, schedule = MotionsDenoiser(3), asked.schedule.build()

    def best(x, t, y):
        return exact(x, schedule.at(t, 5), known_of_classes(y)).x0

    drawn = (x0, t, eps, y, known_of_classes(y))
    assert objective.loss(best, drawn).item() < 1e-8
    assert objective.loss(lambda x, t, y: best(x, t, (y + 5) % 16), drawn).item() > 1e-4


def test_lognormal_timesteps_are_drawn_where_a_recipe_asks_for_them():
    objective = DiffusionObjective(of_known_clips(schedule={"name": "cosine"}))
    batch = Batch(np.zeros((200, 3, 32, 32, 3), np.uint8), np.zeros(200, np.int64), np.arange(200))
    t = objective.draw(batch, Draws(0, 0, len(batch.indices)), torch.device("cpu"))[1]
    assert 650 < t.double().mean().item() < 780  # where sigma / alpha is e^0.8, t is 730; of uniform ones 500


def test_exact_means_are_of_the_classes_of_the_world():
    for changes in (
        {"network": {**FIELDS["network"], "image_size": 32, "cond_dim": 4, "num_classes": 10}},
        {"data": {"source": "shapes", "size": 32, "frames": 3, "flip": False, "images": 1}},
    ):
        with pytest.raises(DifflabError, match="target is exact, but"):
            of_known_clips(**changes)
