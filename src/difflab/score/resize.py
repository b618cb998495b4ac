"""The resizes that stand before feature networks, each as the tool it comes from does it.

A score belongs to its resize: the two bilinear rules alone move single Inception features by a tenth of their spread.
All take images (B, C, H, W), stretch them to a square and answer on the 0..255 scale, without normalisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def torch_bilinear(x: Tensor, size: int) -> Tensor:
    """Half-pixel centres, no antialias: pytorch-fid. (B, C, H, W) floats -> (B, C, size, size)."""
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: torch-fidelity, the ADM evaluator, StyleGAN and EDM.

    Output i reads at i * in/out, without the half-pixel shift, so enlarged content moves by half an input pixel. No
    antialias. Positions are float32 as in TensorFlow, whatever the dtype of `x`; x is interpolated before y.

    Args:
        x: (B, C, H, W) floats.

    Returns:
        (B, C, size, size) of the same dtype.
    """
    x = _lerp_tf1(x, size, dim=3)
    return _lerp_tf1(x, size, dim=2)


def _lerp_tf1(x: Tensor, size: int, dim: int) -> Tensor:
    length = x.shape[dim]
    scale = torch.tensor(length, dtype=torch.float32) / size
    position = torch.arange(size, dtype=torch.float32) * scale
    before = position.floor()
    weight = (position - before).to(x)
    before = before.long().to(x.device)
    after = (before + 1).clamp(max=length - 1)
    low = x.index_select(dim, before)
    return low + (x.index_select(dim, after) - low) * (weight[:, None] if dim == 2 else weight)


def torch_bicubic_antialias(x: Tensor, size: int) -> Tensor:
    """Antialiased bicubic on floats, not clipped: the default of EDM2's FD-DINOv2. Shapes as `torch_bilinear`."""
    return F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def pil_bicubic_float(x: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bicubic, each channel as a float image, clipped to 0..255, not rounded: clean-fid.

    (B, C, H, W) -> float32 (B, C, size, size).
    """
    return _pil_bicubic(x.to(torch.float32), size).clamp(0, 255)


def pil_bicubic_uint8(x: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bicubic on 8-bit images, hence rounded: dgm-eval.

    `x` (B, C, H, W) holds whole numbers 0..255 in any dtype; the answer is float32. Pillow treats the channels of an
    8-bit image independently, so each goes by itself.
    """
    return _pil_bicubic(x.to(torch.uint8), size).float()


def _pil_bicubic(x: Tensor, size: int) -> Tensor:
    planes = x.cpu().flatten(0, 1).numpy()  # (B * C, H, W)
    resized = np.stack(
        [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in planes]
    )
    return torch.from_numpy(resized).unflatten(0, x.shape[:2]).to(x.device)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "torch_bilinear": torch_bilinear,
    "tf1_bilinear": tf1_bilinear,
    "torch_bicubic_antialias": torch_bicubic_antialias,
    "pil_bicubic_float": pil_bicubic_float,
    "pil_bicubic_uint8": pil_bicubic_uint8,
}
