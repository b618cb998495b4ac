from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from difflab.errors import DifflabError
from difflab.score import infinity
from difflab.score.inception_score import adm_inception_score, bootstrap_inception_score, inception_score
from difflab.score.infinity import GROUPS, extrapolate, fd_infinity
from difflab.score.kernel import cmmd, gaussian, kid, mmd, mmd_error, polynomial


def draw(n: int, shift: float = 0.0, seed: int = 0, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def test_the_unbiased_distance_is_the_sum_over_pairs():
    x, y = draw(5), draw(7, 0.3, 1)
    k = [[polynomial(a, b) for b in (x, y)] for a in (x, y)]
    xx, yy = k[0][0][~np.eye(5, dtype=bool)].mean(), k[1][1][~np.eye(7, dtype=bool)].mean()
    assert mmd(x, y) == pytest.approx(xx + yy - 2 * k[0][1].mean(), rel=1e-12)


def test_without_bias_equal_distributions_are_at_zero_on_average_and_with_it_above():
    values = [mmd(draw(30, seed=2 * i), draw(30, seed=2 * i + 1)) for i in range(200)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0
    assert all(mmd(draw(30, seed=i), draw(30, seed=i + 50), biased=True) > 0 for i in range(10))


def test_gaussian_kernel_in_closed_form():
    """E k(x, y) for x, y ~ N(0, 1) in one dimension is sigma / sqrt(sigma^2 + 2)."""
    x, y = draw(3000, seed=1, d=1), draw(3000, seed=2, d=1)
    assert gaussian(1.5)(x, y).mean() == pytest.approx(1.5 / (1.5**2 + 2) ** 0.5, abs=0.01)


def test_kids_kernel_divides_by_the_dimension_and_adds_one():
    assert polynomial(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])) == pytest.approx((11 / 2 + 1) ** 3)


def test_cmmd_of_two_points_in_closed_form():
    """All of x at one point and all of y at another, at distance r: 1000 (2 - 2 exp(-r^2 / 200))."""
    x, y = np.tile([0.0, 0.0], (4, 1)), np.tile([3.0, 4.0], (5, 1))
    assert cmmd(x, y) == pytest.approx(1000 * (2 - 2 * np.exp(-25 / 200)), rel=1e-12)


def test_kid_grows_with_the_shift_and_takes_no_larger_subsets_than_there_are():
    near, far = (kid(draw(200, seed=1), draw(150, shift, 2), subsets=10) for shift in (0.1, 1.0))
    assert far.value > near.value
    assert near.size == 150


def test_one_sample_is_refused():
    with pytest.raises(DifflabError, match="at least 2 samples"):
        mmd(draw(1), draw(5))


def test_the_inception_score_is_one_for_unsure_and_the_number_of_classes_for_sure_and_varied_samples():
    assert inception_score(np.zeros((50, 10)), 5) == pytest.approx((1.0, 0.0))
    sure = 1000.0 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(sure, 10)[0] == pytest.approx(10.0)
    assert adm_inception_score(sure, 50) == pytest.approx(10.0)
    assert inception_score(np.sort(sure, axis=0), 1)[0] < 10.0


def test_the_bootstrap_of_the_inception_score_lies_around_it():
    logits = np.random.default_rng(0).normal(size=(400, 10)) * 3
    value, replicates = adm_inception_score(logits), bootstrap_inception_score(logits, 300)
    assert abs(replicates.mean() - value) < 4 * replicates.std()
    assert len(set(replicates)) == 300
    in_splits = bootstrap_inception_score(logits, 300, size=100)
    assert abs(in_splits.mean() - adm_inception_score(logits, 100)) < 4 * in_splits.std()


def test_a_line_over_one_by_n_is_found_exactly():
    sizes = np.linspace(100, 1000, 15)
    found = extrapolate(sizes, 3.0 + 50.0 / sizes)
    assert (found.value, found.slope) == (pytest.approx(3.0), pytest.approx(50.0))


def test_fd_infinity_takes_the_bias_of_few_samples_away_and_its_interval_covers():
    """Samples of the reference itself: FD is bias alone, and its extrapolation has none."""
    reference, covered = (np.zeros(6), np.eye(6)), 0
    for seed in range(20):
        found = fd_infinity(draw(800, seed=seed), reference)
        covered += found.low <= 0.0 <= found.high
        assert abs(found.value) < 0.03
    assert covered >= 15
    with pytest.raises(DifflabError, match="each of which needs more than 6; it takes about 78 samples, not 60"):
        fd_infinity(draw(60), reference)


def test_the_interval_of_fd_infinity_is_the_jackknifes():
    """Variance (G - 1) / G sum_g (value without group g - their mean)^2, and Student's t with G - 1 degrees."""
    x, reference = draw(400, 0.2), (np.zeros(6), np.eye(6))
    found = fd_infinity(x, reference)
    groups = np.array_split(np.arange(len(x)), GROUPS)
    without = np.array([fd_infinity(np.delete(x, rows, axis=0), reference).value for rows in groups])
    error = ((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum()) ** 0.5
    half = student.ppf(0.975, GROUPS - 1) * error
    assert (found.low, found.high) == (pytest.approx(found.value - half), pytest.approx(found.value + half))


@pytest.mark.parametrize(("n", "smallest"), [(800, 80), (60_000, 5000)])
def test_fd_infinity_takes_fifteen_subsets_evenly_from_a_tenth_or_5000_to_all(n, smallest, monkeypatch):
    sizes: list[int] = []
    monkeypatch.setattr(infinity, "frechet_to_reference", lambda rows, _: sizes.append(len(rows)) or 1.0)
    fd_infinity(np.zeros((n, 1)), (np.zeros(1), np.eye(1)))
    assert sizes[:15] == [int(size) for size in np.linspace(smallest, n, 15)]


def test_kids_error_is_the_spread_over_draws():
    draws = [(draw(120, 0.4, 2 * i), draw(100, 0.0, 2 * i + 1)) for i in range(150)]
    spread = np.std([mmd(x, y) for x, y in draws])
    told = np.mean([mmd_error(x, y) for x, y in draws[:30]])
    assert told == pytest.approx(spread, rel=0.25)
