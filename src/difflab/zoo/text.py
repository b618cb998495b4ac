"""Captions as vectors, for models that are told such."""

from __future__ import annotations

from torch import Tensor


def mean_pooled(hidden: Tensor, present: Tensor) -> Tensor:
    """The mean of what a text encoder says of each word, its first token ([CLS]) left out.

    Args:
        hidden: (B, L, D), the encoder's last layer.
        present: (B, L) bool, false on padding.

    Returns (B, D), as video-diffusion-pytorch pools BERT.
    """
    weights = present.clone()
    weights[:, 0] = False
    counted = weights.unsqueeze(-1).to(hidden.dtype)
    return (hidden * counted).sum(1) / (counted.sum(1) + 1e-8)
