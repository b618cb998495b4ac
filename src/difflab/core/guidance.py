"""Classifier-free guidance (Ho and Salimans 2022), and where along the way it acts; guidance by a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from difflab.core.denoiser import Denoise, Estimate, Pull, timesteps_of
from difflab.core.names import Course
from difflab.core.prediction import to_x0
from difflab.core.schedule import Point
from difflab.errors import DifflabError


class ConditionalNetwork(Protocol):
    """A network that is told a condition besides the timestep."""

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Guidance:
    """How much and where the condition is exaggerated.

    Args:
        scale: 1 is off, 0 ignores the condition.
        channels: how many of the first output channels are guided; None is all that hold the prediction. Official DiT
            guides three of four.
        low, high: noise levels sigma / alpha; guide where low < level <= high (Kynkaanniemi et al. 2024). Elsewhere the
            scale is 1, and the unconditional pass is left out; high None is without bound.
        rescale: 0 to 1: how far the guided output is brought back to the standard deviation of the conditional one
            (Lin et al. 2024, section 3.4).
        course: `constant`, or a scale whose excess over 1 rises from 0 at the noise to twice itself at the data,
            `linear` in the timestep or as a `cosine` (Wang et al. 2024); the mean over timesteps stays the same.

    Raises DifflabError for values out of range.
    """

    scale: float = 1.0
    channels: int | None = None
    low: float = 0.0
    high: float | None = None
    rescale: float = 0.0
    course: Course = "constant"

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale < math.inf:
            raise DifflabError(f"guidance is {self.scale:g}, but must be 0 or more; 1 is off.")
        if not 0.0 <= self.rescale <= 1.0:
            raise DifflabError(f"the rescaling of guidance is {self.rescale:g}, but must lie between 0 (off) and 1.")
        if self.channels is not None and self.channels < 1:
            raise DifflabError(f"{self.channels} guided channels were asked for, but it must be at least one.")
        if not 0.0 <= self.low < self._top:
            raise DifflabError(
                f"the interval of guidance is {self.low:g} to {self._top:g}, but must go from a lower noise level "
                "(sigma / alpha, 0 or more) to a higher one."
            )

    @property
    def _top(self) -> float:
        return math.inf if self.high is None else self.high

    def scale_at(self, at: Point, timesteps: int) -> float:
        """The scale at a place of a schedule of so many timesteps."""
        level = at.sigma / at.alpha if at.alpha else math.inf
        if not self.low < level <= self._top:
            return 1.0
        way = at.t / max(timesteps - 1, 1)  # 1 at the noise
        if self.course == "linear":
            return 1.0 + 2.0 * (1.0 - way) * (self.scale - 1.0)
        if self.course == "cosine":
            return 1.0 + (1.0 + math.cos(math.pi * way)) * (self.scale - 1.0)
        return self.scale


@dataclass(frozen=True)
class Guided:
    """null + scale (conditional - null), as one double batch; where the scale is 1, the conditional network alone.

    For eps, v and x0 outputs alike this guides the noise estimate, since each is affine in the others at a fixed x.

    Args:
        network: the conditional network.
        condition: (B, ..) what is asked for.
        null: (B, ..) the empty condition.
        guidance: how much and where.
        timesteps: of the schedule.
        predicted: output channels that hold the prediction, None for all; a learned variance stays conditional.
    """

    network: ConditionalNetwork
    condition: Tensor
    null: Tensor
    guidance: Guidance
    timesteps: int
    predicted: int | None = None

    def __call__(self, x: Tensor, at: Point) -> Tensor:
        scale, t = self.guidance.scale_at(at, self.timesteps), timesteps_of(x, at)
        if scale == 1.0:
            return self.network(x, t, self.condition)
        both = self.network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([self.condition, self.null]))
        output, null = both.chunk(2)
        channels = slice(self.guidance.channels or self.predicted)
        conditional = output[:, channels]
        guided = torch.lerp(null[:, channels], conditional, scale)
        if self.guidance.rescale:
            guided = torch.lerp(guided, guided * (_deviation(conditional) / _deviation(guided)), self.guidance.rescale)
        if guided.shape == output.shape:
            return guided
        return torch.cat([guided, output[:, guided.shape[1] :]], dim=1)


class NoisyClassifier(Protocol):
    """Tells the class of noisy samples: x (B, ..), t (B,) -> logits (B, classes), differentiable in x."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ClassifierGuided:
    """A denoiser guided by a classifier of noisy samples (Dhariwal and Nichol 2021, section 4).

    The score of log p(x_t) + scale log p(y | x_t) is that of eps' = eps - sigma scale grad log p(y | x_t), as in their
    algorithm 2, and x0 = (x - sigma eps') / alpha follows it without being clamped again. So DDIM at any eta, and all
    solvers of the probability flow and correctors, go by the guided score. `core.sampler.Ancestral` reads
    `Estimate.pull` instead and shifts its mean, as in algorithm 1.

    Args:
        denoise: without the classifier.
        classifier: its classes are those of `classes`.
        classes: (B,) int64 what is asked for.
        scale: 0 leaves the classifier out; 1 samples from p(x | y) where both are exact.
    """

    denoise: Denoise
    classifier: NoisyClassifier
    classes: Tensor
    scale: float

    def __call__(self, x: Tensor, at: Point) -> Estimate:
        """Estimate for x (B, ..) at a point that all samples share."""
        estimate = self.denoise(x, at)
        gradient = self.scale * self._gradient(x, at)
        eps = estimate.eps - at.sigma * gradient
        return Estimate(to_x0(eps, x, at, "eps"), eps, estimate.variance_share, Pull(estimate.x0, gradient))

    def _gradient(self, x: Tensor, at: Point) -> Tensor:
        """Of log p(y | x_t) in x: each sample's own, since none enters another's logits."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logarithms = self.classifier(x, timesteps_of(x, at)).log_softmax(dim=1)
            asked = logarithms.gather(1, self.classes[:, None]).sum()
            return torch.autograd.grad(asked, x)[0]


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of each sample (B, 1, ..)."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)
