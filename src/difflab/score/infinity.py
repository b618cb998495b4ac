"""FD-infinity (Chong and Forsyth 2020): what a Frechet distance would be without the bias of a finite sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress, t

from difflab.errors import DifflabError
from difflab.score.metrics import frechet_to_reference

SIZES = 15


GROUPS = 10  # of samples, each left out in turn


@dataclass(frozen=True)
class Line:
    """FD = value + slope / n."""

    value: float
    slope: float


@dataclass(frozen=True)
class Extrapolation:
    """FD at infinitely many samples, with its 95 % interval over the draw of the samples."""

    value: float
    low: float
    high: float


def extrapolate(sizes: np.ndarray, distances: np.ndarray) -> Line:
    """The least-squares line of distances (k,) over 1 / sizes (k,); its value is FD at infinitely many samples."""
    fit = linregress(1.0 / np.asarray(sizes, np.float64), np.asarray(distances, np.float64))
    return Line(float(fit.intercept), float(fit.slope))


def fd_infinity(features: np.ndarray, reference: tuple[np.ndarray, np.ndarray], seed: int = 0) -> Extrapolation:
    """FD-infinity of the rows of `features` (n, d) against a reference (mu, sigma), which counts as exact.

    15 subsets without replacement, of sizes evenly from min(5000, n / 10) to all. The interval is a jackknife's over
    groups of rows, since the points of one line, made of the same rows, say nothing of its error. Raises DifflabError
    where the smallest subset would have no covariance of full rank: below it FD is no line in 1 / n.
    """
    n, dim = features.shape
    if n < 20 or (n - n // GROUPS) // 10 <= min(dim, 5000):
        least = max(20, GROUPS * (dim + 1) * GROUPS // (GROUPS - 1) + 1)
        raise DifflabError(
            f"FD-infinity fits a line through distances of subsets, the smallest a tenth of all samples, each of which "
            f"needs more than {dim}; it takes about {least:,} samples, not {n:,}."
        )
    value = _intercept(features, reference, seed)
    left = [
        _intercept(np.delete(features, rows, axis=0), reference, seed) for rows in np.array_split(np.arange(n), GROUPS)
    ]
    half = t.ppf(0.975, GROUPS - 1) * ((GROUPS - 1) ** 2 / GROUPS * np.var(left, ddof=1)) ** 0.5
    return Extrapolation(value, float(value - half), float(value + half))


def _intercept(features: np.ndarray, reference: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    n = len(features)
    sizes = np.linspace(min(5000, max(n // 10, 2)), n, SIZES).astype(int)
    rng = np.random.default_rng(seed)
    distances = [frechet_to_reference(features[rng.choice(n, size, replace=False)], reference) for size in sizes]
    return extrapolate(sizes, np.array(distances)).value
