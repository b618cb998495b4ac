"""What all diffusers folders have in common: config.json beside weights, and a scheduler's config that tells betas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difflab.errors import DifflabError
from difflab.zoo.contents import State
from difflab.zoo.safe import is_state, read_safetensors, read_torch

WEIGHTS = "diffusion_pytorch_model"
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETAS = {"linear": "linear", "scaled_linear": "quad", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}


def home_of(folder: Path) -> Path:
    """The folder that holds the network's config.json: `folder`, or the network's own below it.

    Raises DifflabError if there is none.
    """
    for home in (folder / "unet", folder / "transformer", folder):
        if (home / "config.json").is_file():
            return home
    raise DifflabError(
        f"{folder}: a folder without config.json; give a diffusers UNet2DModel or DiT folder, or a checkpoint file."
    )


def json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DifflabError for anything else."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DifflabError(f"{path}: not JSON ({error}); copy or download the file again.") from error
    if not isinstance(values, dict):
        raise DifflabError(f"{path}: holds a {type(values).__name__}, but a configuration is a JSON object.")
    return values


def read_weights(home: Path) -> State:
    """The weights beside a config.json, by diffusers' names."""
    if (path := home / f"{WEIGHTS}.safetensors").is_file():
        return read_safetensors(path)[0]
    if (path := home / f"{WEIGHTS}.bin").is_file():
        state = read_torch(path)
        if not is_state(state):
            raise DifflabError(f"{path}: holds something else than named tensors; copy or download it again.")
        return state
    raise DifflabError(
        f"{home}: neither {WEIGHTS}.safetensors nor {WEIGHTS}.bin is there; put one of them beside config.json."
    )


def scheduler_file(folder: Path, home: Path) -> Path | None:
    """The scheduler's config of the model in `home`, if there is one."""
    places = (folder / "scheduler", home.parent / "scheduler", home)
    return next((path for place in places if (path := place / "scheduler_config.json").is_file()), None)


def schedule_fields(folder: Path, home: Path) -> dict[str, Any]:
    """The card's schedule and prediction, as far as a scheduler's config tells them."""
    path = scheduler_file(folder, home)
    if path is None:
        return {}
    values = json_file(path)
    for field, bad in (
        ("trained_betas", values.get("trained_betas")),
        ("rescale_betas_zero_snr", values.get("rescale_betas_zero_snr")),
    ):
        if bad:
            raise DifflabError(f"{path}: {field} is set, which is not supported; give schedule= and remove the field.")
    if "beta_start" not in values:
        raise DifflabError(
            f"{path}: beta_start is missing, so this is no scheduler with betas; only those are supported."
        )
    schedule = {
        "name": known_value(values, "beta_schedule", "linear", BETAS, path),
        "timesteps": values.get("num_train_timesteps", 1000),
        "beta_start": values["beta_start"],
        "beta_end": values.get("beta_end", 0.02),
    }
    return {
        "schedule": schedule,
        "prediction": known_value(values, "prediction_type", "epsilon", PREDICTIONS, path),
    }


def known_value(values: Mapping[str, Any], field: str, default: str, names: Mapping[str, str], path: Path) -> str:
    """Our name for a field's value. Raises DifflabError for one that has none."""
    value = values.get(field, default)
    if not isinstance(value, str) or value not in names:
        raise DifflabError(f"{path}: {field} is {json.dumps(value)}, but only {', '.join(names)} are supported.")
    return names[value]
