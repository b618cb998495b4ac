"""The intervals of the ADM suite, each against its definition. The values are held by tests/golden."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.score.adm import Reference, Suite, reference_of
from difflab.score.extractors import Taps
from difflab.score.kernel import mmd_error
from difflab.score.manifold import GROUPS, manifolds
from difflab.score.scores import Score

Z = 1.959964
PASSPORT = {"name": "tiny", "sha256": "x", "resize": "none"}


@pytest.fixture
def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0.3, 0.9, size=(60, 4)).astype(np.float32), rng.normal(size=(90, 4)).astype(np.float32)


@pytest.fixture
def suite(features: tuple[np.ndarray, np.ndarray]) -> Suite:
    samples, real = features
    return Suite(Taps(samples), reference_of(Taps(real), PASSPORT), PASSPORT)


def half_width(score: Score) -> float:
    assert score.value - score.low == pytest.approx(score.high - score.value)
    return score.high - score.value


def test_kids_interval_is_normal_with_its_standard_error(suite, features):
    assert half_width(suite.score("kid")) == pytest.approx(Z * mmd_error(*features))


def test_densitys_interval_is_that_of_a_mean_over_samples(suite, features):
    samples, real = features
    distance = np.linalg.norm(samples[:, None].astype(float) - real[None], axis=2)
    among_real = np.linalg.norm(real[:, None].astype(float) - real[None], axis=2)
    density = (distance < np.sort(among_real, axis=1)[:, 5]).sum(1) / 5  # of each sample
    score = suite.score("density")
    assert score.value == pytest.approx(density.mean())
    assert half_width(score) == pytest.approx(Z * density.std() / len(density) ** 0.5)


@pytest.mark.parametrize(("metric", "k"), [("recall", 3), ("coverage", 5)])
def test_the_draw_of_the_samples_counts_beside_that_of_the_reference(suite, features, metric, k):
    """The variances add: of a jackknife over tenths of the samples, and of a share of the reference's points."""
    samples, real = features
    groups = np.array_split(samples, GROUPS)
    without = np.array([
        getattr(manifolds(real, np.concatenate(groups[:g] + groups[g + 1 :]), k, strict=k == 5), metric)
        for g in range(GROUPS)
    ])  # fmt: skip
    jackknife = (GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum()
    score = suite.score(metric)
    error = (jackknife + score.value * (1 - score.value) / len(real)) ** 0.5
    assert score.low == pytest.approx(max(score.value - Z * error, 0.0), abs=1e-6)
    assert score.high == pytest.approx(min(score.value + Z * error, 1.0), abs=1e-6)
    assert score.low > 0.0 or score.high < 1.0


def test_a_reference_of_its_own_pictures_has_their_moments(features):
    made: Reference = reference_of(Taps(features[1]), PASSPORT)
    np.testing.assert_allclose(made.statistics.sigma, np.cov(features[1].T), rtol=1e-6)
    assert made.statistics.n == 90
