from __future__ import annotations

import time

import mpmath
import numpy as np
import pytest

from difflab.errors import DifflabError
from difflab.score import moments as moments_module
from difflab.score.metrics import (
    bootstrap_frechet,
    covariance_root,
    frechet,
    frechet_features,
    frechet_to_reference,
    interval,
)
from difflab.score.moments import Gaussian, Moments


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def covariance(dim: int, seed: int) -> np.ndarray:
    rows = rng(seed).normal(size=(3 * dim, dim))
    return rows.T @ rows / len(rows)


def rotation(dim: int, seed: int) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(dim, dim)))[0]


def by_forty_digits(a: Gaussian, b: Gaussian) -> float:
    """The defining formula through the eigenvalues of S1 S2, in 40-digit arithmetic."""
    with mpmath.workdps(40):
        product = mpmath.matrix(a.sigma.tolist()) * mpmath.matrix(b.sigma.tolist())
        values = mpmath.eig(product, left=False, right=False)
        root = mpmath.fsum(mpmath.re(mpmath.sqrt(value)) for value in values)
        gap = mpmath.fsum(mpmath.mpf(float(x)) ** 2 for x in a.mu - b.mu)
        return float(gap + mpmath.mpf(float(np.trace(a.sigma))) + mpmath.mpf(float(np.trace(b.sigma))) - 2 * root)


@pytest.fixture
def pair() -> tuple[Gaussian, Gaussian]:
    return Gaussian(rng(1).normal(size=8), covariance(8, 2)), Gaussian(rng(3).normal(size=8), covariance(8, 4))


def test_agrees_with_forty_digit_arithmetic(pair: tuple[Gaussian, Gaussian]) -> None:
    assert frechet(*pair) == pytest.approx(by_forty_digits(*pair), rel=1e-12)


def test_symmetric(pair: tuple[Gaussian, Gaussian]) -> None:
    assert frechet(*pair) == pytest.approx(frechet(*reversed(pair)), rel=1e-12)


def test_zero_on_itself(pair: tuple[Gaussian, Gaussian]) -> None:
    assert frechet(pair[0], pair[0]) == pytest.approx(0, abs=1e-11)


def test_shift_of_the_mean_adds_its_square() -> None:
    sigma, shift = covariance(6, 0), rng(1).normal(size=6)
    assert frechet((np.zeros(6), sigma), (shift, sigma)) == pytest.approx(shift @ shift, rel=1e-11)


def test_diagonal_covariances_add_squared_differences_of_deviations() -> None:
    a, b = rng(0).uniform(0.1, 3, 7), rng(1).uniform(0.1, 3, 7)
    found = frechet((np.zeros(7), np.diag(a**2)), (np.ones(7), np.diag(b**2)))
    assert found == pytest.approx(7 + ((a - b) ** 2).sum(), rel=1e-12)


def test_invariant_under_a_common_rotation(pair: tuple[Gaussian, Gaussian]) -> None:
    turn = rotation(8, 5)
    turned = [(turn @ mu, turn @ sigma @ turn.T) for mu, sigma in pair]
    assert frechet(*turned) == pytest.approx(frechet(*pair), rel=1e-11)


def test_grows_with_the_shift() -> None:
    x = rng(0).normal(size=(200, 5))
    distances = [frechet_features(x, x + shift) for shift in (0.0, 0.1, 0.5, 2.0)]
    assert distances == sorted(distances)
    assert distances[1] == pytest.approx(5 * 0.1**2, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 90), (90, 12), (90, 90)])
def test_all_routes_agree_with_few_and_many_samples(n: int, m: int) -> None:
    """20 features: 12 rows give a covariance of rank 11, 90 rows a full one."""
    x, y = rng(0).normal(size=(n, 20)), rng(1).normal(1, 2, size=(m, 20))
    gaussian_x, gaussian_y = Moments.of(x).gaussian(), Moments.of(y).gaussian()
    truth = by_forty_digits(gaussian_x, gaussian_y)
    assert frechet_features(x, y) == pytest.approx(truth, rel=1e-6)
    assert frechet_to_reference(x, gaussian_y) == pytest.approx(frechet_features(x, y), rel=1e-11)
    assert frechet(gaussian_x, gaussian_y) == pytest.approx(frechet_features(x, y), rel=1e-11)


