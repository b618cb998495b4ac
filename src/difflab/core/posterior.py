"""The forward process seen backwards: q(x_s | x_t, x0) for neighbouring places t > s (Ho et al. 2020, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from difflab.core.schedule import CLEAN, Point, Schedule


def beta(now: Point, nxt: Point) -> float:
    """1 - alpha_t^2 / alpha_s^2: the variance that the forward process adds from `nxt` to `now`."""
    return 1.0 - (now.alpha / nxt.alpha) ** 2


def posterior_variance(now: Point, nxt: Point) -> float:
    """Variance of q(x_s | x_t, x0): beta sigma_s^2 / sigma_t^2."""
    return beta(now, nxt) * (nxt.sigma / now.sigma) ** 2


def posterior_coefficients(now: Point, nxt: Point) -> tuple[float, float]:
    """Weights of x0 and x_t in the mean of q(x_s | x_t, x0)."""
    variance = now.sigma**2
    return nxt.alpha * beta(now, nxt) / variance, (now.alpha / nxt.alpha) * nxt.sigma**2 / variance


@dataclass(frozen=True)
class Posteriors:
    """The posterior of every step t -> t - 1 of a schedule, each array (T,) float64, the first one t = 0.

    on_x0, on_x: weights of its mean; log_small: its log variance, at t = 0, where it is none, that of t = 1;
    log_large: log beta. A learned variance lies between the two (Nichol and Dhariwal 2021, eq. 15).
    """

    on_x0: np.ndarray
    on_x: np.ndarray
    log_small: np.ndarray
    log_large: np.ndarray

    @classmethod
    def of(cls, schedule: Schedule) -> Posteriors:
        """Tables of a schedule of at least two timesteps."""
        points = [schedule.point(t) for t in range(CLEAN, schedule.timesteps)]
        steps = [(now, nxt) for nxt, now in pairwise(points)]
        weights = np.array([posterior_coefficients(*step) for step in steps])
        small = np.array([posterior_variance(*step) for step in steps])
        small[0] = small[1]
        large = np.array([beta(*step) for step in steps])
        return cls(weights[:, 0], weights[:, 1], np.log(small), np.log(large))

    def at(self, t: Tensor, ndim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """on_x0, on_x, log_small, log_large at timesteps t (B,), float32 (B, 1, ..) for data of `ndim` dimensions."""
        tables = (self.on_x0, self.on_x, self.log_small, self.log_large)
        on_x0, on_x, small, large = (
            torch.from_numpy(table).to(t.device)[t].float().reshape(-1, *[1] * (ndim - 1)) for table in tables
        )
        return on_x0, on_x, small, large
