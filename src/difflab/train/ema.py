"""Exponential moving average of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """shadow = rate * shadow + (1 - rate) * parameter after every step, starting as a copy (ermongroup/ddim)."""

    def __init__(self, network: nn.Module, rate: float) -> None:
        self.rate = rate
        self.shadow = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step towards the network's present parameters."""
        live = dict(network.named_parameters())
        shadow = list(self.shadow.values())
        torch._foreach_lerp_(shadow, [live[name].detach() for name in self.shadow], 1.0 - self.rate)

    def initial_share(self, steps: int) -> float:
        """Share of the copy that it started from, in the average after so many steps."""
        return self.rate**steps

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow, by parameter name, without prefixes."""
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved shadow."""
        for name, value in self.shadow.items():
            value.copy_(state[name])
