"""A tiny model, tiny features and a tiny reference, so that whole studies run in seconds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from difflab import files
from difflab.data.shapes import Shapes
from difflab.places import Place
from difflab.score.features import SmallFeatures, SmallFeaturesConfig, save_small_features
from difflab.study.spec import Study
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet2DConfig


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a model, features and a reference."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    config = UNet2DConfig(image_size=16, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), patch=2, groups=8)
    card = Card(name="tiny", network=config, schedule=ScheduleConfig(name="cosine", timesteps=100), prediction="v")
    save_checkpoint(folder / "tiny.safetensors", card, FAMILIES["unet2d"].build(config).state_dict())
    features = SmallFeatures(SmallFeaturesConfig(width=8, dim=8, heads={"class": 2}))
    save_small_features(folder / "tiny-features.safetensors", features, "tiny-features")
    np.savez(folder / "reference.npz", Shapes(size=16).batch(np.arange(64))[0])
    names = ("tiny", "tiny-features", "reference")
    return {name: str(path) for name in names for path in folder.glob(f"{name}.*") if path.suffix != ".json"}


@pytest.fixture
def study(parts: dict[str, str]) -> Study:
    """Six cells of 24 samples in chunks of 10."""
    return Study(
        name="tiny",
        model=parts["tiny"],
        reference=parts["reference"],
        features=parts["tiny-features"],
        base={"count": 24},
        axes={"steps": [1, 2, 4], "eta": [0.0, 1.0]},
        keep=6,
        chunk=10,
        replicates=20,
    )


def cell_bytes(root: Place) -> dict[str, bytes]:
    """Everything in a store that must not depend on where it lies, or on when or how often it was killed."""
    found = {}
    for key in files.names(root / "cells"):
        for name in files.names(root / "cells" / key):
            if re.fullmatch(r"chunk-\d+\.npz|result\.json|decides\.json", name):
                found[f"{key}/{name}"] = files.read_bytes(root / "cells" / key / name)
    return found
