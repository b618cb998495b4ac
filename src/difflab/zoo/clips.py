"""What is done with clips beyond drawing them: mixing two."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.core.noise import Noise, StartedNoise
from difflab.core.sampler import final, trajectory
from difflab.core.schedule import CLEAN
from difflab.errors import DifflabError
from difflab.zoo.model import Model
from difflab.zoo.sampling import Draw, denoiser_of, plan


def interpolate(
    model: Model, first: Tensor, second: Tensor, noises: tuple[Tensor, Tensor], t: int, share: float, steps: Noise
) -> Tensor:
    """What lies between two clips: both are noised to timestep t, mixed there, and cleaned again.

    Args:
        model: an unconditional model.
        first, second: (B, C, F, H, W) in model space.
        noises: of the two, each of their shape.
        t: 1 .. T - 1; more noise leaves less of either.
        share: of the second, 0 to 1.
        steps: what the ancestral steps draw, from 1.

    Returns the mixture (B, C, F, H, W). The first of its t steps is told t - 1, as in video-diffusion-pytorch. Raises
    DifflabError for a t or share out of range.
    """
    if not 1 <= t < model.schedule.timesteps:
        raise DifflabError(f"t is {t}, but must lie between 1 and {model.schedule.timesteps - 1}.")
    if not 0.0 <= share <= 1.0:
        raise DifflabError(f"share is {share:g}, but must lie between 0 (the first clip) and 1 (the second).")
    draw = Draw("ddpm", model.schedule.timesteps)
    sampler, _ = plan(model, draw)
    at = model.schedule.point(t)
    noised = [at.alpha * x + at.sigma * z for x, z in zip((first, second), noises, strict=True)]
    points = [model.schedule.point(k) for k in range(t - 1, CLEAN - 1, -1)]
    source = StartedNoise(torch.lerp(noised[0], noised[1], share), steps)
    return final(trajectory(denoiser_of(model, draw, None), sampler, points, source))
