from __future__ import annotations

import numpy as np
import pytest

from difflab.data.transforms import (
    Pixels,
    dequantize_gaussian,
    dequantize_uniform,
    flip,
    logit,
    rescale,
    scale_unit,
)

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_scale_unit_divides_by_255_in_float32() -> None:
    x = scale_unit(LEVELS)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.ravel(), np.arange(256, dtype=np.float32) / np.float32(255))


def test_uniform_dequantization_tiles_the_unit_interval() -> None:
    x = LEVELS / 255
    np.testing.assert_allclose(dequantize_uniform(x, np.zeros(1)).ravel(), np.arange(256) / 256, atol=1e-15)
    np.testing.assert_allclose(dequantize_uniform(x, np.ones(1)).ravel(), np.arange(1, 257) / 256, atol=1e-15)


def test_uniform_dequantization_of_uniform_levels_is_uniform(rng: np.random.Generator) -> None:
    x = dequantize_uniform(rng.integers(0, 256, 200_000) / 255, rng.random(200_000))
    # Mean 1/2 and variance 1/12, with standard errors 0.00065 and 0.00017.
    assert abs(x.mean() - 1 / 2) < 0.004
    assert abs(x.var() - 1 / 12) < 0.001


def test_gaussian_dequantization_adds_a_hundredth_of_the_noise(rng: np.random.Generator) -> None:
    x, n = rng.random(100), rng.standard_normal(100)
    np.testing.assert_allclose((dequantize_gaussian(x, n) - x) / n, 0.01, rtol=1e-9)


def test_rescale_maps_the_unit_interval_onto_plus_minus_one() -> None:
    assert rescale(np.array([0.0, 0.25, 1.0])).tolist() == [-1.0, -0.5, 1.0]


def test_logit_is_odd_about_a_half_finite_at_the_ends_and_undone_by_the_sigmoid() -> None:
    x = np.linspace(0, 1, 101)
    y = logit(x)
    np.testing.assert_allclose(y, -y[::-1], atol=1e-9)
    assert y[-1] == pytest.approx(np.log(999_999), rel=1e-9)
    np.testing.assert_allclose(1 / (1 + np.exp(-y)), 1e-6 + (1 - 2e-6) * x, atol=1e-15)


def test_flip_mirrors_left_to_right_where_the_coin_says_so(rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    y = flip(x, np.array([True, False, True]))
    np.testing.assert_array_equal(y[0, :, 0], x[0, :, -1])
    np.testing.assert_array_equal(y[1], x[1])
    np.testing.assert_array_equal(flip(y, np.array([True, False, True])), x)
    assert y.dtype == np.uint8


@pytest.mark.parametrize("kind", ["rescaled", "logit", None])
@pytest.mark.parametrize("mean", [None, np.array([0.3, -0.2, 0.1])])
def test_inverse_undoes_forward(kind, mean, rng: np.random.Generator) -> None:
    x = rng.random((2, 4, 4, 3))
    pixels = Pixels(range=kind, mean=mean)
    # The logit's margin of 1e-6 is not undone, as in the official code.
    np.testing.assert_allclose(pixels.inverse(pixels.forward(x)), x, atol=1.0e-6 if kind == "logit" else 1e-12)


def test_the_order_is_dequantize_then_range_then_mean() -> None:
    x, noise = np.array([0.5]), np.array([0.25])
    pixels = Pixels(dequantization="uniform", range="rescaled", mean=np.array([0.125]))
    assert pixels.forward(x, noise) == pytest.approx(2 * (0.5 * 255 / 256 + 0.25 / 256) - 1 - 0.125)
    pixels = Pixels(dequantization="gaussian", range="logit", mean=np.array([0.125]))
    v = 1e-6 + (1 - 2e-6) * 0.5025
    assert pixels.forward(x, noise) == pytest.approx(np.log(v / (1 - v)) - 0.125)


def test_inverse_clamps_to_the_unit_interval() -> None:
    assert Pixels().inverse(np.array([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


def test_dequantization_without_noise_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs noise"):
        Pixels(dequantization="uniform").forward(np.zeros(3))


@pytest.mark.parametrize("kind", ["rescaled", "logit"])
def test_float32_stays_float32(kind) -> None:
    pixels = Pixels(dequantization="uniform", range=kind, mean=np.zeros(1, np.float32))
    x = pixels.forward(scale_unit(LEVELS), np.zeros((1, 16, 16, 1), np.float32))
    assert x.dtype == np.float32
    assert pixels.inverse(x).dtype == np.float32
    assert np.isfinite(x).all()
