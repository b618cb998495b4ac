"""Guidance by a classifier: against its formulas, and on mixtures, of which all is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from difflab.core.denoiser import Estimate, Pull
from difflab.core.exact import GaussianDenoiser, MixtureDenoiser
from difflab.core.guidance import ClassifierGuided
from difflab.core.noise import GivenNoise
from difflab.core.posterior import posterior_coefficients, posterior_variance
from difflab.core.sampler import DDIM, SAMPLERS, Ancestral, final, trajectory
from difflab.core.schedule import Point, make_schedule, path

SCHEDULE = make_schedule("linear", 1000)
MEANS = torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
VARIANCE = 0.3


class ExactClassifier:
    """p(component | x_t) of the mixture of three Gaussians, by Bayes' rule."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        at = SCHEDULE.point(int(t[0]))
        spread = at.alpha**2 * VARIANCE + at.sigma**2
        return WEIGHTS.log() - (x[:, None] - at.alpha * MEANS).square().sum(-1) / (2 * spread)


def guided(classes: Tensor, scale: float = 1.0) -> ClassifierGuided:
    return ClassifierGuided(MixtureDenoiser(MEANS, VARIANCE, WEIGHTS), ExactClassifier(), classes, scale)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_an_exact_classifier_at_scale_one_makes_the_denoiser_of_the_class(t):
    x, classes, at = normal(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]), SCHEDULE.point(t)
    found = guided(classes)(x, at)
    expected = GaussianDenoiser(MEANS[classes], VARIANCE)(x, at)
    torch.testing.assert_close(found.eps, expected.eps)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x)


def test_the_pull_is_the_scaled_gradient_and_the_estimate_before_it():
    """grad log p(y | x_t) of Gaussians of one variance: (alpha / spread) (mean of y - mean over p(k | x_t))."""
    x, at, classes = normal(4, 2), SCHEDULE.point(500), torch.tensor([1, 1, 2, 0])
    plain = MixtureDenoiser(MEANS, VARIANCE, WEIGHTS)(x, at)
    pull = guided(classes, 2.5)(x, at).pull
    spread = at.alpha**2 * VARIANCE + at.sigma**2
    shares = ExactClassifier()(x, torch.full((4,), 500)).softmax(1)
    torch.testing.assert_close(pull.gradient, 2.5 * at.alpha / spread * (MEANS[classes] - shares @ MEANS))
    assert torch.equal(pull.x0, plain.x0)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_goes_by_the_shifted_noise_whose_x0_is_not_clamped(eta):
    """Dhariwal and Nichol, algorithm 2; eps is that of the clamped estimate, as in guided-diffusion."""
    x, z, now, nxt = normal(3, 2), normal(3, 2, seed=1), SCHEDULE.point(400), SCHEDULE.point(380)
    classes = torch.tensor([0, 1, 2])

    def clamped(x: Tensor, at: Point) -> Estimate:
        x0 = MixtureDenoiser(MEANS, VARIANCE, WEIGHTS)(x, at).x0.clamp(-1, 1)
        return Estimate(x0, (x - at.alpha * x0) / at.sigma)

    guide = ClassifierGuided(clamped, ExactClassifier(), classes, 3.0)
    found = DDIM(eta).step(guide, x, now, nxt, z, None).x
    abar, abar_before = now.alpha**2, nxt.alpha**2
    gradient = guided(classes)(x, now).pull.gradient
    eps = clamped(x, now).eps - math.sqrt(1 - abar) * 3.0 * gradient
    x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    s = eta * math.sqrt((1 - abar_before) / (1 - abar) * (1 - abar / abar_before))
    expected = math.sqrt(abar_before) * x0 + math.sqrt(1 - abar_before - s**2) * eps + s * z
    torch.testing.assert_close(found, expected)
    assert x0.abs().max() > 1


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ancestral_steps_move_their_mean_by_variance_times_gradient(variance):
    """Algorithm 1: N(mean + variance * scale * gradient, variance), the mean being that without the classifier."""
    x, z, now, nxt = normal(3, 2), normal(3, 2, seed=1), SCHEDULE.point(400), SCHEDULE.point(350)
    share, classes = normal(3, 2, seed=2).sigmoid(), torch.tensor([0, 1, 2])
    mixture = MixtureDenoiser(MEANS, VARIANCE, WEIGHTS)

    def learned(x: Tensor, at: Point) -> Estimate:
        return mixture(x, at)._replace(variance_share=share)

    found = Ancestral(variance).step(ClassifierGuided(learned, ExactClassifier(), classes, 2.0), x, now, nxt, z, None)
    small, large = posterior_variance(now, nxt), 1 - now.alpha**2 / nxt.alpha**2
    spread = {"small": small, "large": large, "learned": large**share * small ** (1 - share)}[variance]
    on_x0, on_x = posterior_coefficients(now, nxt)
    gradient = guided(classes)(x, now).pull.gradient
    mean = on_x0 * mixture(x, now).x0 + on_x * x + spread * 2.0 * gradient
    torch.testing.assert_close(found.x, mean + torch.as_tensor(spread).sqrt() * z)


