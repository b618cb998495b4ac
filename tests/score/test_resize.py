from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from difflab.score.resize import RESIZES, tf1_bilinear, torch_bilinear


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, height, width)).astype(np.float32))


def tf1_by_loops(plane: np.ndarray, size: int) -> np.ndarray:
    """The rule of `tf.image.resize_bilinear`, one pixel at a time, every operation rounded to float32."""
    f32 = np.float32
    height, width = plane.shape
    out = np.empty((size, size), f32)
    for i in range(size):
        for j in range(size):
            y, x = f32(i) * (f32(height) / f32(size)), f32(j) * (f32(width) / f32(size))
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = plane[y0, x0] + (plane[y0, x1] - plane[y0, x0]) * (x - f32(x0))
            bottom = plane[y1, x0] + (plane[y1, x1] - plane[y1, x0]) * (x - f32(x0))
            out[i, j] = top + (bottom - top) * (y - f32(y0))
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(7, 5, 19), (32, 32, 29), (40, 61, 23), (1, 1, 4)])
def test_tf1_bilinear_follows_its_rule_bit_for_bit(height: int, width: int, size: int) -> None:
    x = pictures(height, width)
    np.testing.assert_array_equal(tf1_bilinear(x, size)[1, 2].numpy(), tf1_by_loops(x[1, 2].numpy(), size))


def test_tf1_bilinear_of_a_ramp_is_shifted_by_half_an_input_pixel() -> None:
    """On a ramp, inside, half-pixel centres read (i + 1/2) in/out - 1/2 and TensorFlow 1 reads i in/out."""
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    middle = slice(8, 56)
    shift = tf1_bilinear(ramp, 64)[0, 0, 0, middle] - torch_bilinear(ramp, 64)[0, 0, 0, middle]
    torch.testing.assert_close(shift, torch.full_like(shift, 0.5 - 0.5 * 16 / 64))


@pytest.mark.parametrize("name", RESIZES)
def test_constant_pictures_stay_constant(name: str) -> None:
    out = RESIZES[name](torch.full((2, 3, 9, 13), 77.0), 21)
    torch.testing.assert_close(out, torch.full((2, 3, 21, 21), 77.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RESIZES)
def test_pictures_of_the_asked_size_pass_unchanged(name: str) -> None:
    x = pictures(21, 21)
    torch.testing.assert_close(RESIZES[name](x, 21), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RESIZES)
def test_a_picture_does_not_see_its_batch_or_other_channels(name: str) -> None:
    x = pictures(11, 17)
    alone = RESIZES[name](x[1:, 2:], 23)
    torch.testing.assert_close(RESIZES[name](x, 23)[1:, 2:], alone, rtol=0, atol=0)


def test_pillow_rules_stay_in_range_and_only_one_rounds() -> None:
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 255
    exact, rounded = (RESIZES[name](stripes, 21) for name in ("pil_bicubic_float", "pil_bicubic_uint8"))
    assert exact.min() == 0
    assert exact.max() == 255
    assert torch.equal(rounded, rounded.round())
    assert not torch.equal(exact, exact.round())
    torch.testing.assert_close(rounded, exact, atol=1.0, rtol=0)
    assert RESIZES["torch_bicubic_antialias"](stripes, 21).max() > 255
