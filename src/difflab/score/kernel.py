"""Distances by kernels: KID (Binkowski et al. 2018) and CMMD (Jayasumana et al. 2024), in float64.

Both are squared maximum mean discrepancies, sums of a kernel over pairs of rows. Pairs are taken in blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from difflab.errors import DifflabError
from difflab.score.moments import checked_features

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]

_ROWS = 2048


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / d + 1)^3: (n, m) for rows of x (n, d) and y (m, d)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
        return np.exp(-squares.clip(min=0) / (2 * sigma**2))

    return kernel


def mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel = polynomial, *, biased: bool = False) -> float:
    """Squared maximum mean discrepancy between the rows of x (n, d) and y (m, d), in float64.

    Without bias a row is not paired with itself, and the value may be slightly negative. Raises DifflabError for fewer
    than two rows, other widths, values that are not finite.
    """
    x, y = (checked_features(part).astype(np.float64) for part in (x, y))
    if min(len(x), len(y)) < 2:
        raise DifflabError(f"A kernel distance needs at least 2 samples a side, but there are {len(x)} and {len(y)}.")
    if x.shape[1] != y.shape[1]:
        raise DifflabError(
            f"The two sides have {x.shape[1]} and {y.shape[1]} features; both must come from the same network."
        )

    def within(a: np.ndarray) -> float:
        total = _sum(a, a, kernel)
        if biased:
            return total / len(a) ** 2
        own = sum(kernel(a[i : i + 1], a[i : i + 1])[0, 0] for i in range(len(a)))
        return (total - own) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * _sum(x, y, kernel) / (len(x) * len(y))


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD of unit-norm embeddings: Gaussian kernel of sigma 10, biased, times 1000."""
    return 1000.0 * mmd(x, y, gaussian(10.0), biased=True)


@dataclass(frozen=True)
class Kid:
    """Mean over subsets of KID's squared MMD; each subset's value; how many rows a subset has; the standard error of
    the squared MMD of all rows."""

    value: float
    subsets: np.ndarray
    size: int
    error: float


def kid(samples: np.ndarray, reference: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020) -> Kid:
    """KID by the usual protocol: the mean over subsets drawn without replacement from each side, as torch-fidelity
    draws them (numpy's RandomState, samples before reference). Subsets are no larger than the smaller side.

    Args:
        samples: (n, d) features of generated samples.
        reference: (m, d) features of real ones.
    """
    size = min(size, len(samples), len(reference))
    source = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = samples[source.choice(len(samples), size, replace=False)]
        b = reference[source.choice(len(reference), size, replace=False)]
        values.append(mmd(a, b))
    return Kid(float(np.mean(values)), np.array(values), size, mmd_error(samples, reference))


def mmd_error(x: np.ndarray, y: np.ndarray, kernel: Kernel = polynomial) -> float:
    """Standard error of the unbiased squared MMD over the draw of both sides, to first order (Hoeffding): row i of x
    moves it by 2 / n times the deviation of h(x_i) = mean k(x_i, x) - mean k(x_i, y), rows of y alike.

    Where the two distributions are equal the first order vanishes, and the true error is smaller still.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)

    def spread(a: np.ndarray, b: np.ndarray) -> float:
        h = [kernel(a[i : i + _ROWS], a).mean(1) - kernel(a[i : i + _ROWS], b).mean(1) for i in range(0, len(a), _ROWS)]
        return 4 * float(np.var(np.concatenate(h), ddof=1)) / len(a)

    return (spread(x, y) + spread(y, x)) ** 0.5


def _sum(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    return sum(float(kernel(x[i : i + _ROWS], y).sum()) for i in range(0, len(x), _ROWS))
