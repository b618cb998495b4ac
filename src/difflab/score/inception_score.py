"""The Inception Score (Salimans et al. 2016): exp of the mean divergence of a sample's classes from those of all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import log_softmax

from difflab.errors import DifflabError

SPLIT = 5000  # of ADM's evaluator


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and population standard deviation over contiguous splits (torch-fidelity, after its shuffle).

    exp(mean_i sum_c p_ic (log p_ic - log mean_i p_ic)) in each split, in float64.

    Args:
        logits: (n, classes), without the bias of the last layer if they are Inception's.
        splits: rows i n / splits to (i + 1) n / splits make one.
    """
    _enough(len(logits), splits)
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[a:b]) for a, b in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def adm_inception_score(logits: np.ndarray, size: int = SPLIT) -> float:
    """As ADM's evaluator has it: contiguous splits of `size`, the last one shorter but counting alike, and their mean.

    Samples ordered by class lower it: shuffle them first.
    """
    _enough(len(logits), 1)
    return float(np.mean([_score(logits[a : a + size]) for a in range(0, len(logits), size)]))


def bootstrap_inception_score(logits: np.ndarray, replicates: int, seed: int = 0, size: int = SPLIT) -> np.ndarray:
    """ADM's score of resamples, within each split: (replicates,). As many rows, so a resample is biased as the set is
    by its n, and once more."""
    rng = np.random.default_rng(seed)
    scores = np.zeros(replicates)
    starts = range(0, len(logits), size)
    for a in starts:
        log_p = log_softmax(logits[a : a + size].astype(np.float64), axis=1)
        p = np.exp(log_p)
        entropy = (p * log_p).sum(1)
        n = len(p)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=replicates) / n  # (replicates, n)
        marginal = weights @ p
        with np.errstate(divide="ignore", invalid="ignore"):
            of_all = np.where(marginal > 0, marginal * np.log(marginal), 0.0).sum(1)
        scores += np.exp(weights @ entropy - of_all)
    return scores / len(starts)


def _score(logits: np.ndarray) -> float:
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(log_p)
    marginal = p.mean(0)
    with np.errstate(divide="ignore"):
        log_marginal = np.where(marginal > 0, np.log(marginal), 0.0)
    return float(np.exp((p * (log_p - log_marginal)).sum(1).mean()))


def _enough(n: int, splits: int) -> None:
    if n < max(2, splits):
        raise DifflabError(f"an Inception Score needs at least {max(2, splits)} samples here, but there are {n}.")
