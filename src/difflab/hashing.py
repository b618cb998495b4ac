"""What identifies weights, whatever file they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over sorted names, shapes and float32 values."""
    value = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        value.update(f"{name}{tuple(tensor.shape)}".encode())
        value.update(tensor.numpy().tobytes())
    return value.hexdigest()
