from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from difflab.train.config import DiffusionRecipe


@pytest.fixture
def recipe() -> Callable[..., DiffusionRecipe]:
    """A training of six steps on 16x16 scenes with dropout, flips, warm-up, decay and clipping; fields may change."""

    def make(**changes: Any) -> DiffusionRecipe:
        fields: dict[str, Any] = {
            "name": "tiny",
            "data": {"source": "shapes", "size": 16, "flip": True},
            "network": {
                "image_size": 16, "ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
                "dropout": 0.2, "patch": 2, "groups": 4,
            },
            "optim": {"lr": 1e-3, "warmup": 2, "decay": 0.5, "grad_clip": 1.0},
            "timesteps": "antithetic",
            "ema_rate": 0.9,
            "steps": 6,
            "batch": 4,
            "seed": 3,
        }  # fmt: skip
        return DiffusionRecipe.model_validate({**fields, **changes})

    return make
