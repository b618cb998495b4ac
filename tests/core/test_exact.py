from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.exact import GaussianDenoiser, MixtureDenoiser
from difflab.core.schedule import Point, make_schedule

SCHEDULE = make_schedule("linear")
PLACES = [SCHEDULE.point(t) for t in (20, 300, 900)]
X = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]


def posterior_mean(density: np.ndarray, grid: np.ndarray, at: Point) -> np.ndarray:
    """E[x0 | x] for every x in X, by summing prior times likelihood over a fine grid of x0."""
    likelihood = np.exp(-((X.numpy() - at.alpha * grid) ** 2) / (2 * at.sigma**2))
    weight = density * likelihood
    return (weight * grid).sum(1) / weight.sum(1)


@pytest.mark.parametrize("at", PLACES, ids=lambda at: f"t{at.t:g}")
def test_gaussian_denoiser_is_the_posterior_mean(at):
    grid = np.linspace(-8, 8, 40_001)
    expected = posterior_mean(np.exp(-((grid - 0.7) ** 2) / (2 * 0.25)), grid, at)
    found = GaussianDenoiser(0.7, 0.25)(X, at)
    np.testing.assert_allclose(found.x0[:, 0], expected, atol=1e-9)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, X, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at", PLACES, ids=lambda at: f"t{at.t:g}")
def test_mixture_denoiser_is_the_posterior_mean(at):
    means, weights, variance = (-1.5, 0.2, 1.0), (0.5, 0.2, 0.3), 0.04
    grid = np.linspace(-8, 8, 40_001)
    density = sum(w * np.exp(-((grid - m) ** 2) / (2 * variance)) for w, m in zip(weights, means, strict=True))
    expected = posterior_mean(density, grid, at)
    found = MixtureDenoiser(torch.tensor(means)[:, None].double(), variance, torch.tensor(weights).double())(X, at)
    np.testing.assert_allclose(found.x0[:, 0], expected, atol=1e-6)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, X, rtol=0, atol=1e-12)


def test_a_mixture_of_one_is_the_gaussian():
    mean = torch.tensor([[[0.7, -0.2], [0.1, 0.4]]]).double()
    x = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = MixtureDenoiser(mean, 0.25, torch.ones(1).double())(x, PLACES[1])
    torch.testing.assert_close(one.x0, GaussianDenoiser(mean[0], 0.25)(x, PLACES[1]).x0)


def test_flow_solves_the_probability_flow_equation():
    """Along dx/dphi = v, with alpha = cos(phi) and sigma = sin(phi): checked by central differences."""
    denoiser, phi, h = GaussianDenoiser(0.7, 0.25), 0.8, 1e-5

    def place(angle: float) -> Point:
        return Point(0.0, float(np.cos(angle)), float(np.sin(angle)))

    here = place(phi)
    slope = (denoiser.flow(X, here, place(phi + h)) - denoiser.flow(X, here, place(phi - h))) / (2 * h)
    estimate = denoiser(X, here)
    torch.testing.assert_close(slope, here.alpha * estimate.eps - here.sigma * estimate.x0, rtol=0, atol=1e-8)
