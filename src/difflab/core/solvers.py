"""Solvers that need few steps: they follow curves where DDIM follows tangents.

All are written for the half log signal-to-noise ratio, lambda = log(alpha / sigma), in which the probability flow has
an exact linear part; h is a step of it. A step that lands on clean data, where lambda is infinite, is the clean
estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from difflab.core.denoiser import Denoise, Estimate
from difflab.core.schedule import Point, half_log_snr
from difflab.core.step import Step


class Belief(NamedTuple):
    """What was estimated at a place that was visited."""

    at: Point
    value: Tensor


@dataclass(frozen=True)
class Heun:
    """Karras et al. (2022), algorithm 1 without its noise: x / alpha moves along eps in sigma / alpha, by the mean of
    eps at both ends of a step. The step that lands on clean data is Euler's."""

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False

    def step(self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: None) -> Step:
        """A step of two network calls."""
        estimate = denoise(x, now)
        if nxt.sigma == 0.0:
            return Step(nxt.alpha * estimate.x0, estimate)
        stride = nxt.alpha * (nxt.sigma / nxt.alpha - now.sigma / now.alpha)
        start = (nxt.alpha / now.alpha) * x
        guess = start + stride * estimate.eps
        return Step(start + stride * 0.5 * (estimate.eps + denoise(guess, nxt).eps), estimate)


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ (Lu et al. 2022b), multistep: a polynomial through the last estimates, integrated exactly.

    degree: 1 to 3, of which 1 is DDIM and 2 is "2M", and 3 is as in its code, whose curvature is half of Taylor's;
    predicts: what is interpolated, `x0` for DPM-Solver++, `eps` for DPM-Solver (Lu et al. 2022a). The first steps have
    fewer estimates and so a lower degree.
    """

    stochastic: ClassVar[bool] = False
    degree: Literal[1, 2, 3] = 2
    predicts: Literal["x0", "eps"] = "x0"

    @property
    def order(self) -> int:
        """Of convergence: beyond 2 the first steps, of lower degree, decide."""
        return min(self.degree, 2)

    def step(
        self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: Sequence[Belief] | None
    ) -> Step:
        """Eq. 12 of DPM-Solver++ for two estimates; for three see its appendix."""
        estimate = denoise(x, now)
        beliefs = (Belief(now, self._of(estimate)), *(memory or ()))[: self.degree]
        if nxt.sigma == 0.0:
            return Step(nxt.alpha * estimate.x0, estimate, beliefs)
        h = half_log_snr(nxt) - half_log_snr(now)
        sign = -1.0 if self.predicts == "x0" else 1.0
        scale = nxt.alpha if self.predicts == "x0" else nxt.sigma
        kept = nxt.sigma / now.sigma if self.predicts == "x0" else nxt.alpha / now.alpha
        phi1 = math.expm1(sign * h)
        x = kept * x - scale * phi1 * beliefs[0].value
        if len(beliefs) == 2:
            x = x - 0.5 * scale * phi1 * h * slope(*beliefs)
        elif len(beliefs) == 3:
            near, far = slope(*beliefs[:2]), slope(*beliefs[1:])
            h0, h1 = (half_log_snr(a.at) - half_log_snr(b.at) for a, b in pairwise(beliefs))
            bend = (near - far) / (h0 + h1)  # half the second derivative
            phi2 = phi1 / h - sign
            phi3 = phi2 / h - 0.5
            x = x + scale * (sign * -phi2 * h * (near + h0 * bend) - phi3 * h**2 * bend)
        return Step(x, estimate, beliefs)

    def _of(self, estimate: Estimate) -> Tensor:
        return estimate.x0 if self.predicts == "x0" else estimate.eps


@dataclass(frozen=True)
class DPMSolverSDE:
    """SDE-DPM-Solver++ (2M) (Lu et al. 2022b, section 3.4): the same of the reverse diffusion with its noise."""

    order: ClassVar[int] = 0
    stochastic: ClassVar[bool] = True

    def step(
        self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: Belief | None
    ) -> Step:
        """e^-h sigma'/sigma x + alpha' (1 - e^-2h) (x0 + h/2 its slope) + sigma' sqrt(1 - e^-2h) z."""
        estimate = denoise(x, now)
        belief = Belief(now, estimate.x0)
        if nxt.sigma == 0.0:
            return Step(nxt.alpha * estimate.x0, estimate, belief)
        h = half_log_snr(nxt) - half_log_snr(now)
        fresh = -math.expm1(-2.0 * h)
        ahead = belief.value if memory is None else belief.value + 0.5 * h * slope(belief, memory)
        x = math.exp(-h) * (nxt.sigma / now.sigma) * x + nxt.alpha * fresh * ahead
        return Step(x if noise is None else x + nxt.sigma * math.sqrt(fresh) * noise, estimate, belief)


class _Visit(NamedTuple):
    """Where a step of `UniPC` began: the state there after its correction, and the estimates there and before."""

    x: Tensor
    beliefs: tuple[Belief, ...]


@dataclass(frozen=True)
class UniPC:
    """UniPC-2 (Zhao et al. 2023) with B2(h) = e^h - 1, on x0: each network call predicts the next step and, at no
    price, corrects the one before. The last step has no estimate of its end, and so no correction."""

    order: ClassVar[int] = 3
    stochastic: ClassVar[bool] = False

    def step(
        self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: _Visit | None
    ) -> Step:
        """Correct the step before by the estimate here, then predict."""
        estimate = denoise(x, now)
        here = Belief(now, estimate.x0)
        if memory is not None:
            x = self._corrected(memory, here)
        beliefs = (here, *(memory.beliefs if memory else ()))[:2]
        if nxt.sigma == 0.0:
            return Step(nxt.alpha * estimate.x0, estimate)
        h = half_log_snr(nxt) - half_log_snr(now)
        ahead = beliefs[0].value if len(beliefs) == 1 else beliefs[0].value + 0.5 * h * slope(*beliefs)
        moved = (nxt.sigma / now.sigma) * x - nxt.alpha * math.expm1(-h) * ahead
        return Step(moved, estimate, _Visit(x, beliefs))

    def _corrected(self, before: _Visit, here: Belief) -> Tensor:
        """The step to `here` again, with the estimate at its end: algorithm 1 of the paper, "UniC"."""
        start = before.beliefs[0]
        h = half_log_snr(here.at) - half_log_snr(start.at)
        phi1 = math.expm1(-h)
        change = here.value - start.value
        if len(before.beliefs) == 1:
            bent = 0.5 * change
        else:
            r = (half_log_snr(before.beliefs[1].at) - half_log_snr(start.at)) / h  # negative
            first = (phi1 / -h - 1.0) / phi1
            second = 2.0 * ((phi1 / -h - 1.0) / -h - 0.5) / phi1
            # rho solves [[1, 1], [r, 1]] rho = (first, second)
            behind = (first - second) / (1.0 - r)
            bent = behind * (before.beliefs[1].value - start.value) / r + (first - behind) * change
        return (here.at.sigma / start.at.sigma) * before.x - here.at.alpha * phi1 * (start.value + bent)


def slope(later: Belief, earlier: Belief) -> Tensor:
    """How an estimate changed between two places, per unit of lambda."""
    return (later.value - earlier.value) / (half_log_snr(later.at) - half_log_snr(earlier.at))
