"""Frechet distance between feature sets, and how sure one can be of it.

    FD = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

(Dowson and Landau 1982; as a score of image models Heusel et al. 2017). No matrix root is ever taken: with any
factors S1 = L1 L1' and S2 = L2 L2', S1 S2 has the same non-zero eigenvalues as (L1' L2)(L1' L2)', so the last trace is
the sum of the singular values of L1' L2. Singular covariances (fewer samples than features) need no special care then.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh, eigvalsh, svdvals
from scipy.linalg.lapack import dpotrf
from scipy.special import stdtrit

from difflab.errors import DifflabError
from difflab.score.moments import ROWS_AT_ONCE, Gaussian, Moments, checked_features

_EPS = np.finfo(np.float64).eps
_ENOUGH = 100  # replicates whose quantiles make an interval


def frechet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Frechet distance between two Gaussians, each given as (mu (d,), sigma (d, d)); computed in float64.

    Symmetric. Rounding may leave a tiny negative number where the truth is zero: it is returned as it is.
    Raises DifflabError when the dimensions differ or a number is not finite.
    """
    (mu_a, sigma_a), (mu_b, sigma_b) = _checked(a), _checked(b)
    _same_width(len(mu_a), len(mu_b))
    return _assemble(mu_a - mu_b, np.trace(sigma_a) + np.trace(sigma_b), _trace_of_root(sigma_a, sigma_b))


