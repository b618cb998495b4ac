"""What one step of a sampler takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from difflab.core.denoiser import Denoise, Estimate
from difflab.core.schedule import Point


class Step(NamedTuple):
    """The result of one step: the new state, what the model believed, and what a multistep sampler remembers."""

    x: Tensor
    estimate: Estimate
    memory: Any = None


class Sampler(Protocol):
    """One step of a method; `order` is its order of convergence on the probability-flow ODE, 0 if it has none."""

    @property
    def order(self) -> int: ...

    @property
    def stochastic(self) -> bool: ...

    def step(self, denoise: Denoise, x: Tensor, now: Point, nxt: Point, noise: Tensor | None, memory: Any) -> Step: ...
