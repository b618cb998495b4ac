"""Networks in the full precision of their dtype, also on GPUs."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def full_precision() -> AbstractContextManager[None]:
    """While open, cuDNN neither rounds float32 products to ten bits (TF32) nor picks algorithms that vary."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
