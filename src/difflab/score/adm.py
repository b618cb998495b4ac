"""The scores of the ADM evaluator (Dhariwal and Nichol 2021) and their relatives, from one pass over the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from difflab.errors import DifflabError, suggest
from difflab.score.extractors import Extractor, Taps, joined
from difflab.score.fid import compare_extractors, fd_score
from difflab.score.fvd import with_ddof
from difflab.score.inception_score import SPLIT, adm_inception_score, bootstrap_inception_score
from difflab.score.infinity import fd_infinity
from difflab.score.kernel import kid
from difflab.score.manifold import GROUPS, Manifolds, manifolds, reaches
from difflab.score.metrics import interval
from difflab.score.moments import Moments
from difflab.score.scores import Score, metric_name
from difflab.score.shares import wilson
from difflab.score.statistics import Statistics

ADM = ("fid", "sfid", "is", "precision", "recall")  # what ADM's evaluator prints
POINTWISE = ("precision", "recall", "density", "coverage", "kid", "kvd")  # need single pictures of the reference
RELATIVES = ("kid", "density", "coverage", "fd-infinity")
REFERENCE_POINTS = 10_000  # as many as ADM's reference batches hold
_NEAREST = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
_Z = 1.959964


@dataclass(frozen=True)
class Reference:
    """What samples are scored against: statistics, and features of single pictures where there are any."""

    statistics: Statistics
    features: np.ndarray | None = None
    _reach: dict[int, np.ndarray] = field(default_factory=dict)

    def reach(self, k: int, device: str | torch.device) -> np.ndarray:
        """How far the balls of the reference's points reach, computed once for all sets of samples."""
        assert self.features is not None
        if k not in self._reach and len(self.features) > k:
            self._reach[k] = reaches(self.features, k, device)
        return self._reach.get(k, np.zeros(len(self.features), self.features.dtype))


def collect(batches: Iterable[np.ndarray], extractor: Extractor, metrics: Sequence[str]) -> Taps:
    """What the metrics need of pictures, given as batches uint8 (b, H, W, 3), from one pass through the network."""
    wanted = {"sfid": "spatial", "is": "logits"}
    parts = [extractor.taps(batch, {wanted.get(metric, "features") for metric in metrics}) for batch in batches]
    if not parts:
        raise DifflabError("there are no pictures to score.")
    return joined(parts)


def reference_of(taps: Taps, extractor: Mapping[str, Any]) -> Reference:
    """A reference from the pictures themselves."""
    features, spatial = taps.features, taps.spatial
    made = {"extractor": dict(extractor)}
    mu, sigma = Moments.of(features).gaussian() if features is not None else (np.zeros(0), np.zeros((0, 0)))
    mu_s, sigma_s = Moments.of(spatial).gaussian() if spatial is not None else (None, None)
    count = len(next(part for part in taps if part is not None))
    return Reference(Statistics(mu, sigma, count, made, mu_s, sigma_s), features)


