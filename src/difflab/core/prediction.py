"""What a network's output means: eps, x0 or v (Salimans and Ho 2022), and how to turn it into the others.

With x = alpha x0 + sigma eps, v = alpha eps - sigma x0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from difflab.core.schedule import Places, Point

Prediction = Literal["eps", "x0", "v"]


def to_x0(output: Tensor, x: Tensor, at: Point | Places, prediction: Prediction) -> Tensor:
    """The clean estimate that an output of the given kind implies at `at`; all tensors have the shape of `x`."""
    if prediction == "eps":
        return (x - at.sigma * output) / at.alpha
    if prediction == "v":
        return at.alpha * x - at.sigma * output
    return output


def to_eps(output: Tensor, x: Tensor, at: Point | Places, prediction: Prediction) -> Tensor:
    """The noise estimate that an output of the given kind implies at `at`."""
    if prediction == "eps":
        return output
    if prediction == "v":
        return at.alpha * output + at.sigma * x
    return (x - at.alpha * output) / at.sigma


def target(x0: Tensor, eps: Tensor, at: Point | Places, prediction: Prediction) -> Tensor:
    """What the network should answer for data `x0` and noise `eps`."""
    if prediction == "eps":
        return eps
    if prediction == "v":
        return at.alpha * eps - at.sigma * x0
    return x0


def add_noise(x0: Tensor, eps: Tensor, at: Point | Places) -> Tensor:
    """A draw from the forward process: alpha x0 + sigma eps."""
    return at.alpha * x0 + at.sigma * eps
