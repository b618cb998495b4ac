"""Pieces that more than one network uses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x) on a tensor that the caller no longer needs: in place while no gradient is recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def sincos_embedding(t: Tensor, dim: int) -> Tensor:
    """Sine-first embedding of timesteps, as in the TensorFlow DDPM code and its ports.

    With half = dim // 2 the frequencies are exp(-k ln(10000) / (half - 1)), k = 0 .. half - 1. An odd `dim` gets a
    zero column at the end.

    Args:
        t: (B,) timesteps, integers or fractions.
        dim: width of the embedding, at least 4.

    Returns:
        (B, dim) float32: all sines, then all cosines.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = t.float()[:, None] * rates  # (B, half)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


def cossin_embedding(t: Tensor, dim: int, span: float) -> Tensor:
    """Cosine-first embedding of timesteps, as in ADM and DiT.

    With half = dim // 2 the frequencies are exp(-k ln(10000) / span), k = 0 .. half - 1. An odd `dim` gets a zero
    column at the end.

    Args:
        t: (B,) timesteps, integers or fractions.
        dim: width of the embedding.
        span: half in ADM and DiT, half - 1 in diffusers.

    Returns:
        (B, dim) float32: all cosines, then all sines.
    """
    rates = torch.exp(torch.arange(dim // 2, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / span))
    angles = t.float()[:, None] * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))
