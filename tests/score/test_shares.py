from __future__ import annotations

import numpy as np
import pytest

from difflab.score.shares import paired_shares, wilson


def test_wilson_solves_its_own_quadratic():
    """The ends p are where |k / n - p| is exactly z standard errors at p itself."""
    for k, n in ((3, 20), (10, 20), (250, 256)):
        for end in wilson(k, n):
            assert abs(k / n - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n))


def test_wilson_stays_within_bounds_at_the_ends():
    assert wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, False, True, False], [both, gained, lost, neither])
    b = np.repeat([True, True, False, False], [both, gained, lost, neither])
    return a, b


def test_few_disagreements_are_no_certainty():
    """Four changes, all one way: the exact McNemar test gives p = 0.125, so zero must lie within."""
    low, high = paired_shares(*pairs(100, 4, 0, 152))
    assert low < 0 < high
    low, high = paired_shares(*pairs(100, 0, 0, 156))
    assert low < 0 < high


def test_swapping_turns_the_sign():
    a, b = pairs(10, 30, 5, 55)
    low, high = paired_shares(a, b)
    assert paired_shares(b, a) == (pytest.approx(-high), pytest.approx(-low))


def test_the_width_is_the_error_of_a_mean_with_half_a_sample_added_to_each_outcome():
    differences, weights = np.array([0, 1, -1, 0]), np.array([10, 30, 5, 55]) + 0.5
    mean = np.average(differences, weights=weights)
    error = np.sqrt(np.average((differences - mean) ** 2, weights=weights) / weights.sum())
    expected = (mean - 1.959964 * error, mean + 1.959964 * error)
    assert paired_shares(*pairs(10, 30, 5, 55)) == pytest.approx(expected)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, outcomes = 0.10 - 0.04, [0.5, 0.10, 0.04, 0.36]
    inside = 0
    for counts in rng.multinomial(200, outcomes, size=2000):
        low, high = paired_shares(*pairs(*counts))
        inside += low <= truth <= high
    assert 0.94 <= inside / 2000 <= 0.97  # binomial error of 2,000 trials: 0.005
