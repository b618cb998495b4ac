"""From one format of checkpoints to another, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import torch

from difflab.errors import DifflabError, suggest
from difflab.files import writing
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import plain_tensors, save_checkpoint
from difflab.zoo.contents import State
from difflab.zoo.diffusers_dit import write_diffusers_dit
from difflab.zoo.diffusers_unet import write_diffusers_unet
from difflab.zoo.families import DiTConfig, UNet2DConfig, UNet3DConfig
from difflab.zoo.load import load
from difflab.zoo.vdm_files import to_reference

Format = Literal["difflab", "diffusers", "official"]


def convert(source: str | Path, dest: str | Path, to: Format, **told: Any) -> Path:
    """Read `source` as `load` does and write it in another format.

    Args:
        source: whatever `load` takes.
        dest: `difflab`: a .safetensors file, its card goes beside it; `diffusers`: a folder; `official`: a plain state
            dict, which says nothing of its configuration, or for clips a trainer's file of video-diffusion-pytorch.
        to: the format.
        told: `config`, `prediction`, `schedule` and `family` of `load`.

    Returns `dest`. Raises DifflabError if the source cannot be read or the format cannot hold the model.
    """
    if to not in get_args(Format):
        raise DifflabError(f"{to!r} is not a format to convert to.{suggest(to, get_args(Format))}")
    model = load(source, **told)
    card, state, dest = model.card, model.network.state_dict(), Path(dest)
    if dest.exists() and dest.resolve() == Path(source).resolve():
        raise DifflabError(f"{dest}: this is the source, which may hold more than is kept; choose another name.")
    if to == "diffusers" and isinstance(card.network, UNet3DConfig):
        raise DifflabError(f"{card.name}: diffusers has no such network of clips; convert it to difflab or official.")
    if to == "difflab":
        save_checkpoint(dest, card, state)
    elif to == "diffusers":
        (write_diffusers_dit if isinstance(card.network, DiTConfig) else write_diffusers_unet)(dest, card, state)
    else:
        _write_official(dest, card, state)
    return dest


def _write_official(dest: Path, card: Card, state: State) -> None:
    found = known = ""
    if isinstance(card.network, UNet2DConfig):
        found = f"patch {card.network.patch}, groups {card.network.groups} and predicts {card.prediction}"
        known = "patch 1, groups 32 and predicts eps"
    if isinstance(card.network, UNet3DConfig):
        with writing(dest) as file:
            torch.save(to_reference(plain_tensors(state), card.network, card.schedule), file)
        return
    if isinstance(card.network, DiTConfig):
        found = f"conditioning {card.network.conditioning} and predicts {card.prediction}"
        known = "conditioning adaln-zero and predicts eps"
    if found != known:
        raise DifflabError(
            f"{card.name}: has {found}, but the official code knows {known} only; convert it to difflab."
        )
    with writing(dest) as file:
        torch.save(plain_tensors(state), file)
