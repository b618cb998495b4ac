"""The names that users choose by. No torch here, so that a study is checked before anything heavy loads."""

from __future__ import annotations

from typing import Literal

SamplerName = Literal["ddim", "ddpm", "ddpm-noisy", "heun", "dpmpp-2m", "dpmpp-2m-sde", "unipc"]  # see core.sampler
SolverSpacing = Literal["time-uniform", "time-quadratic", "logsnr", "karras"]  # see core.schedule
Spacing = Literal["uniform", "quad", "trailing", "leading", "linspace", "respaced", SolverSpacing]
Course = Literal["constant", "linear", "cosine"]  # see core.guidance
BetaName = Literal["linear", "quad", "const", "jsd", "sigmoid", "cosine", "cosine-9999", "cosine-logsnr"]


def calls_a_step(sampler: str) -> int:
    """How often a step of this sampler asks the network; the last one, which lands on clean data, asks once."""
    return 2 if sampler == "heun" else 1
