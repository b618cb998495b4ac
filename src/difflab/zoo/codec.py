"""Between pixels and model space. Pixels are uint8 with channels last, model space is float32 with channels first.

Latent models will bring a codec of their own; for pixel models it is a change of scale.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from difflab.zoo.card import Rounding


def encode(pixels: np.ndarray) -> Tensor:
    """Pixels (N, .., C) uint8 -> (N, C, ..) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).movedim(-1, 1).float().div_(127.5).sub_(1.0)


def decode(x: Tensor, rounding: Rounding = "nearest") -> np.ndarray:
    """(N, C, ..) float in [-1, 1] -> pixels (N, .., C) uint8; values outside are clamped.

    `nearest` is floor(255 clamp((x + 1) / 2) + 0.5), as ermongroup/ddim writes its PNG files; `floor` truncates
    clamp(127.5 (x + 1)), as ADM does. Their mean level differs by about half a step.
    """
    if rounding == "nearest":
        levels = x.add(1.0).div(2.0).clamp(0.0, 1.0).mul(255.0).add(0.5)
    else:
        levels = x.add(1.0).mul(127.5).clamp(0.0, 255.0)
    return levels.to(torch.uint8).movedim(1, -1).cpu().numpy()
