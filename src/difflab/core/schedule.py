"""Noise schedules: timestep -> (alpha, sigma), and the grids of timesteps that samplers walk.

Notation throughout difflab: x_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1. The papers' cumulative product
"alpha bar" is alpha^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from difflab.core.names import BetaName, SolverSpacing, Spacing
from difflab.errors import DifflabError, suggest

_MOST_LOGSNR = 20.0
_LEAST_HALF_LOGSNR = -5.1  # below which solvers do not begin
_RHO = 7.0  # of Karras et al. (2022)
CLEAN = -1  # the timestep of clean data


class Point(NamedTuple):
    """One place on the path from noise to data: t is what the network is told, alpha and sigma scale data and noise.

    While sampling all samples are at the same place, so these are plain floats in double precision.
    """

    t: float
    alpha: float
    sigma: float


def half_log_snr(at: Point) -> float:
    """lambda = log(alpha / sigma), half the logarithm of the signal-to-noise ratio; infinite at clean data, minus that
    at pure noise."""
    if at.sigma == 0.0 or at.alpha == 0.0:
        return math.inf if at.alpha else -math.inf
    return math.log(at.alpha / at.sigma)


class Places(NamedTuple):
    """A place for each sample of a training batch: t (B,) int64; alpha and sigma (B, 1, ..) float32, to broadcast."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A table of alpha_bar for T training timesteps 0 .. T - 1; timestep -1 is clean data.

    Args:
        alpha_bar: (T,) float64, decreasing, within (0, 1); the last one may be 0.
    """

    alpha_bar: np.ndarray

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alpha_bar)

    def point(self, t: float) -> Point:
        """The place of timestep `t`, -1 or 0 .. T - 1, in double precision. Between timesteps log alpha is linear in t,
        as in DPM-Solver's code."""
        if t == CLEAN:
            return Point(float(t), 1.0, 0.0)
        below = math.floor(t)
        bar = float(self.alpha_bar[below])
        if t > below:
            bar = math.exp(float(np.interp(t - below, (0.0, 1.0), self._log_bar[below : below + 2])))
        return Point(float(t), math.sqrt(bar), math.sqrt(1.0 - bar))

    def timestep_at(self, half_log_snr: float) -> float:
        """The timestep 0 .. T - 1, between two where need be, at which log(alpha / sigma) is this; the nearer end where
        none is."""
        log_bar = -np.logaddexp(0.0, -2.0 * half_log_snr)  # alpha^2 = 1 / (1 + e^(-2 lambda))
        return float(np.interp(-log_bar, -self._log_bar, np.arange(self.timesteps)))

    @property
    def half_log_snrs(self) -> np.ndarray:
        """(T,) log(alpha / sigma) of every timestep, decreasing; pure noise counts as alpha^2 = 1e-300."""
        return 0.5 * (self._log_bar - np.log1p(-self.alpha_bar))

    @property
    def _log_bar(self) -> np.ndarray:
        return np.log(self.alpha_bar.clip(min=1e-300))

    def at(self, t: Tensor, ndim: int) -> Places:
        """The places of a batch of timesteps (B,) int64, for data of `ndim` dimensions."""
        bar = torch.from_numpy(self.alpha_bar).to(t.device)[t].reshape(-1, *[1] * (ndim - 1))
        return Places(t, bar.sqrt().float(), (1.0 - bar).sqrt().float())


