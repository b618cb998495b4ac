"""Pixels to model space with noise below a grey level, as ermongroup/ddim can add it while training.

Arrays are floats with channels last, (.., H, W, C), and keep their dtype. The official order is: to [0, 1], noise, to
[-1, 1]. Its other ways, the logit and subtracting a mean picture, are refused where a configuration asks for them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Dequantization = Literal["uniform", "gaussian"]

_GAUSSIAN_SCALE = 0.01


def scale_unit(x: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]: x / 255."""
    return x.astype(np.float32) / np.float32(255)


def dequantize(x: np.ndarray, noise: np.ndarray, kind: Dequantization) -> np.ndarray:
    """x in [0, 1] with noise of its shape below a grey level.

    `uniform` spreads each of the 256 grey levels over its own interval of [0, 1), 255/256 x + u/256 for u uniform on
    [0, 1); `gaussian` is x + 0.01 n for n standard normal.
    """
    return x * (255 / 256) + noise / 256 if kind == "uniform" else x + _GAUSSIAN_SCALE * noise


def rescale(x: np.ndarray) -> np.ndarray:
    """[0, 1] to [-1, 1]."""
    return 2 * x - 1
