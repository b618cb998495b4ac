"""Classifier-free guidance (Ho and Salimans 2022) as a wrapper around a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class ConditionalNetwork(Protocol):
    """A network that is told a condition besides the timestep."""

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Guided:
    """null + scale (conditional - null), as one double batch; scale 1 is the conditional network alone.

    For eps, v and x0 outputs alike this guides the noise estimate, since each is affine in the others at a fixed x.

    Args:
        network: the conditional network.
        condition: (B, ..) what is asked for.
        null: (B, ..) the empty condition.
        scale: guidance scale; 1 is off, 0 ignores the condition.
        channels: output channels that are guided; the others stay conditional. Official DiT guides the first three.
    """

    network: ConditionalNetwork
    condition: Tensor
    null: Tensor
    scale: float
    channels: slice = field(default_factory=lambda: slice(None))  # slices have no hash before Python 3.12

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.scale == 1.0:
            return self.network(x, t, self.condition)
        both = self.network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([self.condition, self.null]))
        output, null = both.chunk(2)
        output = output.clone()
        output[:, self.channels] = torch.lerp(null[:, self.channels], output[:, self.channels], self.scale)
        return output
