"""Pixels to model space and back, as `data_transform` and its inverse in ermongroup/ddim.

Arrays are floats with channels last, (..., H, W, C), and keep their dtype. What is random is an argument: `u` uniform
on [0, 1), `n` standard normal, `coin` booleans. The official order is: dequantize, then `rescale` or `logit`, then
subtract the image mean. `Pixels` puts the pieces together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

_LOGIT_MARGIN = 1e-6
_GAUSSIAN_SCALE = 0.01


def scale_unit(x: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]: x / 255."""
    return x.astype(np.float32) / np.float32(255)


def flip(x: np.ndarray, coin: np.ndarray) -> np.ndarray:
    """Mirror the images (N, H, W, C) whose `coin` (N,) is true, left to right; any dtype."""
    return np.where(coin[:, None, None, None], x[:, :, ::-1], x)


def dequantize_uniform(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Spread each of the 256 grey levels of x in [0, 1] over its own interval of [0, 1): 255/256 x + u/256."""
    return x * (255 / 256) + u / 256


def dequantize_gaussian(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """x + 0.01 n."""
    return x + _GAUSSIAN_SCALE * n


def rescale(x: np.ndarray) -> np.ndarray:
    """[0, 1] to [-1, 1]."""
    return 2 * x - 1


def logit(x: np.ndarray) -> np.ndarray:
    """log(v / (1 - v)) with v = 1e-6 + (1 - 2e-6) x, which keeps the ends finite; x in [0, 1]."""
    v = _LOGIT_MARGIN + (1 - 2 * _LOGIT_MARGIN) * x
    return np.log(v) - np.log1p(-v)


@dataclass(frozen=True)
class Pixels:
    """The data options of an official configuration: which dequantization, which range, which mean.

    `mean` broadcasts against (..., H, W, C). The defaults are those of all four official configurations.
    """

    dequantization: Literal["uniform", "gaussian"] | None = None
    range: Literal["rescaled", "logit"] | None = "rescaled"
    mean: np.ndarray | None = None

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """[0, 1] to model space. `noise` has the shape of x: uniform or normal, as the dequantization asks for."""
        if self.dequantization is not None:
            if noise is None:
                raise ValueError(f"{self.dequantization} dequantization needs noise")
            x = dequantize_uniform(x, noise) if self.dequantization == "uniform" else dequantize_gaussian(x, noise)
        if self.range is not None:
            x = rescale(x) if self.range == "rescaled" else logit(x)
        return x if self.mean is None else x - self.mean

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Model space to [0, 1], clamped. Dequantization and the logit's margin stay, as in the official code."""
        if self.mean is not None:
            x = x + self.mean
        if self.range is not None:
            x = (x + 1) / 2 if self.range == "rescaled" else expit(x)
        return x.clip(0, 1)
