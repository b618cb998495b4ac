"""The training objective: the squared error of what the network predicts (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from difflab.core.prediction import Prediction, add_noise, target
from difflab.core.schedule import Schedule

Reduction = Literal["mean", "sum"]


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    prediction: Prediction,
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared error, averaged over the batch; over other dimensions averaged or, as ermongroup/ddim does, summed.

    Args:
        network: (x (B, ..), t (B,)) -> output of the shape of x.
        x0: (B, ..) data in model space.
        t: (B,) int64 timesteps.
        eps: standard normal noise of the shape of `x0`.
    """
    at = schedule.at(t, x0.ndim)
    output = network(add_noise(x0, eps, at), t)
    error = (target(x0, eps, at, prediction) - output.float()).square().flatten(1)
    return (error.sum(1) if reduction == "sum" else error.mean(1)).mean()


def antithetic_timesteps(n: int, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """(n,) int64 timesteps in pairs u, T - 1 - u (ermongroup/ddim): a lower-variance draw of the loss."""
    u = torch.randint(0, timesteps, (n // 2 + 1,), generator=generator)
    return torch.cat([u, timesteps - 1 - u])[:n]
