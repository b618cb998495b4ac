"""The exact denoiser of clips against the world itself: every clip drawn and weighed one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from difflab.core.noise import SeededNoise
from difflab.core.prediction import add_noise
from difflab.core.sampler import DDIM, final, trajectory
from difflab.core.schedule import make_schedule, path
from difflab.data.shapes import BACKGROUNDS, COLOURS
from difflab.data.shapes_clips import CLASSES, ShapesClips, draw_clips, every_way, recognise_clips, sample_motions
from difflab.train.motions_denoiser import MotionsDenoiser, known_of_classes
from difflab.zoo.codec import decode, encode

FRAMES = 2  # of which the world has 41,760 clips
SCHEDULE = make_schedule("cosine")
DENOISER = MotionsDenoiser(FRAMES)


@cache
def every_clip() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All clips of the world (N, 3, F, 32, 32) uint8, their labels (N,) and log probabilities (N,)."""
    ways, odds = every_way()
    clips = []
    for background in range(len(BACKGROUNDS)):
        for colour in range(len(COLOURS)):
            number = np.full(len(ways), colour)
            clips.append(draw_clips(replace(ways, background=0 * number + background, colour=number), FRAMES))
    times = len(BACKGROUNDS) * len(COLOURS)
    labels, log_odds = (torch.from_numpy(np.tile(v, times)) for v in (ways.labels, np.log(odds / times)))
    return torch.from_numpy(np.concatenate(clips)).movedim(-1, 1), labels, log_odds


def brute_force(x: torch.Tensor, alpha: float, sigma: float, label: int | None) -> torch.Tensor:
    """E[x0 | x, label] (3, F, 32, 32) of one noisy clip, by Bayes' rule over the whole list."""
    clips, labels, log_odds = every_clip()
    rows = torch.arange(len(labels)) if label is None else torch.nonzero(labels == label).flatten()
    logits = log_odds[rows].clone()
    for part in torch.arange(len(rows)).split(4096):
        x0 = clips[rows[part]].flatten(1).float() / 127.5 - 1
        logits[part] += ((alpha * x0 @ x.flatten() - 0.5 * alpha**2 * x0.square().sum(1)) / sigma**2).double()
    weights = logits.softmax(0).float()
    mean = torch.zeros(x.numel())
    for part in torch.arange(len(rows)).split(4096):
        mean += weights[part] @ (clips[rows[part]].flatten(1).float() / 127.5 - 1)
    return mean.view_as(x)


def test_every_way_is_drawn_as_often_as_it_says():
    ways, odds = every_way()
    assert odds.sum() == pytest.approx(1.0)
    drawn = sample_motions(0, np.arange(200_000))
    names = ("kind", "size", "direction", "speed", "y", "x")
    known = {row: i for i, row in enumerate(zip(*(getattr(ways, name).tolist() for name in names), strict=True))}
    found = np.array([known[row] for row in zip(*(getattr(drawn, name).tolist() for name in names), strict=True)])
    counts = np.bincount(found, minlength=len(ways))
    expected = odds * len(drawn)
    assert ((counts - expected) ** 2 / expected).sum() == pytest.approx(len(ways), abs=6 * np.sqrt(2 * len(ways)))


@pytest.mark.parametrize(("t", "told"), [(800, True), (950, True), (950, False)])
def test_it_is_bayes_rule_over_every_clip_of_the_world(t, told):
    clips, labels = ShapesClips(frames=FRAMES, seed=1).batch(np.arange(2 if told else 1))
    x0 = encode(clips)
    at = SCHEDULE.point(t)
    x = at.alpha * x0 + at.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
    found = DENOISER(x, at, known_of_classes(torch.from_numpy(labels)) if told else None).x0
    for one, label, mean in zip(x, labels, found, strict=True):
        expected = brute_force(one, at.alpha, at.sigma, int(label) if told else None)
        torch.testing.assert_close(mean, expected, rtol=0, atol=0.01)  # the list is rounded to grey levels of 0.008


def test_one_past_the_last_class_is_no_class():
    x0 = encode(ShapesClips(frames=FRAMES, seed=1).batch(np.arange(3))[0])
    at = SCHEDULE.at(torch.tensor([300, 800, 950]), 5)
    x = add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), at)
    hidden = torch.full((3,), len(CLASSES))
    torch.testing.assert_close(DENOISER(x, at, known_of_classes(hidden)).x0, DENOISER(x, at).x0)
    mixed = DENOISER(x, at, known_of_classes(torch.tensor([len(CLASSES), 5, len(CLASSES)]))).x0
    torch.testing.assert_close(mixed[::2], DENOISER(x, at).x0[::2])
    assert not torch.allclose(mixed[1], DENOISER(x, at).x0[1], atol=0.05)


@pytest.mark.parametrize("t", [0, 5, 100])
def test_what_little_noise_hides_is_seen(t):
    clips, labels = ShapesClips(frames=FRAMES, seed=1).batch(np.arange(8))
    x0, at = encode(clips), SCHEDULE.point(t)
    x = at.alpha * x0 + at.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    found = DENOISER(x, at, known_of_classes(torch.from_numpy(labels)))
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=0.005)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x)


def test_ddim_with_it_draws_clips_of_the_world_that_move_as_asked():
    labels = torch.arange(16)
    denoiser = MotionsDenoiser(8)
    noise = SeededNoise(0, range(16), (3, 8, 32, 32))
    x = final(
        trajectory(
            lambda x, at: denoiser(x, at, known_of_classes(labels)), DDIM(), path(SCHEDULE, 20, "trailing"), noise
        )
    )
    found = recognise_clips(decode(x))
    assert found.valid.all()
    np.testing.assert_array_equal(found.motions.labels, labels)
