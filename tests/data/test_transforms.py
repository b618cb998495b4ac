from __future__ import annotations

import numpy as np
import pytest

from difflab.data.transforms import dequantize, rescale, scale_unit

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_scale_unit_divides_by_255_in_float32() -> None:
    x = scale_unit(LEVELS)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.ravel(), np.arange(256, dtype=np.float32) / np.float32(255))


def test_uniform_dequantization_tiles_the_unit_interval() -> None:
    x = LEVELS / 255
    np.testing.assert_allclose(dequantize(x, np.zeros(1), "uniform").ravel(), np.arange(256) / 256, atol=1e-15)
    np.testing.assert_allclose(dequantize(x, np.ones(1), "uniform").ravel(), np.arange(1, 257) / 256, atol=1e-15)


def test_uniform_dequantization_of_uniform_levels_is_uniform(rng: np.random.Generator) -> None:
    x = dequantize(rng.integers(0, 256, 200_000) / 255, rng.random(200_000), "uniform")
    # Mean 1/2 and variance 1/12, with standard errors 0.00065 and 0.00017.
    assert abs(x.mean() - 1 / 2) < 0.004
    assert abs(x.var() - 1 / 12) < 0.001


def test_gaussian_dequantization_adds_a_hundredth_of_the_noise(rng: np.random.Generator) -> None:
    x, n = rng.random(100), rng.standard_normal(100)
    np.testing.assert_allclose((dequantize(x, n, "gaussian") - x) / n, 0.01, rtol=1e-9)


def test_rescale_maps_the_unit_interval_onto_plus_minus_one() -> None:
    assert rescale(np.array([0.0, 0.25, 1.0])).tolist() == [-1.0, -0.5, 1.0]


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_float32_stays_float32(kind) -> None:
    assert rescale(dequantize(scale_unit(LEVELS), np.zeros((1, 16, 16, 1), np.float32), kind)).dtype == np.float32
