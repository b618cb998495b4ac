"""What scoring a cell costs, in seconds of one CPU thread, from what was measured of its parts.

Measured by `OMP_NUM_THREADS=1 python benchmarks/scoring.py` on one thread of an AMD EPYC with AVX-512:
50,000 samples, 10,000 points of the reference, 2,048 features. Other sizes follow from the number of operations.
"""

from __future__ import annotations

from collections.abc import Sequence

from difflab.study.spec import Metric

_PRODUCTS = 52.4e9  # operations a second of products in float64
_SPECTRUM = 0.72 / 2048**3  # seconds of the eigenvalues of a symmetric matrix, for each cube of its rows
_COPIED = 1.1e-8  # seconds to bring a number to float64 and to the mean
_DISTINCT = 0.632  # rows that a bootstrap draws at least once
_SUBSETS = 23.1 / (1000**2 * 2048)  # of KID, 100 of them, for each pair of rows and feature
_KERNEL, _NEAR = 5.1e-11, 3.14e-11  # for each pair of rows and feature: KID's error; precision and recall
_INCEPTION_SCORE = 8e-5  # for each sample, with 200 replicates
_FD: tuple[Metric, ...] = ("fid", "fvd", "fvd-window", "fvd-last", "fvd-frozen", "fvd-shuffled", "fid-frames")
_NEIGHBOURS: tuple[tuple[Metric, ...], ...] = (("precision", "recall"), ("density", "coverage"))  # each pair at once


def scoring_seconds(metrics: Sequence[Metric], n: int, dim: int, points: int, replicates: int) -> float:
    """Seconds of one thread for the scores of n samples of `dim` features against so many points of a reference."""
    spent = sum(frechet_seconds(n, dim, replicates) for metric in metrics if metric in _FD)
    spent += sum(kid_seconds(n, dim, points) for metric in metrics if metric in ("kid", "kvd"))
    spent += sum(_NEAR * dim * n * (n + points) for pair in _NEIGHBOURS if set(pair) & set(metrics))
    return spent + ("is" in metrics) * _INCEPTION_SCORE * n


def frechet_seconds(n: int, dim: int, replicates: int) -> float:
    """A Frechet distance and the replicates of its interval: covariances, two products with the reference, a spectrum.

    Where samples are fewer than features the matrices have as many rows as samples.
    """
    value, replicate = (_covariance(rows, dim) + _between(min(rows, dim), dim) for rows in (n, _DISTINCT * n))
    return value + replicates * replicate


def kid_seconds(n: int, dim: int, points: int) -> float:
    """KID's hundred subsets, and the error of its value over all rows."""
    return dim * (_SUBSETS * min(1000, n, points) ** 2 + _KERNEL * (n + points) ** 2)


def _covariance(rows: float, dim: int) -> float:
    """A symmetric product, of which half is computed."""
    return rows * dim * _COPIED + rows * dim * min(rows, dim) / _PRODUCTS


def _between(rank: float, dim: int) -> float:
    return 4 * rank * rank * dim / _PRODUCTS + _SPECTRUM * rank**3
