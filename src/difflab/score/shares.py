"""Shares of samples, and how sure one can be of them."""

from __future__ import annotations

import math

import numpy as np

_Z = 1.959964  # 95 % two-sided


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which stays within 0 and 1 at the ends."""
    p = successes / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def paired_shares(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % interval of share(b) - share(a), for booleans (n,) whose entries belong together.

    Agresti and Min (2005): half a sample is added to each of the four outcomes, so that no disagreement at all, or all
    of it one way, still leaves an interval of some width.
    """
    n, gained, lost = len(a), int((b & ~a).sum()), int((a & ~b).sum())
    centre = (gained - lost) / (n + 2)
    half = _Z * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    return centre - half, centre + half
