"""Opened models on their way to other processes: they are at home on the device where they arrive.

What is packed was opened on a CPU. What comes out is on the GPU of the process that unpacks it, where it has one: its
modules, and every `torch.device` by which it remembers where it is.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from ray import cloudpickle
from torch import nn

from difflab.devices import home


def pack(what: Any) -> np.ndarray:
    """`what` as bytes (n,) uint8, an array so that processes of one machine can read it from memory that they share."""
    buffer = io.BytesIO()
    _Packer(buffer, protocol=5).dump(what)
    return np.frombuffer(buffer.getbuffer(), np.uint8)


def unpack(packed: np.ndarray) -> Any:
    """What `pack` was given, at home here. Only for what processes of one run hand each other: it executes."""
    return pickle.loads(packed.data)


class _Packer(cloudpickle.CloudPickler):
    def reducer_override(self, part: Any) -> Any:
        """How devices and modules are packed; all else as usual."""
        if isinstance(part, torch.device):
            return home, ()
        if isinstance(part, nn.Module):
            reduced = part.__reduce_ex__(5)
            assert isinstance(reduced, tuple)
            return *reduced[:3], None, None, _settle
        return super().reducer_override(part)


def _settle(module: nn.Module, state: Any) -> None:
    """Give a module that was just made its state, and bring it home."""
    module.__setstate__(state)
    module.to(home())
