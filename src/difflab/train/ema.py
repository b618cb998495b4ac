"""Exponential moving average of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from difflab.train.parallel import local


class EMA:
    """shadow = rate * shadow + (1 - rate) * parameter after every step, starting as a copy (ermongroup/ddim)."""

    def __init__(self, network: nn.Module, rate: float) -> None:
        self.rate = rate
        self.shadow = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step towards the network's present parameters."""
        live = dict(network.named_parameters())
        shadow = [local(value) for value in self.shadow.values()]
        torch._foreach_lerp_(shadow, [local(live[name].detach()) for name in self.shadow], 1.0 - self.rate)

    def initial_share(self, steps: int) -> float:
        """Share of the copy that it started from, in the average after so many steps."""
        return self.rate**steps

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow itself, by parameter name, without prefixes: filled with a saved one, it goes on from there."""
        return self.shadow
