"""Training objectives: the error of what the network predicts (Ho et al. 2020, eq. 14), and beside it the
variational bound that trains a learned variance (Nichol and Dhariwal 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from difflab.core.denoiser import Estimate
from difflab.core.posterior import Posteriors
from difflab.core.prediction import Prediction, add_noise, target, to_x0
from difflab.core.schedule import Places, Schedule

Reduction = Literal["mean", "sum"]
Weighting = Literal["flat", "v"]
Error = Literal["l2", "l1"]

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
    kind: Error = "l2",
) -> Tensor:
    """Squared error, averaged over the batch; over other dimensions averaged or, as ermongroup/ddim does, summed.

    The kind `l1` takes absolute errors, as video-diffusion-pytorch does unless told otherwise.

    With weighting `v` an error of x0 counts as the error of v that it makes, 1 / sigma^2 = SNR + 1 times as much
    (Salimans and Ho 2022, section 4), with sigma taken as at least 0.3. A network that predicts x0 need not carry the
    noise through to its output, and so learns plain pictures with few channels (Li and He 2025).

    With an exact `denoiser` of the data, E[x0 | x_t] takes the place of x0 in the target. That changes the loss by a
    constant (for x0 unweighed, the variance of x0 given x_t) and leaves its minimum; the gradient is less noisy. That
    holds for squares, not for absolute errors, whose minimum is a median.

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
        exact = denoiser(x, at)
        x0, eps = exact.x0, exact.eps
    output = network(x, t)
    error = target(x0, eps, at, prediction) - output.float()
    if weighting == "v":
        error = error / at.sigma.clamp_min(_LEAST_SIGMA)
    error = (error.square() if kind == "l2" else error.abs()).flatten(1)
    return (error.sum(1) if reduction == "sum" else error.mean(1)).mean()


class Terms(NamedTuple):
    """Of the hybrid loss, each (B,): mean squared error of eps; term of the variational bound in bits a dimension."""

    error: Tensor
    bound: Tensor


def hybrid_terms(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    posteriors: Posteriors,
    denoiser: Callable[[Tensor, Places], Estimate] | None = None,
) -> Terms:
    """The two terms that train a network which predicts eps and learns its variance; DiT adds them up as they are.

    The bound sees the predicted eps as a constant, so that it trains the variance alone (Nichol and Dhariwal 2021,
    section 3.1). At t > 0 it is KL(q(x_s | x_t, x0) || p(x_s | x_t)), at t = 0 the likelihood of x0 as if it were 8-bit
    pixels, which official DiT does with latents, too.

    An exact `denoiser` of the data takes the noise's place in the error, as in `diffusion_loss`; the bound needs the
    data that were drawn, since the variance is that of what is left to guess.

    Args:
        network: (x (B, C, ..), t (B,)) -> (B, 2 C, ..): eps, and v with the variance's share (v + 1) / 2, not clamped.
        x0, t, eps, schedule, denoiser: as for `diffusion_loss`.
        posteriors: those of the schedule.
    """
    at = schedule.at(t, x0.ndim)
    x = add_noise(x0, eps, at)
    predicted, raw = network(x, t).float().chunk(2, dim=1)
    on_x0, on_x, small, large = posteriors.at(t, x0.ndim)
    share = (raw + 1) / 2
    logvar = share * large + (1 - share) * small
    mean = on_x0 * to_x0(predicted.detach(), x, at, "eps") + on_x * x
    divergence = _normal_kl(on_x0 * x0 + on_x * x, small, mean, logvar)
    likelihood = -_discretised_log_likelihood(x0, mean, 0.5 * logvar)
    first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
    nats = torch.where(first, likelihood, divergence).flatten(1).mean(1)
    aim = eps if denoiser is None else denoiser(x, at).eps
    return Terms((aim - predicted).square().flatten(1).mean(1), nats / math.log(2))


def _normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, exp logvar1) || N(mean2, exp logvar2)) in nats, elementwise."""
    spread = torch.exp(logvar1 - logvar2) + (mean1 - mean2).square() * torch.exp(-logvar2)
    return 0.5 * (logvar2 - logvar1 - 1.0 + spread)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log of a Gaussian's mass in x's bin of width 2 / 255, elementwise; the outer bins are open (Ho et al. 2020, 3.3).

    The distribution function is the tanh approximation, and masses are at least 1e-12, as in the official code.
    """
    centred, inverse = x - mean, torch.exp(-log_deviation)
    above = _normal_cdf(inverse * (centred + 1.0 / 255.0))
    below = _normal_cdf(inverse * (centred - 1.0 / 255.0))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1.0 - below, above - below))
    return mass.clamp_min(1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def lognormal_timesteps(
    n: int, schedule: Schedule, mean: float, deviation: float, generator: torch.Generator | None = None
) -> Tensor:
    """(n,) int64 timesteps whose noise levels sigma / alpha are lognormal (Karras et al. 2022, table 1), drawn in pairs
    above and below the median.

    Where a sample is all but seen, or all but lost, there is little to learn: at the one end the error is small, at the
    other most of it is not the network's.

    Args:
        mean, deviation: of ln(sigma / alpha).
    """
    z = torch.randn(n // 2 + 1, generator=generator, dtype=torch.float64)
    t = torch.searchsorted(torch.from_numpy(-schedule.half_log_snrs), mean + deviation * torch.cat([z, -z])[:n])
    return t.clamp(max=schedule.timesteps - 1)


def antithetic_timesteps(n: int, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """(n,) int64 timesteps in pairs u, T - 1 - u (ermongroup/ddim): a lower-variance draw of the loss."""
    u = torch.randint(0, timesteps, (n // 2 + 1,), generator=generator)
    return torch.cat([u, timesteps - 1 - u])[:n]