def test_the_last_ancestral_step_has_no_variance_and_is_not_moved():
    x, now, nxt = normal(3, 2), SCHEDULE.point(20), SCHEDULE.point(-1)
    plain = MixtureDenoiser(MEANS, VARIANCE, WEIGHTS)
    found = Ancestral().step(guided(torch.tensor([0, 1, 2]), 5.0), x, now, nxt, None, None)
    assert torch.equal(found.x, Ancestral().step(plain, x, now, nxt, None, None).x)


@pytest.mark.parametrize("sampler", [name for name, how in SAMPLERS.items() if name not in ("ddpm", "ddpm-noisy")])
def test_all_other_samplers_draw_the_class_as_if_there_were_no_others(sampler):
    """They see nothing but eps and x0."""
    points, classes = path(SCHEDULE, 12), torch.tensor([2, 0, 1])
    noise = GivenNoise(normal(3, 2), [normal(3, 2, seed=k) for k in range(1, 13)])
    build = SAMPLERS[sampler].build
    found = final(trajectory(guided(classes), build(0.0, "small"), points, noise))
    noise = GivenNoise(normal(3, 2), [normal(3, 2, seed=k) for k in range(1, 13)])
    expected = final(trajectory(GaussianDenoiser(MEANS[classes], VARIANCE), build(0.0, "small"), points, noise))
    torch.testing.assert_close(found, expected)


def test_ancestral_samples_have_the_moments_of_the_class():
    """At scale 1 of exact parts the guided chain ends in N(mean of y, variance) as its steps become small."""
    n = 4000
    noise = _Fresh(n)
    x = final(trajectory(guided(torch.full((n,), 1)), Ancestral(), path(SCHEDULE, 500), noise))
    error = math.sqrt(VARIANCE / n)
    assert (x.mean(0) - MEANS[1]).abs().max() < 4 * error + 0.01
    assert (x.var(0) / VARIANCE - 1).abs().max() < 4 * math.sqrt(2 / n) + 0.02


def test_larger_scales_sharpen():
    """At scale s of one Gaussian against another the density is p(x) p(y | x)^s: drawn further from the other."""
    n, points = 2000, path(SCHEDULE, 100)
    ends = [final(trajectory(guided(torch.full((n,), 1), s), DDIM(), points, _Fresh(n))).mean(0) for s in (1.0, 4.0)]
    away = MEANS[1] - WEIGHTS @ MEANS
    assert ((ends[1] - ends[0]) @ away) > 0.1


def test_the_gradient_of_a_sample_is_its_own():
    x, classes, at = normal(5, 2), torch.tensor([0, 1, 2, 1, 0]), SCHEDULE.point(200)
    together = guided(classes, 2.0)(x, at)
    for i in range(5):
        alone = guided(classes[i : i + 1], 2.0)(x[i : i + 1], at)
        torch.testing.assert_close(alone.eps[0], together.eps[i], rtol=1e-13, atol=1e-13)


def test_gradients_are_taken_where_none_are_recorded():
    with torch.no_grad():
        estimate = guided(torch.tensor([1]))(normal(1, 2), SCHEDULE.point(500))
    assert isinstance(estimate.pull, Pull)
    assert not estimate.x0.requires_grad


class _Fresh:
    """New noise for each draw of n samples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def draw(self, k: int) -> Tensor:
        return normal(self.n, 2, seed=100 + k)
