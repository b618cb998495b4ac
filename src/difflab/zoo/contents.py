"""What a reader of checkpoints gives: weights by our names, and what the file says of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from difflab.errors import DifflabError

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


def shape_of(state: State, name: str, dimensions: int, where: str, what: str) -> tuple[int, ...]:
    """The shape of a weight of the file `where`, which should be `what`. Raises DifflabError if it is not such."""
    if name not in state:
        raise DifflabError(f"{where}: the weight {name} is missing; the file is incomplete or not {what}.")
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise DifflabError(f"{where}: the weight {name} has shape {shape}, but {dimensions} dimensions were expected.")
    return shape
