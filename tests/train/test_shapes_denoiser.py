"""The exact denoiser of the world against the world itself: every scene drawn and weighed one by one."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from difflab.core.noise import SeededNoise
from difflab.core.prediction import add_noise
from difflab.core.sampler import DDIM, final, trajectory
from difflab.core.schedule import Point, make_schedule, path
from difflab.data.shapes import COLOURS, KINDS, Scenes, Shapes, draw, place_pairs, recognise
from difflab.train.shapes_denoiser import ShapesDenoiser
from difflab.zoo.codec import decode, encode

SCHEDULE = make_schedule("cosine")
DENOISER = ShapesDenoiser()


@cache
def every_scene() -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures of the world (N, 3, 32, 32) uint8 and their log probabilities (N,)."""
    shapes = list(itertools.product(range(len(KINDS)), range(len(COLOURS)), (0, 1)))
    lone = [(1, b, k, 0, c, 0, s, 0, p, 0) for b, (k, c, s), p in itertools.product(range(3), shapes, range(9))]
    pairs = [
        (2, b, k, j, c, d, s, r, p, q)
        for b, (k, c, s), (j, d, r), (p, q) in itertools.product(range(3), shapes, shapes, place_pairs().tolist())
    ]
    table = np.array(lone + pairs)
    place = table[:, 8:10]
    centre = np.array([8, 16, 24]) * 4
    scenes = Scenes(
        count=table[:, 0], background=table[:, 1], kind=table[:, 2:4], colour=table[:, 4:6], size=table[:, 6:8],
        row=place // 3, column=place % 3, y=centre[place // 3], x=centre[place % 3],
    )  # fmt: skip
    probability = np.where(table[:, 0] == 1, 0.5 / len(lone), 0.5 / len(pairs))
    pictures = np.concatenate([draw(scenes[i : i + 4096]) for i in range(0, len(table), 4096)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.from_numpy(np.log(probability)).float()


def brute_force(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """E[x0 | x] (B, 3, 32, 32) by Bayes' rule over the whole list."""
    pictures, log_prior = every_scene()
    logits, flat = [], x.flatten(1)
    for part in pictures.split(4096):
        x0 = part.flatten(1).float() / 127.5 - 1
        logits.append((alpha * flat @ x0.T - 0.5 * alpha**2 * x0.square().sum(1)) / sigma**2)
    weights = (torch.cat(logits, 1) + log_prior).softmax(1)
    mean = sum(
        w @ (p.flatten(1).float() / 127.5 - 1)
        for w, p in zip(weights.split(4096, 1), pictures.split(4096), strict=True)
    )
    return mean.view_as(x)


@pytest.mark.parametrize("t", [600, 800, 950])
def test_it_is_bayes_rule_over_every_scene_of_the_world(t):
    x0 = encode(Shapes(seed=1).batch(np.arange(4))[0])
    at = SCHEDULE.point(t)
    x = at.alpha * x0 + at.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
    expected = brute_force(x, at.alpha, at.sigma)
    # The list's pictures are rounded to grey levels, half a level is 0.004.
    torch.testing.assert_close(DENOISER(x, at).x0, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("t", [0, 5, 20, 100])
def test_what_little_noise_hides_is_seen(t):
    x0 = encode(Shapes(seed=1).batch(np.arange(16))[0])
    at = SCHEDULE.point(t)
    x = at.alpha * x0 + at.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(DENOISER(x, at).x0, x0, rtol=0, atol=0.005)


def test_each_sample_may_lie_at_its_own_place():
    x0 = encode(Shapes(seed=1).batch(np.arange(3))[0])
    t = torch.tensor([300, 700, 999])
    at = SCHEDULE.at(t, 4)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = add_noise(x0, eps, at)
    alone = [DENOISER(x[i : i + 1], SCHEDULE.point(int(t[i]))).x0 for i in range(3)]
    torch.testing.assert_close(DENOISER(x, at).x0, torch.cat(alone), rtol=0, atol=1e-5)


def test_where_no_picture_is_left_it_is_the_mean_of_the_world():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = DENOISER(x, Point(999.0, 0.0, 1.0)).x0
    pictures, log_prior = every_scene()
    mean = torch.zeros(3 * 32 * 32)
    for part, weight in zip(pictures.split(4096), log_prior.exp().split(4096), strict=True):
        mean += weight @ (part.flatten(1).float() / 127.5 - 1)
    torch.testing.assert_close(found[0], mean.view(3, 32, 32), rtol=0, atol=0.005)
    torch.testing.assert_close(found[0], found[1])


def test_noise_and_picture_agree():
    at = SCHEDULE.point(600)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = DENOISER(x, at)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x)


def test_ddim_with_it_draws_scenes_of_the_world():
    noise = SeededNoise(0, range(32), (3, 32, 32))
    x = final(trajectory(DENOISER, DDIM(), path(SCHEDULE, 20, "trailing"), noise))
    assert recognise(decode(x)).valid.all()
