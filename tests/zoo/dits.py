"""Small DiTs for tests, with no weight left at zero."""

from __future__ import annotations

import torch

from difflab.zoo.card import Card
from difflab.zoo.families import FAMILIES, DiTConfig
from difflab.zoo.model import Model, build_model

TINY = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 4, "num_classes": 5}


def tiny_dit(**changes) -> Model:
    """A DiT of 2 blocks; `codec` None makes it one of pixels."""
    card = {"codec": None, "variance": "learned", "rounding": "shifted"} | {
        name: changes.pop(name) for name in ("codec", "variance", "classes") if name in changes
    }
    config = DiTConfig(**{**TINY, **changes})
    if not config.learn_sigma:
        card["variance"] = "large"
    generator = torch.Generator().manual_seed(0)
    network = FAMILIES["dit"].build(config)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in state.items():
        if name != "pos_embed":
            value.normal_(std=0.2, generator=generator)
    return build_model(Card(name="tiny", family="dit", network=config, **card), state)
