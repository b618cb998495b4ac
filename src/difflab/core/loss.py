"""The training objective: the squared error of what the network predicts (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from difflab.core.denoiser import Estimate
from difflab.core.prediction import Prediction, add_noise, target
from difflab.core.schedule import Places, Schedule

Reduction = Literal["mean", "sum"]
Weighting = Literal["flat", "v"]

_LEAST_SIGMA = 0.3  # below it, 1 / sigma^2 would leave the network little else to learn than the last grey levels


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    prediction: Prediction,
    reduction: Reduction = "mean",
    weighting: Weighting = "flat",
    denoiser: Callable[[Tensor, Places], Estimate] | None = None,
) -> Tensor:
    """Squared error, averaged over the batch; over other dimensions averaged or, as ermongroup/ddim does, summed.

    With weighting `v` an error of x0 counts as the error of v that it makes, 1 / sigma^2 = SNR + 1 times as much
    (Salimans and Ho 2022, section 4), with sigma taken as at least 0.3. A network that predicts x0 need not carry the
    noise through to its output, and so learns plain pictures with few channels (Li and He 2025).

    With an exact `denoiser` of the data, E[x0 | x_t] takes the place of x0 in the target. That changes the loss by a
    constant (for x0 unweighed, the variance of x0 given x_t) and leaves its minimum; the gradient is less noisy.

    Args:
        network: (x (B, ..), t (B,)) -> output of the shape of x.
        x0: (B, ..) data in model space.
        t: (B,) int64 timesteps.
        eps: standard normal noise of the shape of `x0`.
        denoiser: (x, places) -> exact estimate, for data whose distribution is known.
    """
    at = schedule.at(t, x0.ndim)
    x = add_noise(x0, eps, at)
    if denoiser is not None:
        x0, eps, _ = denoiser(x, at)
    output = network(x, t)
    error = target(x0, eps, at, prediction) - output.float()
    if weighting == "v":
        error = error / at.sigma.clamp_min(_LEAST_SIGMA)
    error = error.square().flatten(1)
    return (error.sum(1) if reduction == "sum" else error.mean(1)).mean()


def antithetic_timesteps(n: int, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """(n,) int64 timesteps in pairs u, T - 1 - u (ermongroup/ddim): a lower-variance draw of the loss."""
    u = torch.randint(0, timesteps, (n // 2 + 1,), generator=generator)
    return torch.cat([u, timesteps - 1 - u])[:n]
