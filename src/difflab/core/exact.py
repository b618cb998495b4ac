"""Denoisers in closed form, for data whose distribution is known: the samplers' measuring sticks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from difflab.core.denoiser import Estimate
from difflab.core.prediction import to_eps
from difflab.core.schedule import Point


@dataclass(frozen=True)
class GaussianDenoiser:
    """Exact E[x0 | x_t] for data N(mean, variance), independently in every dimension.

    x0 = m + s2 alpha / (alpha^2 s2 + sigma^2) (x - alpha m)

    Args:
        mean, variance: floats, or tensors that broadcast over a sample.
    """

    mean: float | Tensor
    variance: float | Tensor

    def __call__(self, x: Tensor, at: Point) -> Estimate:
        gain = self.variance * at.alpha / (at.alpha**2 * self.variance + at.sigma**2)
        x0 = self.mean + gain * (x - at.alpha * self.mean)
        return Estimate(x0, to_eps(x0, x, at, "x0"))

    def flow(self, x: Tensor, start: Point, end: Point) -> Tensor:
        """Where the probability-flow ODE carries `x` from `start` to `end`: standardised values do not move."""
        deviation = [(p.alpha**2 * self.variance + p.sigma**2) ** 0.5 for p in (start, end)]
        return end.alpha * self.mean + deviation[1] / deviation[0] * (x - start.alpha * self.mean)


@dataclass(frozen=True)
class MixtureDenoiser:
    """Exact E[x0 | x_t] for a mixture of isotropic Gaussians.

    Args:
        means: (K, *shape) the components' means; variance: of every component; weights: (K,) summing to 1.
    """

    means: Tensor
    variance: float
    weights: Tensor

    def __call__(self, x: Tensor, at: Point) -> Estimate:
        means, flat = self.means.flatten(1).to(x.dtype), x.flatten(1)  # (K, D), (B, D)
        spread = at.alpha**2 * self.variance + at.sigma**2
        distance = torch.cdist(flat, at.alpha * means).square()  # (B, K)
        share = torch.softmax(self.weights.to(x.dtype).log() - distance / (2 * spread), dim=1)
        gain = self.variance * at.alpha / spread
        mean = share @ means
        x0 = (mean + gain * (flat - at.alpha * mean)).reshape(x.shape)
        return Estimate(x0, to_eps(x0, x, at, "x0"))
