from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from difflab.errors import DifflabError
from difflab.score.fid import fd_score
from difflab.score.moments import Moments
from difflab.score.statistics import Statistics

EXTRACTOR = {"name": "shapes-image", "dim": 4, "resize": "bilinear_antialias_32", "sha256": "ab", "dtype": "float32"}


def rows(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 4)).astype(np.float32)


def reference(**extractor: str) -> Statistics:
    moments = Moments.of(rows(500, seed=1))
    return Statistics(moments.mean, moments.cov(), n=500, passport={"extractor": EXTRACTOR | extractor})


def test_score_carries_value_interval_count_name_and_passport() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = fd_score(rows(300, shift=2), reference(), EXTRACTOR, replicates=50, seed=3)
    assert score.low < score.value < score.high
    assert score.value == pytest.approx(4 * 2**2, rel=0.15)
    assert (score.n, score.metric) == (300, "FD (shapes-image)")
    assert score.passport["extractor"] == EXTRACTOR
    assert score.passport["reference"]["n"] == 500
    assert score.passport["interval"] == {"kind": "bootstrap", "replicates": 50, "seed": 3, "level": 0.95}
    assert json.loads(json.dumps(score.passport)) == score.passport


def test_a_lower_level_gives_a_narrower_interval() -> None:
    wide, narrow = (fd_score(rows(100), reference(), EXTRACTOR, level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_rank_deficiency_is_told() -> None:
    with pytest.warns(UserWarning, match="4 samples in 4 features: the covariance is singular"):
        fd_score(rows(4), reference(), EXTRACTOR, replicates=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fd_score(rows(5), reference(), EXTRACTOR, replicates=5)


def test_one_sample_is_refused() -> None:
    with pytest.raises(DifflabError, match="at least 2 samples"):
        fd_score(rows(1), reference(), EXTRACTOR)


@pytest.mark.parametrize("key", ["name", "sha256", "resize"])
def test_references_of_other_features_are_refused(key: str) -> None:
    with pytest.raises(DifflabError, match=f"made with {key} 'other'"):
        fd_score(rows(20), reference(**{key: "other"}), EXTRACTOR)


def test_references_that_do_not_say_their_features_are_told() -> None:
    silent = Statistics(np.zeros(4), np.eye(4))
    with pytest.warns(UserWarning, match="do not say which feature network"):
        score = fd_score(rows(20), silent, EXTRACTOR, replicates=5)
    assert score.passport["reference"] == {"n": None, "passport": None}
