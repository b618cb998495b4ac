from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from difflab.errors import DifflabError
from difflab.score.moments import ROWS_AT_ONCE, Moments


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (257, 5))


@pytest.fixture
def hard() -> np.ndarray:
    """Mean 1e4, standard deviation 1e-2: twelve of sixteen digits of a raw square are lost."""
    return np.random.default_rng(1).normal(1e4, 1e-2, (500, 3))


def exact_covariance(rows: np.ndarray) -> np.ndarray:
    """Covariance (ddof 1) by rational arithmetic, rounded once at the end."""
    columns = [[Fraction(float(value)) for value in column] for column in rows.T]
    means = [sum(column) / len(column) for column in columns]
    centred = [[value - mean for value in column] for column, mean in zip(columns, means, strict=True)]
    return np.array(
        [[float(sum(a * b for a, b in zip(x, y, strict=True)) / (len(rows) - 1)) for y in centred] for x in centred]
    )


def raw_moment_covariance(rows: np.ndarray) -> np.ndarray:
    """The wrong way, kept to show that `hard` would catch it: E[x x'] - mu mu'."""
    mean = rows.mean(axis=0)
    return (rows.T @ rows - len(rows) * np.outer(mean, mean)) / (len(rows) - 1)


def in_shards(rows: np.ndarray, sizes: list[int]) -> Moments:
    moments = Moments(rows.shape[1])
    for shard in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.merge(Moments.of(shard))
    return moments


def test_mean_and_covariance_are_those_of_the_rows(rows: np.ndarray) -> None:
    moments = Moments.of(rows)
    assert moments.n == 257
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.cov(), np.cov(rows, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(moments.cov(ddof=0), np.cov(rows, rowvar=False, ddof=0), rtol=1e-12)


@pytest.mark.parametrize("sizes", [[257], [1] * 257, [100, 1, 156], [0, 200, 0, 57]])
def test_any_sharding_gives_the_same_moments(rows: np.ndarray, sizes: list[int]) -> None:
    whole, merged = Moments.of(rows), in_shards(rows, sizes)
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10)
    np.testing.assert_allclose(merged.cov(), whole.cov(), rtol=1e-10)


def test_blocks_inside_one_update_do_not_show() -> None:
    rows = np.random.default_rng(2).normal(5, 1, (ROWS_AT_ONCE + 3, 2)).astype(np.float32)
    np.testing.assert_allclose(Moments.of(rows).cov(), np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [7, 493]])
def test_large_mean_keeps_its_covariance(hard: np.ndarray, sizes: list[int]) -> None:
    np.testing.assert_allclose(in_shards(hard, sizes).cov(), exact_covariance(hard), rtol=1e-5)


def test_large_mean_defeats_raw_moments(hard: np.ndarray) -> None:
    exact = exact_covariance(hard)
    assert np.abs(raw_moment_covariance(hard) / exact - 1).max() > 1e-4


def test_statistics_round_trip(rows: np.ndarray) -> None:
    moments = Moments.of(rows[:200])
    again = Moments.from_statistics(moments.n, *moments.gaussian())
    again.update(rows[200:])
    np.testing.assert_allclose(again.cov(), Moments.of(rows).cov(), rtol=1e-10)


def test_statistics_without_a_count_cannot_be_merged() -> None:
    with pytest.raises(DifflabError, match="do not say how many samples"):
        Moments.from_statistics(None, np.zeros(2), np.eye(2))


def test_float32_features_are_summed_in_double_precision(rows: np.ndarray) -> None:
    single = rows.astype(np.float32)
    np.testing.assert_array_equal(Moments.of(single).cov(), Moments.of(single.astype(np.float64)).cov())


def test_the_callers_features_are_left_alone(rows: np.ndarray) -> None:
    before = rows.copy()
    Moments.of(rows)
    np.testing.assert_array_equal(rows, before)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DifflabError, match="at least 2 samples"):
        Moments.of(np.zeros((1, 3))).cov()


def test_nan_rows_are_counted() -> None:
    rows = np.zeros((4, 2))
    rows[1, 0] = np.nan
    with pytest.raises(DifflabError, match="1 of 4 feature rows"):
        Moments.of(rows)


def test_other_widths_are_refused() -> None:
    with pytest.raises(DifflabError, match="3 columns"):
        Moments(2).update(np.zeros((4, 3)))
    with pytest.raises(DifflabError, match="cannot be merged"):
        Moments(2).merge(Moments(3))
    with pytest.raises(DifflabError, match=r"\(n, d\)"):
        Moments.of(np.zeros(3))