def test_disjoint_supports_leave_only_the_traces() -> None:
    """Covariances on orthogonal subspaces: S1 S2 = 0, so FD is the sum of both traces."""
    turn = rotation(40, 0)
    a = turn[:, :15] @ np.diag(rng(1).uniform(1, 2, 15)) @ turn[:, :15].T
    b = turn[:, 15:30] @ np.diag(rng(2).uniform(1, 2, 15)) @ turn[:, 15:30].T
    found = frechet((np.zeros(40), a), (np.zeros(40), b))
    assert found == pytest.approx(np.trace(a) + np.trace(b), rel=1e-12)


def test_constant_features_have_no_spread() -> None:
    point, other = np.ones((5, 3)), rng(0).normal(size=(50, 3))
    spread = Moments.of(other)
    expected = ((1 - spread.mean) ** 2).sum() + np.trace(spread.cov())
    assert frechet_features(point, other) == pytest.approx(expected, rel=1e-12)
    assert frechet_features(point, point) == 0


def test_root_drops_null_directions() -> None:
    rows = rng(0).normal(size=(10, 30))
    sigma = np.cov(rows, rowvar=False)
    root = covariance_root(sigma)
    assert root.shape == (30, 9)
    np.testing.assert_allclose(root @ root.T, sigma, atol=1e-13)


@pytest.mark.parametrize("n", [15, 60])
def test_bootstrap_replicates_are_distances_of_resampled_rows(n: int) -> None:
    """Both routes (n below and above 20 features) against plainly repeating rows as often as the seed draws them."""
    x, reference = rng(0).normal(3, 2, size=(n, 20)), Gaussian(rng(2).normal(size=20), covariance(20, 1))
    draws = np.random.default_rng(7)
    expected = [
        frechet_features_against(np.repeat(x, draws.multinomial(n, np.full(n, 1 / n)), axis=0), reference)
        for _ in range(5)
    ]
    np.testing.assert_allclose(bootstrap_frechet(x, reference, replicates=5, seed=7), expected, rtol=1e-7)


def frechet_features_against(rows: np.ndarray, reference: Gaussian) -> float:
    return frechet((rows.mean(axis=0), np.cov(rows, rowvar=False)), reference)


