"""FVD (Unterthiner et al. 2018), the Frechet distance between clips, and the controls that say if it saw motion."""

from __future__ import annotations

import math

import numpy as np


def with_ddof(features: np.ndarray, ddof: int) -> np.ndarray:
    """Features (n, d) whose covariance with ddof 1 is what theirs is with `ddof` 0 or 1: for 0 they are drawn together
    about their mean by sqrt((n - 1) / n), so that all that is made for ddof 1 serves both conventions of FVD."""
    if ddof == 1:
        return features
    mean = features.mean(axis=0, dtype=np.float64)
    return mean + (features - mean) * math.sqrt((len(features) - 1) / len(features))


def shuffled(clips: np.ndarray, seed: int, first: int = 0) -> np.ndarray:
    """Clips (n, T, ..) with the frames of each in an order of its own, by seed and the clip's number from `first`.

    A distance that sees motion grows when only the order changes.
    """
    orders = (np.random.default_rng([seed, first + i]).permutation(clips.shape[1]) for i in range(len(clips)))
    return np.stack([clip[order] for clip, order in zip(clips, orders, strict=True)])


def frozen(clips: np.ndarray) -> np.ndarray:
    """Clips (n, T, ..) that show their middle frame all the time."""
    return np.repeat(clips[:, clips.shape[1] // 2, None], clips.shape[1], axis=1)
