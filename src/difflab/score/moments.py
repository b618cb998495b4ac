"""Mean and covariance of features, gathered in one pass and merged from shards.

A pass keeps the count, the mean and the scatter matrix sum (x - mean)(x - mean)' in float64 and merges blocks by the
pairwise update of Chan, Golub and LeVeque (1979). Sums of raw squares would lose all digits where the mean is large
against the spread; this does not, and the result does not depend on how the rows were split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from difflab.errors import DifflabError

ROWS_AT_ONCE = 4096  # 64 MiB of float64 at 2048 features


class Gaussian(NamedTuple):
    """Mean `mu` (d,) and covariance `sigma` (d, d), float64: all that a Frechet distance sees of a set."""

    mu: np.ndarray
    sigma: np.ndarray


class Moments:
    """Streaming count `n`, mean (d,) and scatter (d, d) of feature rows, in float64."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.n = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Moments of all rows of `features` (n, d)."""
        moments = cls(checked_features(features).shape[1])
        moments.update(features)
        return moments

    @classmethod
    def from_statistics(cls, n: int | None, mu: np.ndarray, sigma: np.ndarray) -> Moments:
        """Moments with count `n`, mean `mu` (d,) and covariance `sigma` (d, d) of divisor n - 1.

        Raises DifflabError when `n` is None: most statistics files do not store the count, and without it nothing can
        be added to them.
        """
        if n is None:
            raise DifflabError(
                "These statistics do not say how many samples they were made of, so nothing can be merged with them; "
                "make them again with `difflab stats`, which stores the count."
            )
        moments = cls(len(mu))
        moments.n = n
        moments.mean = np.asarray(mu, dtype=np.float64)
        moments.scatter = np.asarray(sigma, dtype=np.float64) * (n - 1)
        return moments

    def update(self, features: np.ndarray) -> None:
        """Add the rows of `features` (n, d), any real dtype; n may be 0.

        Raises DifflabError for another width and for values that are not finite.
        """
        if checked_features(features).shape[1] != self.dim:
            raise DifflabError(f"The features have {features.shape[1]} columns, but {self.dim} were expected.")
        for block in _float_blocks(features):
            mean = block.mean(axis=0)
            block -= mean
            self._add(len(block), mean, block.T @ block)

    def merge(self, other: Moments) -> None:
        """Add everything that `other` has seen. Raises DifflabError when its features have another width."""
        if other.dim != self.dim:
            raise DifflabError(f"Moments of {other.dim} features cannot be merged with moments of {self.dim} features.")
        self._add(other.n, other.mean, other.scatter)

    def cov(self, ddof: int = 1) -> np.ndarray:
        """Covariance (d, d) with divisor n - ddof. Raises DifflabError when that is not positive."""
        if self.n <= ddof:
            raise DifflabError(f"A covariance needs at least {ddof + 1} samples, but there are only {self.n}.")
        return self.scatter / (self.n - ddof)

    def gaussian(self, ddof: int = 1) -> Gaussian:
        """Mean and covariance, as `frechet` takes them."""
        return Gaussian(self.mean, self.cov(ddof))

    def _add(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if n == 0:
            return
        total = self.n + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.scatter = self.scatter + scatter + np.outer(delta, delta) * (self.n * n / total)
        self.n = total


def checked_features(features: np.ndarray) -> np.ndarray:
    """`features` if they are a finite (n, d) array, else a DifflabError that says what they are."""
    if features.ndim != 2:
        raise DifflabError(f"Features must be an (n, d) array, but their shape is {features.shape}.")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise DifflabError(
            f"{bad} of {len(features)} feature rows hold NaN or infinity; look at the samples behind them."
        )
    return features


def _float_blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Fresh float64 copies of consecutive rows, so that no more than a block is ever held in double precision."""
    for start in range(0, len(features), ROWS_AT_ONCE):
        yield features[start : start + ROWS_AT_ONCE].astype(np.float64)