def test_bootstrap_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, reference = rng(0).normal(size=(60, 4)), Gaussian(np.zeros(4), np.eye(4))
    whole = bootstrap_frechet(x, reference, replicates=3)
    monkeypatch.setattr("difflab.score.metrics.ROWS_AT_ONCE", 7)
    monkeypatch.setattr(moments_module, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(bootstrap_frechet(x, reference, replicates=3), whole, rtol=1e-10)


def test_bootstrap_is_decided_by_its_seed() -> None:
    x, reference = rng(0).normal(size=(40, 4)), Gaussian(np.zeros(4), np.eye(4))
    first = bootstrap_frechet(x, reference, replicates=4, seed=1)
    np.testing.assert_array_equal(bootstrap_frechet(x, reference, replicates=4, seed=1), first)
    assert not np.allclose(bootstrap_frechet(x, reference, replicates=4, seed=2), first)


def test_bootstrap_at_demo_size_is_quick() -> None:
    x, reference = rng(0).normal(size=(500, 64)).astype(np.float32), Gaussian(np.zeros(64), np.eye(64))
    start = time.process_time()
    bootstrap_frechet(x, reference)
    assert time.process_time() - start < 5  # about 0.1 s alone on a core


def test_interval_covers_the_expected_score() -> None:
    """95 percent intervals over 150 sets of 100 draws; the target is the mean score at this n, known well from 4000."""
    reference = Gaussian(np.zeros(3), np.eye(3))
    draws = rng(0)

    def draw() -> np.ndarray:
        return draws.normal(0.3, 1.2, size=(100, 3))

    target = np.mean([frechet_to_reference(draw(), reference) for _ in range(4000)])
    covered = 0
    for seed in range(150):
        x = draw()
        low, high = interval(frechet_to_reference(x, reference), bootstrap_frechet(x, reference, 100, seed))
        covered += low <= target <= high
    # The standard error of a share of 0.95 over 150 sets is 0.018; percentile widths run a little short at n = 100.
    assert 0.87 <= covered / 150 <= 1


def test_interval_holds_the_estimate_although_replicates_are_biased() -> None:
    x, reference = rng(0).normal(size=(60, 40)), Gaussian(np.zeros(40), np.eye(40))
    estimate, replicates = frechet_to_reference(x, reference), bootstrap_frechet(x, reference)
    low, high = interval(estimate, replicates)
    assert replicates.min() > estimate, "the case no longer shows the bias"
    assert low < estimate < high
    assert high - low == pytest.approx(np.subtract(*np.quantile(replicates, [0.975, 0.025])))


def test_interval_is_the_reflected_spread_of_the_replicates() -> None:
    """Replicates 0, 0, 0, 10, .. have mean 2.5, quartiles 0 and 2.5: the long upper side turns into the lower one."""
    low, high = interval(7.0, np.array([0.0, 0.0, 0.0, 10.0] * 101), level=0.5)
    assert (low, high) == (pytest.approx(7.0, abs=0.01), pytest.approx(9.5, abs=0.01))


def test_few_replicates_give_students_interval() -> None:
    """For normal replicates it covers a new draw of the estimate as often as told, where quantiles of 20 would not."""
    source, covered = rng(0), 0
    for _ in range(2000):
        low, high = interval(float(source.normal()), source.normal(size=20))
        covered += low <= 0.0 <= high
    assert 0.93 < covered / 2000 < 0.97


def test_common_resamples_give_a_narrower_interval_of_a_difference_on_correlated_sets() -> None:
    """Equal seeds resample both sets alike, so what they share cancels: this is how studies compare two cells."""
    noise = rng(0).normal(size=(300, 6))
    a, b = 1.3 * noise, 1.25 * noise + 0.05 * rng(1).normal(size=(300, 6))
    reference = Gaussian(np.zeros(6), np.eye(6))
    estimate = frechet_to_reference(a, reference) - frechet_to_reference(b, reference)

    def width(seed_of_b: int) -> float:
        low, high = interval(
            estimate, bootstrap_frechet(a, reference, seed=0) - bootstrap_frechet(b, reference, seed=seed_of_b)
        )
        assert low < estimate < high
        return high - low

    assert width(0) < 0.5 * width(1)


def test_resamples_of_a_set_are_the_same_twice() -> None:
    x, reference = rng(0).normal(size=(30, 4)), Gaussian(np.zeros(4), np.eye(4))
    first, second = (bootstrap_frechet(x, reference, replicates=10) for _ in range(2))
    assert np.array_equal(first, second)


def test_mistakes_get_one_sentence() -> None:
    reference = Gaussian(np.zeros(3), np.eye(3))
    with pytest.raises(DifflabError, match="4 and 3 features"):
        frechet((np.zeros(4), np.eye(4)), reference)
    with pytest.raises(DifflabError, match="4 and 3 features"):
        bootstrap_frechet(np.zeros((9, 4)), reference)
    with pytest.raises(DifflabError, match="do not belong together"):
        frechet((np.zeros(3), np.eye(4)), reference)
    with pytest.raises(DifflabError, match="NaN"):
        frechet((np.full(3, np.nan), np.eye(3)), reference)
    with pytest.raises(DifflabError, match="at least 2 samples"):
        frechet_to_reference(np.zeros((1, 3)), reference)