def frechet_features(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted (ddof 1) to the rows of `x` (n, d) and of `y` (m, d).

    Accurate to rounding also when n or m is at most d, and then much faster than by way of covariances.
    Raises DifflabError for fewer than two rows, different widths, values that are not finite.
    """
    mean_x, root_x = _mean_and_root(x)
    mean_y, root_y = _mean_and_root(y)
    return _distance_of_roots(mean_x - mean_y, root_x, root_y)


def frechet_to_reference(features: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """Frechet distance between the rows of `features` (n, d), ddof 1, and a reference (mu, sigma).

    The value of `frechet` on their moments; takes the shorter way when n is at most d.
    """
    mu, sigma = _checked(reference)
    n, dim = checked_features(features).shape
    _enough(n)
    _same_width(dim, len(mu))
    if n > dim:
        return frechet(Moments.of(features).gaussian(), (mu, sigma))
    mean, root = _mean_and_root(features)
    return _distance_of_roots(mean - mu, root, covariance_root(sigma))


def covariance_root(sigma: np.ndarray) -> np.ndarray:
    """A factor L (d, rank) with L L' = `sigma`, without columns for eigenvalues that are rounding noise.

    A null direction computed as 1e-16 would otherwise enter with its root, 1e-8: that, times d - rank, is the error
    of the usual routes on singular covariances.
    """
    values, vectors = eigh(sigma)
    keep = values > values[-1] * len(values) * _EPS
    return vectors[:, keep] * np.sqrt(values[keep])


def bootstrap_frechet(
    features: np.ndarray, reference: tuple[np.ndarray, np.ndarray], replicates: int = 200, seed: int = 0
) -> np.ndarray:
    """Frechet distances of `replicates` resamples (with replacement) of the rows of `features` to a fixed reference.

    How often each row is drawn depends on n and `seed` alone, so two sets of one size are resampled alike under one
    seed. Replicates are biased upward, as if n were smaller: they tell the width of an interval, not its place (see
    `interval`). No more than a block of rows is held in double precision when n exceeds d.

    Args:
        features: (n, d), any real dtype, n >= 2.
        reference: (mu (d,), sigma (d, d)).

    Returns:
        (replicates,) float64.

    Raises:
        DifflabError: fewer than two rows, another width than the reference, values that are not finite.
    """
    # Spectra are numpy's, as the products are: scipy has a BLAS of its own, and where calls to the two alternate, the
    # waiting threads of each take the cores from the other. At 64 features a replicate took 12 times as long.
    mu, sigma = _checked(reference)
    n, dim = checked_features(features).shape
    _enough(n)
    _same_width(dim, len(mu))
    rows = (_FewRows if n <= dim else _ManyRows)(features, covariance_root(sigma))
    gap, trace = rows.mean - mu, np.trace(sigma)
    rng = np.random.default_rng(seed)
    share = np.full(n, 1 / n)

    def replicate() -> float:
        shift, resampled_trace, spectrum = rows.resample(rng.multinomial(n, share))
        # A null eigenvalue comes out as +-1e-16 here; its root is far below the spread of the replicates.
        return _assemble(gap + shift, trace + resampled_trace, np.sqrt(spectrum.clip(min=0)).sum())

    return np.array([replicate() for _ in range(replicates)])


def interval(estimate: float, replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Two-sided bootstrap interval for the expected score at this n, centred on the plain estimate.

    The basic interval [2 E - q_high, 2 E - q_low] takes the replicates' offset from the estimate E as sampling error.
    For a Frechet distance that offset is the upward bias of resampling (about 63 percent of the rows are distinct), so
    the basic interval slides below E, for small n past it altogether. Their spread about their own mean m is free of
    it: [E - (q_high - m), E + (m - q_low)]. The bias that n itself causes is left alone: compare at equal n.

    Fewer than 100 replicates give the estimate plus and minus Student's t times their standard deviation.

    Args:
        estimate: the score of the whole set.
        replicates: (r,) scores of resamples.
        level: coverage asked for, between 0 and 1.
    """
    if len(replicates) < _ENOUGH:  # too few for quantiles: 20 would cover 88 % where 95 % were asked for
        half = stdtrit(len(replicates) - 1, (1 + level) / 2) * replicates.std(ddof=1)
        return float(estimate - half), float(estimate + half)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    mean = replicates.mean()
    return float(estimate - (high - mean)), float(estimate + (mean - low))


class _FewRows:
    """Resampled moments of n <= d rows: the spectrum is that of a Gram matrix with one row for each distinct sample."""

    def __init__(self, features: np.ndarray, root: np.ndarray) -> None:
        self.mean, self.centred = _centred(features)
        self.projected = self.centred @ root

    def resample(self, counts: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        drawn = counts > 0
        weight = counts[drawn] / counts.sum()
        scale = np.sqrt(counts[drawn] / (counts.sum() - 1))[:, None]
        shift = weight @ self.centred[drawn]
        rows = (self.centred[drawn] - shift) * scale
        projected = (self.projected[drawn] - weight @ self.projected[drawn]) * scale
        return shift, float(np.vdot(rows, rows)), np.linalg.eigvalsh(projected @ projected.T)


class _ManyRows:
    """Resampled moments of n > d rows, read in blocks: the spectrum is that of R' S R, with R R' the reference."""

    def __init__(self, features: np.ndarray, root: np.ndarray) -> None:
        self.features = features
        self.root = root
        self.mean = Moments.of(features).mean

    def resample(self, counts: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        n = counts.sum()
        shift, scatter = self._sums(counts)
        shift /= n
        sigma = (scatter - n * np.outer(shift, shift)) / (n - 1)
        return shift, float(np.trace(sigma)), np.linalg.eigvalsh(self.root.T @ sigma @ self.root)

    def _sums(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums of (x - mean) and (x - mean)(x - mean)', over the rows that were drawn."""
        drawn = np.flatnonzero(counts)
        dim = len(self.mean)
        total, scatter = np.zeros(dim), np.zeros((dim, dim))
        for rows in np.array_split(drawn, -(-len(drawn) // ROWS_AT_ONCE)):
            centred = self.features[rows].astype(np.float64) - self.mean
            total += counts[rows] @ centred
            centred *= np.sqrt(counts[rows])[:, None]
            scatter += centred.T @ centred
        return total, scatter


def _trace_of_root(s1: np.ndarray, s2: np.ndarray) -> float:
    """tr((S1 S2)^(1/2)): by Cholesky where both have full rank, else by the singular values of truncated factors."""
    lower, not_definite = dpotrf(s1, lower=1)
    if not not_definite:
        spectrum = eigvalsh(lower.T @ s2 @ lower)
        if spectrum[0] > spectrum[-1] * len(spectrum) * _EPS:
            return float(np.sqrt(spectrum).sum())
    return _nuclear_norm(covariance_root(s1).T @ covariance_root(s2))


def _distance_of_roots(gap: np.ndarray, root_x: np.ndarray, root_y: np.ndarray) -> float:
    """FD for a difference of means and two factors (d, r): tr(L L') is the sum of squares of L."""
    return _assemble(gap, np.vdot(root_x, root_x) + np.vdot(root_y, root_y), _nuclear_norm(root_x.T @ root_y))


def _nuclear_norm(matrix: np.ndarray) -> float:
    return float(svdvals(matrix).sum()) if matrix.size else 0.0


def _assemble(gap: np.ndarray, traces: float, trace_of_root: float) -> float:
    return float(gap @ gap + traces - 2 * trace_of_root)


def _mean_and_root(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and a factor of the covariance (ddof 1): the scaled rows where they are few, else of d columns."""
    n, dim = checked_features(features).shape
    _enough(n)
    if n > dim:
        moments = Moments.of(features)
        return moments.mean, covariance_root(moments.cov())
    mean, centred = _centred(features)
    return mean, centred.T / np.sqrt(n - 1)


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact = features.astype(np.float64)
    mean = exact.mean(axis=0)
    return mean, exact - mean


def _checked(gaussian: tuple[np.ndarray, np.ndarray]) -> Gaussian:
    mu, sigma = (np.asarray(part, dtype=np.float64) for part in gaussian)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DifflabError(
            f"A mean of shape {mu.shape} and a covariance of shape {sigma.shape} do not belong together; "
            "(d,) and (d, d) were expected."
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DifflabError("A mean or covariance holds NaN or infinity; make the statistics again.")
    return Gaussian(mu, sigma)


def _same_width(found: int, expected: int) -> None:
    if found != expected:
        raise DifflabError(
            f"The two sides have {found} and {expected} features; both must come from the same feature network."
        )


def _enough(n: int) -> None:
    if n < 2:
        raise DifflabError(f"A Frechet distance needs at least 2 samples, but there are only {n}.")
