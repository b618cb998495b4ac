"""How captions lie in memory, whatever encoder they come from, and attention to their tokens.

A caption is one array (1 + L, W): the vector of all of it, then one of each token. Rows of NaN are absent, and a
caption of nothing else is no caption. So captions are one tensor (B, 1 + L, W) for whoever stacks, guides or hides
them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Caption(NamedTuple):
    """Captions taken apart: vector (B, W), tokens (B, L, W), and which tokens there are, present (B, L) bool."""

    vector: Tensor
    tokens: Tensor
    present: Tensor


def unpack(packed: Tensor, null_vector: Tensor, null_token: Tensor) -> Caption:
    """Captions (B, 1 + L, W) taken apart; in the place of a vector or tokens that one lacks there are this vector (W,)
    and one token (W,). Raises ValueError on a wrong shape."""
    if packed.ndim != 3 or packed.shape[1] < 2 or packed.shape[2] != len(null_vector):
        raise ValueError(f"captions are (B, 1 + tokens, {len(null_vector)}), not {tuple(packed.shape)}")
    there, values = ~packed.isnan().any(dim=2), packed.nan_to_num(0.0)
    silent = ~there[:, 1:].any(dim=1, keepdim=True)
    first = torch.where(silent, null_token, values[:, 1])
    present = torch.cat([there[:, 1:2] | silent, there[:, 2:]], dim=1)
    vector = torch.where(there[:, :1], values[:, 0], null_vector)
    return Caption(vector, torch.cat([first[:, None], values[:, 2:]], dim=1), present)


def pack(caption: Caption) -> Tensor:
    """Captions as one tensor (B, 1 + L, W)."""
    vector, tokens, present = caption
    return torch.cat([vector[:, None], tokens.masked_fill(~present[..., None], math.nan)], dim=1)


class CaptionEmbedding(nn.Module):
    """Captions (B, 1 + L, W) -> vectors (B, D), tokens (B, L, D), and which tokens there are (B, L) bool.

    Both go through linear, GELU, linear, as in PixArt-alpha (Chen et al. 2023). Where there is no caption, a learned
    vector and one learned token take its place.
    """

    def __init__(self, cond_dim: int, width: int) -> None:
        super().__init__()
        self.vector = _projection(cond_dim, width)
        self.tokens = _projection(cond_dim, width)
        self.null = nn.Parameter(torch.randn(2, cond_dim) * cond_dim**-0.5)

    def forward(self, packed: Tensor) -> Caption:
        caption = unpack(packed, *self.null)
        return Caption(self.vector(caption.vector), self.tokens(caption.tokens), caption.present)


def _projection(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(approximate="tanh"), nn.Linear(width_out, width_out))


class CaptionAttention(nn.Module):
    """(B, T, D) tokens of a picture ask (B, L, S) tokens of a caption, of which some are there: (B, T, D).

    Its owner makes `proj` zero, so that it adds nothing at first. Nothing is normalised before it, as in PixArt-alpha.
    """

    def __init__(self, width: int, heads: int, told: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(told, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None])
        return self.proj(h.transpose(1, 2).flatten(2))