@dataclass(frozen=True)
class Suite:
    """Samples and a reference in the same features, and every score of them.

    Args:
        samples: what `collect` gave.
        reference: statistics, and for precision and its like the features of single pictures.
        extractor: passport of the extractor.
        replicates: of bootstraps, None chooses: 200, or 20 where a covariance has more than 256 dimensions.
        device: where distances between points are computed.
    """

    samples: Taps
    reference: Reference
    extractor: Mapping[str, Any]
    replicates: int | None = None
    device: str | torch.device = "cpu"

    def score(self, metric: str) -> Score:
        """One score. Raises DifflabError for what cannot be had from these samples and this reference."""
        known: dict[str, Callable[[], Score]] = {
            "fid": lambda: self._fd("fid"),
            "sfid": lambda: self._fd("sfid"),
            "fvd": lambda: self._fd("fvd"),
            "kvd": lambda: self._kid("kvd"),
            "is": self._inception_score,
            "kid": lambda: self._kid("kid"),
            "fd-infinity": self._infinity,
            **{name: lambda name=name: self._share(name) for name in _NEAREST},  # type: ignore[misc]
        }
        if metric not in known:
            raise DifflabError(f"metric {metric!r} is not known.{suggest(metric, known)}")
        return known[metric]()

    def _fd(self, metric: str) -> Score:
        features = self._needed(self.samples.spatial, "spatial features") if metric == "sfid" else self._features
        against = self._spatial_statistics() if metric == "sfid" else self.reference.statistics
        replicates = self.replicates or (200 if features.shape[1] <= 256 else 20)
        if (ddof := self.extractor.get("ddof", 1)) == 0:
            features, against = with_ddof(features, ddof), _over_n(against)
        return fd_score(features, against, self.extractor, metric=metric, replicates=replicates)

    def _inception_score(self) -> Score:
        logits = self._needed(self.samples.logits, "logits")
        value = adm_inception_score(logits)
        resampled = bootstrap_inception_score(logits, self.replicates or 200)
        low, high = interval(value, resampled)
        high = min(high, float(logits.shape[1]))  # a score that is certain and even over classes
        return self._made("is", value, low, high, f"bootstrap within splits of {SPLIT}", resampled)

    def _kid(self, metric: str) -> Score:
        found = kid(self._features, self._points)
        half = _Z * found.error
        kind = (
            f"normal, over samples and reference; the value is the mean of {len(found.subsets)} subsets of {found.size}"
        )
        return self._made(metric, found.value, found.value - half, found.value + half, kind)

    def _infinity(self) -> Score:
        compare_extractors(self.extractor, self.reference.statistics.passport)
        line = fd_infinity(self._features, self.reference.statistics.gaussian)
        kind = f"jackknife over {GROUPS} groups of samples"
        return self._made("fd-infinity", line.value, line.low, line.high, kind)

    def _share(self, metric: str) -> Score:
        found = self._near3 if _NEAREST[metric] == 3 else self._near5
        value = getattr(found, metric)
        if metric == "density":
            half = _Z * float(found.balls.std()) / found.k / len(found.balls) ** 0.5
            return self._made(metric, value, value - half, value + half, "normal, over samples")
        if metric == "precision":
            low, high = wilson(int(found.on_real.sum()), len(found.on_real))
            return self._made(metric, value, low, high, "Wilson, over samples", marks=found.on_real)
        # Of these the samples make the manifold or the neighbours: their draw counts beside that of the reference.
        error = (self._jackknife(metric, found) + value * (1 - value) / len(self._points)) ** 0.5
        low, high = max(value - _Z * error, 0.0), min(value + _Z * error, 1.0)
        return self._made(metric, value, low, high, f"normal: jackknife over {GROUPS} groups of samples, and reference")

    def _jackknife(self, metric: str, found: Manifolds) -> float:
        """The variance of a share of reference points over the draw of the samples: each tenth is left out in turn."""
        left = found.recall_without if metric == "recall" else found.coverage_without
        return (GROUPS - 1) ** 2 / GROUPS * float(np.var(left, ddof=1))

    def _manifolds(self, k: int) -> Manifolds:
        reach = self.reference.reach(k, self.device)
        strict = k == _NEAREST["density"]
        return manifolds(self._points, self._features, k, strict=strict, reach=reach, device=self.device)

    def _made(
        self, metric: str, value: float, low: float, high: float, kind: str,
        replicates: np.ndarray | None = None, marks: np.ndarray | None = None,
    ) -> Score:  # fmt: skip
        passport: dict[str, Any] = {"extractor": dict(self.extractor), "interval": {"kind": kind, "level": 0.95}}
        if metric != "is":
            passport["reference"] = {"n": self.reference.statistics.n, "passport": self.reference.statistics.passport}
        if metric in _NEAREST:
            passport["nearest neighbour"] = _NEAREST[metric]
        if metric in POINTWISE:
            passport["reference"]["points"] = len(self._points)
        none, nothing = np.empty(0), np.empty(0, bool)
        n = len(next(part for part in self.samples if part is not None))
        return Score(
            value, low, high, n, metric_name(self.extractor, metric), passport,
            none if replicates is None else replicates, nothing if marks is None else marks,
        )  # fmt: skip

    @cached_property
    def _near3(self) -> Manifolds:
        return self._manifolds(3)

    @cached_property
    def _near5(self) -> Manifolds:
        return self._manifolds(5)

    @property
    def _features(self) -> np.ndarray:
        return self._needed(self.samples.features, "features")

    @property
    def _points(self) -> np.ndarray:
        if self.reference.features is None:
            raise DifflabError("precision, recall and their like need the reference's pictures, not statistics alone.")
        return self.reference.features

    def _spatial_statistics(self) -> Statistics:
        found = self.reference.statistics
        if found.mu_s is None or found.sigma_s is None:
            raise DifflabError(
                "sFID needs the reference's spatial statistics (mu_s, sigma_s), or its pictures; give such a reference."
            )
        return Statistics(found.mu_s, found.sigma_s, found.n, found.passport)

    def _needed(self, part: np.ndarray | None, what: str) -> np.ndarray:
        if part is None:
            raise DifflabError(f"the features {self.extractor['name']} have no {what}, which this score is made of.")
        return part


def _over_n(statistics: Statistics) -> Statistics:
    """Statistics with the covariance over n in the place of n - 1, where n is known."""
    if statistics.n is None or statistics.n < 2:
        return statistics
    return replace(statistics, sigma=statistics.sigma * ((statistics.n - 1) / statistics.n))
