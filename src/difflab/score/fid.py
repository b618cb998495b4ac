"""From features and reference statistics to a score: value, interval, count, name, passport."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from difflab.errors import DifflabError
from difflab.score.metrics import bootstrap_frechet, frechet_to_reference, interval
from difflab.score.scores import Score, metric_name
from difflab.score.statistics import Statistics


def fd_score(
    features: np.ndarray,
    reference: Statistics,
    extractor: Mapping[str, Any],
    *,
    metric: str = "fid",
    replicates: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Score:
    """Frechet distance of the rows of `features` (n, d) to `reference`, with a bootstrap interval.

    Warns (UserWarning) when either side has n < d + 1, where the value is mostly bias, and when the reference does not
    say with which features it was made.

    Args:
        features: what the extractor gave, one row a sample.
        reference: statistics in the same features.
        extractor: passport of the extractor (`Extractor.passport()`).
        metric: `fid` or, for features of places, `sfid`: what the score is called.
        replicates, seed, level: of the bootstrap, see `bootstrap_frechet` and `interval`.

    Raises:
        DifflabError: fewer than two samples, another width, features that are not finite, or a reference made with
            another network, other weights or another resize.
    """
    compare_extractors(extractor, reference.passport)
    value = frechet_to_reference(features, reference.gaussian)
    n, dim = features.shape
    name = metric_name(extractor, metric)
    if n < dim + 1:
        warnings.warn(
            f"{name} of {n} samples in {dim} features: the covariance is singular and the value mostly bias; "
            f"use more than {dim} samples, and compare only at this n.",
            UserWarning,
            stacklevel=2,
        )
    if reference.n is not None and reference.n < dim + 1:
        warnings.warn(
            f"The reference has {reference.n} samples in {dim} features, too few for a covariance of full rank: "
            f"{name} measures it more than what it stands for; use more than {dim}.",
            UserWarning,
            stacklevel=2,
        )
    resampled = bootstrap_frechet(features, reference.gaussian, replicates, seed)
    low, high = interval(value, resampled, level)
    passport = {
        "extractor": dict(extractor),
        "reference": {"n": reference.n, "passport": reference.passport},
        "interval": {"kind": "bootstrap", "replicates": replicates, "seed": seed, "level": level},
    }
    return Score(value, low, high, n, name, passport, resampled)


def compare_extractors(extractor: Mapping[str, Any], reference: Mapping[str, Any] | None) -> None:
    """Raise DifflabError for statistics of other features; warn where they do not say."""
    theirs = (reference or {}).get("extractor")
    if theirs is None:
        warnings.warn(
            "The reference statistics do not say which feature network and resize they were made with; "
            f"the score means something only if it was {extractor['name']} with {extractor['resize']}.",
            UserWarning,
            stacklevel=3,
        )
        return
    for key in ("name", "sha256", "resize"):
        if theirs.get(key) != extractor[key]:
            raise DifflabError(
                f"The reference was made with {key} {theirs.get(key)!r} of the feature network, the samples with "
                f"{extractor[key]!r}; make the reference again with the same features."
            )
