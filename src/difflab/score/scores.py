"""A score: a number, how sure one can be of it, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from difflab.errors import DifflabError
from difflab.score.extractors import FVD_FEATURES, is_fid_network

_NAMES = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "fd-infinity": "FID-infinity",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "fvd": "FVD",
    "kvd": "KVD",
}


@dataclass(frozen=True)
class Score:
    """A number and what is known about it.

    Attributes:
        value: the plain estimate. A Frechet distance is biased upward by a term of order 1/n, so only those at equal n
            compare.
        low, high: 95 % interval, of a kind that the passport names; it says nothing about bias.
        n: how many samples were scored.
        metric: "FID", "precision", ..; with other features than FID's own "FD (feature name)" and the like.
        passport: features, reference and interval, as plain JSON values.
        replicates: of a bootstrap; cells resampled with one seed and n are resampled alike, so the replicates of their
            difference are the differences of these.
        marks: for a share, what each sample (or, for recall and coverage, each reference sample) counts.
    """

    value: float
    low: float
    high: float
    n: int
    metric: str
    passport: dict[str, Any]
    replicates: np.ndarray = field(default_factory=lambda: np.empty(0))
    marks: np.ndarray = field(default_factory=lambda: np.empty(0, bool))


def metric_name(extractor: Mapping[str, Any], metric: str = "fid") -> str:
    """What a metric in an extractor's features is called: "FID" with FID's own weights, else "FD (name)"; alike others.

    Args:
        extractor: its passport.
        metric: fid, sfid, is, kid, precision, recall, density, coverage or fd-infinity; fvd or kvd of clips.
    """
    if metric not in _NAMES:
        raise DifflabError(f"metric {metric!r} has no name.")
    name = _NAMES[metric]
    if is_fid_network(extractor):
        return name
    if metric in ("fvd", "kvd") and extractor["name"] in FVD_FEATURES:
        return f"{name} ({extractor['convention']})"
    return f"{name.replace('FID', 'FD').replace('FVD', 'FD').replace('KVD', 'KID')} ({extractor['name']})"
