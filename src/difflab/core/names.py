"""The names that users choose by. No torch here, so that a study is checked before anything heavy loads."""

from __future__ import annotations

from typing import Literal

SamplerName = Literal["ddim", "ddpm", "ddpm-noisy"]  # see core.sampler
Spacing = Literal["uniform", "quad", "trailing", "leading", "linspace", "respaced"]  # see core.schedule
Course = Literal["constant", "linear", "cosine"]  # see core.guidance
BetaName = Literal["linear", "quad", "const", "jsd", "sigmoid", "cosine", "cosine-9999", "cosine-logsnr"]
