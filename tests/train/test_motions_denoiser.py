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
from difflab.data.captions import clip_captions
from difflab.data.shapes import BACKGROUNDS, COLOURS
from difflab.data.shapes_clips import CLASSES, ShapesClips, draw_clips, every_way, recognise_clips, sample_motions
from difflab.train.motions_denoiser import KNOWN, MotionsDenoiser, known_of_captions, known_of_classes
from difflab.zoo.codec import decode, encode

FRAMES = 2  # of which the world has 41,760 clips
SCHEDULE = make_schedule("cosine")
DENOISER = MotionsDenoiser(FRAMES)


@cache
def every_clip() -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """All clips of the world (N, 3, F, 32, 32) uint8, their attributes (N,), labels besides, and log probabilities
    (N,)."""
    ways, odds = every_way()
    clips = []
    for background in range(len(BACKGROUNDS)):
        for colour in range(len(COLOURS)):
            number = np.full(len(ways), colour)
            clips.append(draw_clips(replace(ways, background=0 * number + background, colour=number), FRAMES))
    times = len(BACKGROUNDS) * len(COLOURS)
    names = ("kind", "size", "direction", "speed", "labels")
    attributes = {name: torch.from_numpy(np.tile(getattr(ways, name), times)) for name in names}
    block = torch.arange(times).repeat_interleave(len(ways))
    attributes |= {"background": block // len(COLOURS), "colour": block % len(COLOURS)}
    log_odds = torch.from_numpy(np.tile(np.log(odds / times), times))
    return torch.from_numpy(np.concatenate(clips)).movedim(-1, 1), attributes, log_odds


def agreeing(**known: int) -> torch.Tensor:
    """The numbers of all clips that have these attributes."""
    clips, attributes, _ = every_clip()
    agree = torch.ones(len(clips), dtype=torch.bool)
    for name, value in known.items():
        agree &= attributes[name] == value
    return torch.nonzero(agree).flatten()


def log_joint(x: torch.Tensor, alpha: float, sigma: float, rows: torch.Tensor) -> torch.Tensor:
    """log p(x, clip) of one noisy clip and each of these, up to what all share."""
    clips, _, log_odds = every_clip()
    logits = log_odds[rows].clone()
    for part in torch.arange(len(rows)).split(512):
        x0 = clips[rows[part]].flatten(1).float() / 127.5 - 1
        logits[part] += ((alpha * x0 @ x.flatten() - 0.5 * alpha**2 * x0.square().sum(1)) / sigma**2).double()
    return logits


def mean_of(rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(3, F, 32, 32) mean of these clips, by Bayes' rule; those of no weight left out."""
    clips, weights = every_clip()[0], logits.softmax(0).float()
    mean = torch.zeros(clips[0].numel())
    for part in torch.nonzero(weights > 1e-7).flatten().split(512):
        mean += weights[part] @ (clips[rows[part]].flatten(1).float() / 127.5 - 1)
    return mean.view_as(clips[0])


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
        rows = agreeing(**({"labels": int(label)} if told else {}))
        expected = mean_of(rows, log_joint(one, at.alpha, at.sigma, rows))
        torch.testing.assert_close(mean, expected, rtol=0, atol=0.01)  # the list is rounded to grey levels of 0.008


def test_whatever_is_known_only_clips_that_agree_are_weighed():
    """One clip at so much noise that many have a share, and whatever may be told of it, true or not."""
    x0, at = encode(draw_clips(sample_motions(1, np.arange(1)), FRAMES)), SCHEDULE.point(950)
    x = at.alpha * x0 + at.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    logits, unknown = log_joint(x[0], at.alpha, at.sigma, agreeing()), DENOISER(x, at).x0[0]
    values = {name: int(every_clip()[1][name].max()) + 1 for name in KNOWN}
    cases = [{name: value} for name, n in values.items() for value in range(n)]
    cases += [{"kind": 1, "direction": 3}, {"size": 1, "colour": 4, "speed": 0}, dict.fromkeys(KNOWN, 1)]
    furthest = dict.fromkeys(KNOWN, 0.0)
    for told in cases:
        found = DENOISER(x, at, torch.tensor([[told.get(name, -1) for name in KNOWN]])).x0[0]
        rows = agreeing(**told)
        torch.testing.assert_close(found, mean_of(rows, logits[rows]), rtol=0, atol=0.01)
        for name in told:
            furthest[name] = max(furthest[name], float((found - unknown).abs().max()))
    assert min(furthest.values()) > 0.02  # each kind of it matters


def test_what_is_known_of_one_clip_says_nothing_of_others():
    x, at = torch.randn(3, 3, FRAMES, 32, 32, generator=torch.Generator().manual_seed(0)), SCHEDULE.point(900)
    known = known_of_captions(["a red circle moves up", "", "a small cross moves left fast on a grey background"])
    whole = DENOISER(x, at, known).x0
    for i in range(3):
        torch.testing.assert_close(DENOISER(x[i : i + 1], at, known[i : i + 1]).x0[0], whole[i])
    torch.testing.assert_close(whole[1], DENOISER(x, at).x0[1])


def test_what_captions_say_is_so_of_the_clips_they_were_told_of():
    indices = np.arange(2000)
    known, motions = known_of_captions(clip_captions(3, indices)), sample_motions(3, indices)
    for name, said in zip(KNOWN, known.numpy().T, strict=True):
        there, values = said >= 0, getattr(motions, name)
        np.testing.assert_array_equal(said[there], values[there])
        assert there.all() if name in ("kind", "direction") else 0.2 < there.mean() < 0.9
    full = known_of_captions(motions.captions()).numpy()
    np.testing.assert_array_equal(full, np.stack([getattr(motions, name) for name in KNOWN], 1))
    assert known_of_captions(["", ""]).tolist() == [[-1] * 6] * 2


def test_what_classes_say_is_so_of_the_clips_that_have_them():
    motions = sample_motions(3, np.arange(200))
    known = known_of_classes(torch.from_numpy(motions.labels))
    for name, said in zip(KNOWN, known.numpy().T, strict=True):
        expected = getattr(motions, name) if name in ("kind", "direction") else -1
        np.testing.assert_array_equal(said, np.broadcast_to(expected, 200))


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
