"""From a network's output to a clean estimate: the only place that interprets, splits and clips outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from difflab.core.prediction import Prediction, to_eps, to_x0
from difflab.core.schedule import Point
from difflab.precision import full_precision

Network = Callable[[Tensor, Point], Tensor]  # (x (B, ..), place) -> output (B, ..); conditioning is bound already


class Pull(NamedTuple):
    """What a classifier did to an estimate: x0 before it, and the gradient (B, ..) of scale log p(y | x_t)."""

    x0: Tensor
    gradient: Tensor


class Estimate(NamedTuple):
    """What is believed at a point: the clean data, the noise, and the learned share of the variance's range.

    x0 and eps always agree: x = alpha x0 + sigma eps, also after clipping. variance_share is (v + 1) / 2 of Nichol and
    Dhariwal (2021), unclamped, or None when the model does not learn its variance. pull is there where a classifier
    guides; x0 and eps have followed it already, so a sampler need not know of it.
    """

    x0: Tensor
    eps: Tensor
    variance_share: Tensor | None = None
    pull: Pull | None = None


Denoise = Callable[[Tensor, Point], Estimate]  # all that a sampler ever sees of a model


@dataclass(frozen=True)
class Told:
    """A network that is told the timestep, and conditions (B, ..) if there are any."""

    network: Callable[..., Tensor]
    conditions: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, at: Point) -> Tensor:
        return self.network(x, timesteps_of(x, at), *self.conditions)


def timesteps_of(x: Tensor, at: Point) -> Tensor:
    """(B,) float32: the place's timestep, once for each sample of `x` (B, ..)."""
    return torch.full((len(x),), float(at.t), dtype=torch.float32, device=x.device)


@dataclass(frozen=True)
class Denoiser:
    """E[x0 | x_t] from a network.

    Args:
        network: answers (B, C, ..) or, with a learned variance, (B, 2 C, ..); a bare one goes into `Told`.
        prediction: what the first C channels mean.
        learned_variance: whether the last C channels place the log variance within its range.
        clip: whether x0 is clamped to [-1, 1]; eps then follows it.
        percentile: instead, each sample is clamped at this percentile of its |x0|, 0 to 1, where that exceeds 1, and
            divided by it: dynamic thresholding (Saharia et al. 2022, section 2.3).
    """

    network: Network
    prediction: Prediction = "eps"
    learned_variance: bool = False
    clip: bool = False
    percentile: float | None = None

    def __call__(self, x: Tensor, at: Point) -> Estimate:
        """Estimate for x (B, C, ..) float32 at a point that all samples share."""
        with full_precision():
            output = self.network(x, at).to(x.dtype)
        share = None
        if self.learned_variance:
            output, raw = output.chunk(2, dim=1)
            share = (raw + 1) / 2
        x0 = to_x0(output, x, at, self.prediction)
        if not self.clip and self.percentile is None:
            return Estimate(x0, to_eps(output, x, at, self.prediction), share)
        x0 = x0.clamp(-1.0, 1.0) if self.percentile is None else threshold(x0, self.percentile)
        return Estimate(x0, to_eps(x0, x, at, "x0"), share)


def threshold(x0: Tensor, percentile: float) -> Tensor:
    """x0 (B, ..) clamped, sample by sample, at the percentile of its absolute values if above 1, and brought to it."""
    sizes = torch.stack([torch.quantile(sample.abs().flatten(), percentile) for sample in x0])
    bound = sizes.clamp_min(1.0).reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-bound, bound) / bound
