"""What a reader of checkpoints gives: weights by our names, and what the file says of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """What a file tells of a model: weights by our names, arguments of the network, other fields of the card."""

    state: State
    network: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


def copied(state: State) -> State:
    """A part of a file that was mapped, in memory of its own: mapped memory is aligned otherwise, which changes last
    bits."""
    return {name: value.clone() for name, value in state.items()}
