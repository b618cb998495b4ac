"""Samplers: each is one `step`, and `trajectory` is the only loop.

A sampler is a frozen dataclass that knows its own settings and nothing of networks, guidance or files. Adding one means
writing its `step` and a row in `SAMPLERS`. Those for few steps are in `core.solvers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from difflab.core.denoiser import Denoise, Estimate
from difflab.core.names import SamplerName, SolverSpacing
from difflab.core.noise import Noise
from difflab.core.posterior import beta, posterior_coefficients, posterior_variance
from difflab.core.schedule import Point
from difflab.core.solvers import DPMSolver, DPMSolverSDE, Heun, UniPC
from difflab.core.step import Sampler, Step
from difflab.errors import DifflabError, suggest

Variance = Literal["small", "large", "learned"]

_CORRECTING = 1 << 33  # the corrector's draws, apart from those of the steps


@dataclass(frozen=True)
class DDIM:
    """Song, Meng and Ermon (2021), eq. 12 and 16: eta 0 is deterministic, eta 1 has DDPM's posterior variance.

    Raises DifflabError unless 0 <= eta <= 1 (beyond 1 the variance exceeds what there is).
    """

    order: ClassVar[int] = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise DifflabError(f"eta is {self.eta:g}, but must lie between 0 (deterministic DDIM) and 1 (DDPM).")

    @property
    def stochastic(self) -> bool:
        """Whether steps use noise."""
        return self.eta > 0.0

    def step(self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: None) -> Step:
        """alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z."""
        estimate = denoise(x, now)
        s = self.eta * math.sqrt(posterior_variance(now, nxt))
        direction = math.sqrt(max(nxt.sigma**2 - s**2, 0.0))  # rounding may go below zero at eta 1
        x = nxt.alpha * estimate.x0 + direction * estimate.eps
        return Step(x if noise is None else x + s * noise, estimate)


@dataclass(frozen=True)
class Ancestral:
    """Ho, Jain and Abbeel (2020), Algorithm 2: a draw from the posterior q(x_s | x_t, x0), on any grid.

    variance `small` is the posterior's own, `large` is beta = 1 - alpha_t^2 / alpha_s^2, `learned` lies between the two
    in log space where the network says (Nichol and Dhariwal 2021, eq. 15). gamma, 0 to 1, takes a fixed place between
    the two in log space instead (Ho et al. 2022): 0 is small, 1 is large.

    Where a classifier guides, the mean moves by variance * scale * gradient (Dhariwal and Nichol 2021, algorithm 1),
    the variance being that of the step's noise. The last step has neither; guided-diffusion moves there, too, with a
    variance of about 1e-4 that it takes from the first steps of the schedule.

    Raises DifflabError for a gamma out of range.
    """

    order: ClassVar[int] = 0
    variance: Variance = "small"
    gamma: float | None = None

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.gamma is not None and not 0.0 <= self.gamma <= 1.0:
            raise DifflabError(f"gamma is {self.gamma:g}, but must lie between 0 (small variance) and 1 (large).")

    def step(self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: None) -> Step:
        """Posterior mean of the clean estimate, plus noise."""
        estimate = denoise(x, now)
        on_x0, on_x = posterior_coefficients(now, nxt)
        pull = estimate.pull
        mean = on_x0 * (estimate.x0 if pull is None else pull.x0) + on_x * x
        if noise is None:
            return Step(mean, estimate)
        deviation = self._deviation(estimate, now, nxt)
        if pull is not None:
            mean = mean + deviation**2 * pull.gradient
        return Step(mean + deviation * noise, estimate)

    def _deviation(self, estimate: Estimate, now: Point, nxt: Point) -> float | Tensor:
        small, large = posterior_variance(now, nxt), beta(now, nxt)
        if self.gamma is not None:
            return math.sqrt(small ** (1 - self.gamma) * large**self.gamma)
        if self.variance == "learned":
            if estimate.variance_share is None:
                raise DifflabError(
                    "variance 'learned' was asked for, but this model has no variance output: choose small or large."
                )
            if small == 0.0:
                return 0.0
            share = estimate.variance_share
            return torch.exp(0.5 * (share * math.log(large) + (1 - share) * math.log(small)))
        return math.sqrt(small if self.variance == "small" else large)


@dataclass(frozen=True)
class Langevin:
    """A corrector: one step of Langevin dynamics at the noise level reached (Song et al. 2021, algorithm 4; Ho et al.
    2022), which leaves the distribution there alone to first order and wipes out some of the steps' errors.

    size: delta; z becomes z - delta sigma eps / 2 + sqrt(delta) sigma noise, at the price of one more network call.
    """

    size: float = 0.1

    def __call__(self, denoise: Denoise, x: Tensor, at: Point, noise: Tensor) -> Tensor:
        eps = denoise(x, at).eps
        return x - 0.5 * self.size * at.sigma * eps + math.sqrt(self.size) * at.sigma * noise


@dataclass(frozen=True)
class Method:
    """A sampler by name.

    build: makes it from (eta, the model's variance); clips: whether it clamps x0 of bounded data; spacing: where its
    steps lie unless told, None is where the model's family has them; remembers: whether a step needs what the one
    before it saw.
    """

    build: Callable[[float, Variance], Sampler]
    clips: bool
    spacing: SolverSpacing | None = None
    remembers: bool = False


SAMPLERS: dict[SamplerName, Method] = {
    "ddim": Method(lambda eta, variance: DDIM(eta), clips=False),
    "ddpm": Method(lambda eta, variance: Ancestral(variance), clips=True),
    "ddpm-noisy": Method(lambda eta, variance: Ancestral("large"), clips=True),  # ermongroup's: the paper's sigma-hat
    "heun": Method(lambda eta, variance: Heun(), clips=False, spacing="karras"),
    "dpmpp-2m": Method(lambda eta, variance: DPMSolver(), clips=False, spacing="logsnr", remembers=True),
    "dpmpp-2m-sde": Method(lambda eta, variance: DPMSolverSDE(), clips=False, spacing="logsnr", remembers=True),
    "unipc": Method(lambda eta, variance: UniPC(), clips=False, spacing="logsnr", remembers=True),
}


def method(name: str) -> Method:
    """The sampler's row in `SAMPLERS`; raises DifflabError for an unknown name."""
    if name not in SAMPLERS:
        raise DifflabError(f"sampler {name!r} is not known.{suggest(name, SAMPLERS)}")
    return SAMPLERS[name]


def trajectory(
    denoise: Denoise, sampler: Sampler, points: Sequence[Point], noise: Noise, corrector: Langevin | None = None
) -> Iterator[Step]:
    """Walk from pure noise to data along `points` (steps + 1, the last one clean), yielding after every step.

    Memory does not grow with the number of steps: only the latest state is held. Draw 0 of `noise` is the start; step
    k, counted from 1, uses draw k if the sampler is stochastic. The step that lands on clean data adds no noise. A
    corrector acts after every other step, with draws of its own.
    """
    x, memory = noise.draw(0), None
    for k, (now, nxt) in enumerate(pairwise(points), start=1):
        fresh = noise.draw(k) if sampler.stochastic and nxt.sigma > 0.0 else None
        with torch.no_grad():
            step = sampler.step(denoise, x, now, nxt, fresh, memory)
            if corrector is not None and nxt.sigma > 0.0:
                step = step._replace(x=corrector(denoise, step.x, nxt, noise.draw(_CORRECTING + k)))
        yield step
        x, memory = step.x, step.memory


def final(steps: Iterator[Step]) -> Tensor:
    """The last state of a trajectory."""
    x = None
    for step in steps:
        x = step.x
    if x is None:
        raise ValueError("a trajectory needs at least one step")
    return x