def betas(name: BetaName, timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """The forward process's variances (T,) float64.

    `linear`, `quad`, `const`, `jsd` and `sigmoid` are those of ermongroup/ddim; `cosine` is that of Nichol and Dhariwal
    (2021), which ignores beta_start and beta_end and clips at 0.999; `cosine-9999` clips at 0.9999, as
    video-diffusion-pytorch does; `cosine-logsnr` is the cosine curve cut off at log signal-to-noise ratios of -20 and
    20, at T even times (Kingma et al. 2021; Ho et al. 2022). Raises DifflabError for another name.
    """
    b0, b1, n = beta_start, beta_end, timesteps
    if name == "linear":
        return np.linspace(b0, b1, n)
    if name == "quad":
        return np.linspace(math.sqrt(b0), math.sqrt(b1), n) ** 2
    if name == "const":
        return np.full(n, b1)
    if name == "jsd":
        return 1.0 / np.linspace(n, 1, n)
    if name == "sigmoid":
        return (b1 - b0) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, n))) + b0
    if name in ("cosine", "cosine-9999"):
        bar = np.cos((np.linspace(0.0, 1.0, n + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1.0 - bar[1:] / bar[:-1], 0.999 if name == "cosine" else 0.9999)
    if name == "cosine-logsnr":
        near, far = math.atan(math.exp(-_MOST_LOGSNR / 2)), math.atan(math.exp(_MOST_LOGSNR / 2))
        bar = np.cos(near + np.linspace(0.0, 1.0, n + 1)[1:] * (far - near)) ** 2  # sigmoid(-2 ln tan)
        return 1.0 - bar / np.concatenate([[1.0], bar[:-1]])
    raise DifflabError(f"beta schedule {name!r} is not known.{suggest(name, get_args(BetaName))}")


def make_schedule(name: BetaName, timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """The schedule of the named variances; see `betas`."""
    return Schedule(np.cumprod(1.0 - betas(name, timesteps, beta_start, beta_end)))


def path_of(schedule: Schedule, grid: np.ndarray) -> list[Point]:
    """The places a sampler visits on the increasing timesteps of `grid`, from noise to clean data."""
    return [schedule.point(float(t)) for t in [*grid[::-1], CLEAN]]


def path(schedule: Schedule, steps: int, spacing: Spacing = "uniform", *, official_grid: bool = False) -> list[Point]:
    """The places a sampler visits, from noise to clean data: one more than there are steps.

    Raises DifflabError unless 1 <= steps <= T.
    """
    return path_of(schedule, grid_of(schedule, steps, spacing, official_grid=official_grid))


def grid_of(schedule: Schedule, steps: int, spacing: Spacing = "uniform", *, official_grid: bool = False) -> np.ndarray:
    """The increasing timesteps (steps,) at which the network is asked: see `timestep_grid` and `solver_grid`.

    Raises DifflabError unless 1 <= steps <= T, or for a spacing that has no official form.
    """
    if spacing in get_args(SolverSpacing) and not official_grid:
        return solver_grid(schedule, steps, cast(SolverSpacing, spacing))
    return timestep_grid(schedule.timesteps, steps, spacing, official_grid=official_grid)


def solver_grid(schedule: Schedule, steps: int, spacing: SolverSpacing) -> np.ndarray:
    """The increasing timesteps (steps,) float64, fractions among them, on which few-step solvers were published.

    DPM-Solver's cut the way from the noisiest timestep to 0 into `steps` and ask at the beginning of each: evenly in t
    (`time-uniform`), in its square root (`time-quadratic`), or in log(alpha / sigma) (`logsnr`). `karras` is evenly in
    (sigma / alpha)^(1/7), its last call at 0 (Karras et al. 2022, eq. 5). All begin at the noisiest timestep whose
    log(alpha / sigma) is -5.1 or more, as DPM-Solver does: cosine schedules go on far beyond, where a prediction of eps
    tells nothing of x0. Where DPM-Solver ends at timestep 0, a path here ends in clean data.

    Raises DifflabError unless 1 <= steps <= T.
    """
    _check_steps(steps, schedule.timesteps)
    levels = schedule.half_log_snrs
    first = max(0, int(np.count_nonzero(levels >= _LEAST_HALF_LOGSNR)) - 1)
    if spacing == "time-uniform":
        return np.linspace(first, 0, steps + 1)[-2::-1]
    if spacing == "time-quadratic":  # of t = (label + 1) / T
        return np.linspace(math.sqrt(first + 1), 1.0, steps + 1)[-2::-1] ** 2 - 1
    if spacing == "logsnr":
        wanted = np.linspace(levels[first], levels[0], steps + 1)[-2::-1]
    else:
        ends = math.exp(-levels[first] / _RHO), math.exp(-levels[0] / _RHO)
        wanted = -_RHO * np.log(np.linspace(*ends, steps))[::-1]
    return np.array([schedule.timestep_at(level) for level in wanted])


def timestep_grid(
    timesteps: int, steps: int, spacing: Spacing = "uniform", *, official_grid: bool = False
) -> np.ndarray:
    """The increasing timesteps (steps,) int64 at which the network is asked; sampling walks them backwards.

    `uniform` and `quad` are those of ermongroup/ddim, mended so that exactly `steps` different timesteps come out:
    where the original integer stride gives more of them the stride is a fraction, and where it repeats small timesteps
    they are moved up. Wherever the original grid is sound, the mended one equals it. `official_grid` gives the original
    one, which may be longer (`uniform` with steps that do not divide T) or repeat itself (`quad`).
    `leading`, `trailing` and `linspace` are those of Lin et al. (2024), table 2, as diffusers computes them. `respaced`
    is that of ADM and DiT (see `respaced_timesteps`), which needs two steps: it would leave a single one at timestep 0.

    Raises DifflabError unless 1 <= steps <= T, or for a spacing that has no official form.
    """
    _check_steps(steps, timesteps)
    if spacing == "respaced":
        if steps == 1:
            raise DifflabError(
                "steps is 1, but the spacing respaced would then ask the network at timestep 0 alone, where there is "
                "no noise; take at least 2, or the spacing trailing."
            )
        return respaced_timesteps(timesteps, str(steps))
    if official_grid:
        return _official_grid(timesteps, steps, spacing)
    if spacing == "uniform":
        return np.arange(steps) * timesteps // steps
    if spacing == "quad":
        grid = _official_grid(timesteps, steps, "quad")
        rank = np.arange(steps)
        return np.maximum.accumulate(grid - rank) + rank  # strictly increasing, moved no further than needed
    if spacing == "leading":
        return np.arange(steps) * (timesteps // steps)
    if spacing == "trailing":
        return np.round(np.arange(timesteps, 0, -timesteps / steps)[:steps][::-1]).astype(np.int64) - 1
    if spacing == "linspace":
        return np.round(np.linspace(0, timesteps - 1, steps)).astype(np.int64)
    raise DifflabError(f"spacing {spacing!r} is not known.{suggest(spacing, get_args(Spacing))}")


def respaced_timesteps(timesteps: int, respacing: str) -> np.ndarray:
    """The timesteps, increasing, that ADM and DiT keep of T for a `timestep_respacing`.

    "n1,n2,..": T is cut into equal sections, the first T mod k of them one longer, and of section i n_i timesteps are
    kept, evenly with both its ends; one number is one section. "ddimN": an integer stride from 0 that gives N of them.
    Raises DifflabError for counts that do not fit, and for a stride that does not exist.
    """
    if respacing.startswith("ddim"):
        count = _count(respacing.removeprefix("ddim"), respacing)
        for stride in range(1, timesteps):
            if len(range(0, timesteps, stride)) == count:
                return np.arange(0, timesteps, stride)
        raise DifflabError(
            f"respacing {respacing!r}: no integer stride leaves exactly {count} of {timesteps} timesteps; "
            f"try {count} without 'ddim'."
        )
    counts = [_count(part, respacing) for part in respacing.split(",")]
    kept: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = timesteps // len(counts) + (i < timesteps % len(counts))
        if count > size:
            raise DifflabError(f"respacing {respacing!r}: {count} of a section of {size} timesteps cannot be kept.")
        gap = (size - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):
            kept.append(start + round(place))  # half to even; the sum of strides, not their product, as the original
            place += gap
        start += size
    return np.array(kept)


def _check_steps(steps: int, timesteps: int) -> None:
    if not 1 <= steps <= timesteps:
        raise DifflabError(f"steps is {steps}, but must lie between 1 and the model's {timesteps} training timesteps.")


def _count(text: str, respacing: str) -> int:
    if not text.strip().isdecimal():
        raise DifflabError(
            f"respacing {respacing!r} is not understood; write numbers of steps such as 250 or 10,15,25, or ddim50."
        )
    return int(text)


def _official_grid(timesteps: int, steps: int, spacing: Spacing) -> np.ndarray:
    """The `skip_type`s of ermongroup/ddim, quirks included."""
    if spacing == "uniform":
        return np.arange(0, timesteps, timesteps // steps)
    if spacing == "quad":
        return (np.linspace(0.0, np.sqrt(timesteps * 0.8), steps) ** 2).astype(np.int64)
    raise DifflabError(
        f"spacing {spacing!r} has no official grid: choose uniform or quad, or leave out --official-grid."
    )
