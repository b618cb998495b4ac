"""FD-infinity (Chong and Forsyth 2020): what a Frechet distance would be without the bias of a finite sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress, t

from difflab.errors import DifflabError
from difflab.score.metrics import frechet_to_reference

SIZES = 15


@dataclass(frozen=True)
class Extrapolation:
    """FD = value + slope / n, fitted to distances of subsets; low, high: 95 % interval of the intercept."""

    value: float
    low: float
    high: float
    slope: float


def extrapolate(sizes: np.ndarray, distances: np.ndarray) -> Extrapolation:
    """The least-squares line of distances (k,) over 1 / sizes (k,); its intercept is FD at infinitely many samples."""
    fit = linregress(1.0 / np.asarray(sizes, np.float64), np.asarray(distances, np.float64))
    half = t.ppf(0.975, len(sizes) - 2) * fit.intercept_stderr
    return Extrapolation(
        float(fit.intercept), float(fit.intercept - half), float(fit.intercept + half), float(fit.slope)
    )


def fd_infinity(features: np.ndarray, reference: tuple[np.ndarray, np.ndarray], seed: int = 0) -> Extrapolation:
    """FD-infinity of the rows of `features` (n, d) against a reference (mu, sigma), which counts as exact.

    15 subsets without replacement, of sizes evenly from min(5000, n / 10) to all. Raises DifflabError below 20 rows.
    """
    n = len(features)
    if n < 20:
        raise DifflabError(f"FD-infinity fits a line through distances of subsets, which needs 20 samples, not {n}.")
    sizes = np.linspace(min(5000, max(n // 10, 2)), n, SIZES).astype(int)
    rng = np.random.default_rng(seed)
    distances = [frechet_to_reference(features[rng.choice(n, size, replace=False)], reference) for size in sizes]
    return extrapolate(sizes, np.array(distances))
