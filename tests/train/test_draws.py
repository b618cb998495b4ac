from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difflab.data.clips import Clips, Window
from difflab.data.dataset import Item, Transform
from difflab.data.film_sets import Listed
from difflab.data.shapes import SIZES, Shapes
from difflab.data.shapes_clips import DIRECTIONS, ShapesClips
from difflab.train.config import AnyRecipe, parse_recipe
from difflab.train.draws import Draws, Of, stream
from difflab.train.feed import Feed
from difflab.train.objective import make_objective

CPU = torch.device("cpu")
DIT = {"input_size": 32, "in_channels": 3, "patch_size": 4, "hidden_size": 8, "depth": 1, "num_heads": 2,
       "num_classes": 20}  # fmt: skip
UNTOLD = {name: value for name, value in DIT.items() if name != "num_classes"}
CLIPS = {"image_size": 16, "dim": 8, "dim_mults": [1, 2], "num_frames": 3, "attn_heads": 2, "resnet_groups": 4}
RECIPES: dict[str, dict[str, Any]] = {
    "classes, flips, antithetic": {
        "family": "dit", "network": DIT, "timesteps": "antithetic", "data": {"source": "shapes", "flip": True},
        "variance": "learned",
    },
    "lognormal, uniform grey levels": {
        "family": "dit", "network": {**DIT, "learn_sigma": False}, "timesteps": "lognormal", "noise_level": [0.0, 1.0],
        "data": {"source": "shapes", "dequantization": "uniform"},
    },
    "latents": {
        "family": "dit", "network": {**DIT, "input_size": 8, "in_channels": 4}, "variance": "learned",
        "autoencoder": "shapes-vae", "data": {"source": "shapes"},
    },
    "captions, gaussian grey levels": {
        "family": "dit",
        "network": {**UNTOLD, "learn_sigma": False, "cond_dim": 64, "class_dropout_prob": 0.5},
        "text_encoder": "shapes-text", "data": {"source": "shapes", "flip": False, "dequantization": "gaussian"},
    },
    "frames beside clips": {
        "family": "unet3d", "network": {**CLIPS, "strict_mask": True, "norm": "rms"},
        "data": {"source": "shapes", "size": 16, "frames": 3, "images": 2},
    },
    "features": {
        "kind": "features", "heads": {"count": 2, "other size": len(SIZES)}, "noise": 0.5,
        "data": {"source": "shapes", "flip": False},
    },
    "features of clips": {
        "kind": "features", "heads": {"direction": len(DIRECTIONS)}, "noise": 0.5,
        "data": {"source": "shapes", "frames": 3, "flip": False},
    },
    "autoencoder": {"kind": "autoencoder", "data": {"source": "shapes"}, "network": {"widths": [8, 8]}},
    "text": {"kind": "text", "data": {"source": "shapes"}},
}  # fmt: skip


def shared_out(recipe: AnyRecipe, world: int, step: int) -> list[tuple[torch.Tensor, ...]]:
    """What each of `world` processes draws of a step's batch of 12."""
    data, frames = recipe.data, recipe.data.frames
    dataset = Shapes(data.size) if frames is None else ShapesClips(data.size, frames)
    drawn = []
    for rank in range(world):
        captions = getattr(recipe, "text_encoder", None) is not None
        feed = Feed(
            dataset, 12 // world, recipe.seed, flip=data.flip, images=data.images, captions=captions, rank=rank,
            world=world,
        )  # fmt: skip
        draws = Draws(recipe.seed, step, feed.whole, feed.own)
        drawn.append(make_objective(recipe).draw(feed.at(step), draws, CPU))
    return drawn


@pytest.mark.parametrize("name", RECIPES)
def test_a_sample_is_given_the_same_on_any_number_of_processes(name):
    recipe = parse_recipe({"name": "t", "steps": 1, "batch": 12, "seed": 5, **RECIPES[name]}, "t")
    (alone,) = shared_out(recipe, 1, step=3)
    for world in (2, 3):
        parts = zip(*shared_out(recipe, world, step=3), strict=True)
        for number, (whole, part) in enumerate(zip(alone, parts, strict=True)):
            torch.testing.assert_close(torch.cat(part), whole, rtol=0, atol=0, equal_nan=True, msg=f"part {number}")
    (other,) = shared_out(recipe, 1, step=4)
    assert not torch.equal(other[0].nan_to_num(), alone[0].nan_to_num()), "another step, another draw"


def test_a_head_counts_those_that_have_an_answer_whatever_the_parts():
    """Some parts of a batch hold fewer scenes of two shapes: the mean of their losses is still that of the whole."""
    recipe = parse_recipe({"name": "t", "steps": 1, "batch": 12, **RECIPES["features"]}, "t")
    objective, pull = make_objective(recipe), torch.tensor([0.0, 2.0])

    def network(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {head: x.mean((1, 2, 3))[:, None] * pull for head in recipe.heads}

    (alone,) = shared_out(recipe, 1, step=0)
    thirds = shared_out(recipe, 3, step=0)
    absent = [int((third[2] < 0).sum()) for third in thirds]
    assert len(set(absent)) > 1
    losses = torch.stack([objective.loss(network, third) for third in thirds])
    torch.testing.assert_close(losses.mean(), objective.loss(network, alone))
    logits, there = network(alone[0])["other size"], alone[2] >= 0
    expected = torch.nn.functional.cross_entropy(logits[there], alone[2][there])
    expected += torch.nn.functional.cross_entropy(network(alone[0])["count"], alone[1])
    torch.testing.assert_close(objective.loss(network, alone), expected)


def test_noise_is_normal_and_every_stream_another():
    draws = Draws(0, 0, 64)
    noise = draws.normal(Of.NOISE, (3, 16, 16))
    n = noise.numel()
    assert abs(noise.mean()) < 5 / n**0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / n) ** 0.5
    flat = torch.cat([noise, draws.normal(Of.LATENTS, (3, 16, 16)), Draws(0, 1, 64).normal(Of.NOISE, (3, 16, 16))])
    likeness = torch.corrcoef(flat.flatten(1)) - torch.eye(192)
    assert likeness.abs().max() < 6 / (3 * 16 * 16) ** 0.5


def test_no_two_kinds_share_a_stream(monkeypatch):
    """Of all generators that a step of clips with frames of others and captions makes, no two begin alike."""
    keys = [stream(7, step, of, *place) for step in range(3) for of in Of for place in [(), *((i,) for i in range(12))]]
    begins = {tuple(np.random.SeedSequence(key).generate_state(4).tolist()) for key in keys}
    assert len(begins) == len(keys) == 3 * len(Of) * 13
    asked: list[list[int]] = []
    monkeypatch.setattr(
        Clips, "item", lambda self, index, seed: asked.append(list(seed)) or Item(np.zeros((3, 8, 8, 3)))
    )
    clips = Clips(Listed(Path(), "", [], [], []), Window(3), Transform(8), kept=list(range(20)))
    Feed(clips, 4, seed=7, images=2).at(1)
    windows = [stream(7, 1, Of.WINDOWS, place) for place in range(4)]
    assert sorted(asked) == sorted(windows + [stream(7, 1, Of.BESIDE_WINDOWS, place) for place in range(8)])


def test_uniform_numbers_fill_the_unit_interval():
    found = Draws(0, 0, 64).uniform(Of.GREYS, (500,)).flatten().numpy()
    assert 0 <= found.min() < found.max() < 1
    assert np.histogram(found, 4, (0, 1))[0].tolist() == pytest.approx([8000] * 4, abs=5 * 8000**0.5)
