"""Checkpoints as the official codes write them: told apart by what they hold, and turned into a plain state dict.

Of the DDIM code there are two forms: the trainer's file, a list [model, optimizer, epoch, step, EMA] of which the last
exists only if averaging was on; and a plain state dict, as the weights converted from TensorFlow come in. Our network
has the official names, so nothing is renamed but the prefix `module.` of a DataParallel model. Those of DiT are read in
`dit_files`, those of video-diffusion-pytorch in `vdm_files`, those of guided-diffusion in `adm_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from difflab.errors import DifflabError, see
from difflab.zoo.adm_files import MARK as ADM_MARK
from difflab.zoo.adm_files import read_adm
from difflab.zoo.autoencoder import codec_of
from difflab.zoo.contents import Contents, State, copied
from difflab.zoo.dit_files import MARK, is_container, read_dit
from difflab.zoo.families import FAMILIES
from difflab.zoo.safe import is_state
from difflab.zoo.training_state import read_record, read_whole
from difflab.zoo.vdm_files import MARK as VDM_MARK
from difflab.zoo.vdm_files import PREFIX as VDM_PREFIX
from difflab.zoo.vdm_files import is_container as is_vdm
from difflab.zoo.vdm_files import read_vdm

_FOREIGN = {
    "model.diffusion_model.input_blocks.0.0.weight": "a latent-diffusion model",
    "init_conv.weight": "a lucidrains U-Net for images",
}
_PREFIX = "module."


def read_official(value: Any, path: Path, told: Mapping[str, Any] | None = None, averaged: bool = True) -> Contents:
    """The model in `value`, which was read from `path`.

    Args:
        told: fields of the network's configuration that the user gave.
        averaged: whether averaged weights, where the file has them, are taken.

    Raises DifflabError that says what the value is, if it is no model of a known family.
    """
    if is_container(value) or (is_state(value) and MARK in value):
        return read_dit(value, path, told or {}, averaged)
    if is_vdm(value) or (is_state(value) and {VDM_MARK, f"{VDM_PREFIX}{VDM_MARK}"} & value.keys()):
        return read_vdm(value, path, told or {}, averaged)
    if isinstance(value, list):
        return _trainer(value, path, averaged)
    if is_state(value):
        state = _unprefixed(value)
        if MARK in state:
            return read_dit(state, path, told or {}, averaged)
        if ADM_MARK in state:
            return read_adm(state, path, told or {})
        _check_family(state, path)
        return Contents(state, card={"weights": "plain", "source": "a plain state dict"})
    raise DifflabError(
        f"{path}: {_described(value)}; expected a checkpoint of the DDIM U-Net, of guided-diffusion's, of DiT, or of "
        f"the 3D U-Net; {see('how-to/checkpoint')}."
    )


def _trainer(value: list[Any], path: Path, ema: bool) -> Contents:
    if len(value) not in (4, 5) or not is_state(value[0]):
        raise DifflabError(
            f"{path}: a list of {len(value)} entries, but a trainer's file is [model, optimizer, epoch, step] "
            f"and, with averaging, the EMA weights; give such a file or a state dict; {see('how-to/checkpoint')}."
        )
    state, weights = _unprefixed(value[0]), "raw"
    _check_family(state, path)
    if ema and len(value) == 5:
        state, weights = _averaged(state, value[4], path), "ema"
    state = copied(state)
    source = f"an official trainer file of {len(value)} entries"
    return Contents(
        state, card={"weights": weights, "source": source, "training": {"epoch": value[2], "step": value[3]}}
    )


def read_own_training(folder: Path, averaged: bool = True) -> Contents:
    """The weights in a `checkpoint` of `difflab train`, with what its recipe says of the model.

    Raises DifflabError for one that is damaged or of another kind of network.
    """
    record = read_record(folder)
    recipe = record["recipe"]
    try:
        card = {name: recipe[name] for name in ("name", "family", "schedule", "prediction", "variance")}
        autoencoder, network = recipe.get("autoencoder"), recipe["network"]
        card["rounding"] = FAMILIES[card["family"]].rounding
        state = read_whole(folder / record["tensors"], "network.")
        if averaged:
            state |= read_whole(folder / record["tensors"], "ema.")
    except (KeyError, ValueError) as error:
        raise DifflabError(f"{folder}: this training checkpoint has no readable model; make it again.") from error
    if autoencoder is not None:
        card["codec"] = codec_of(autoencoder).model_dump()
    done = {
        "weights": "ema" if averaged else "raw", "source": "a training of difflab",
        "training": {"step": record["step"], "recipe": recipe},
    }  # fmt: skip
    return Contents(state, network, {**card, **done})


def _averaged(state: State, average: Any, path: Path) -> State:
    if not is_state(average):
        raise DifflabError(f"{path}: the fifth entry should hold the EMA weights, but is {_described(average)}.")
    average = _unprefixed(average)
    if odd := sorted(state.keys() ^ average.keys()):
        where = "EMA" if odd[0] in state else "model"
        raise DifflabError(
            f"{path}: the weight {odd[0]} is missing from the {where} entry; the file is damaged or of another network."
        )
    return average


def _unprefixed(state: Mapping[str, Tensor]) -> State:
    if all(name.startswith(_PREFIX) for name in state):
        return {name.removeprefix(_PREFIX): value for name, value in state.items()}
    return dict(state)


def _check_family(state: State, path: Path) -> None:
    if "conv_in.weight" in state and "temb.dense.0.weight" in state:
        return
    if what := _foreign(state):
        raise DifflabError(
            f"{path}: these are the weights of {what}, a family that is not supported yet; see `difflab models` "
            "for those that are."
        )
    if any(name.startswith("down_blocks.") for name in state):
        raise DifflabError(
            f"{path}: these are weights of a diffusers U-Net; give the folder that holds them and config.json."
        )
    shown = ", ".join(list(state)[:3])
    missing = next(name for name in ("conv_in.weight", "temb.dense.0.weight") if name not in state)
    raise DifflabError(
        f"{path}: not a DDIM U-Net: {missing} is missing; its weights begin with {shown}; {see('how-to/checkpoint')}."
    )


def _foreign(state: Mapping[str, Any]) -> str | None:
    return next((what for key, what in _FOREIGN.items() if key in state), None)


def _described(value: Any) -> str:
    """What a value that is no checkpoint of ours seems to be."""
    if not isinstance(value, Mapping):
        return f"an object of type {type(value).__name__}"
    inner = next((v for v in value.values() if is_state(v)), None)
    if inner is not None and (what := _foreign(_unprefixed(inner))):
        return f"a file around the weights of {what}, a family that is not supported yet"
    keys = ", ".join(map(str, list(value)[:5]))
    return f"a dict with the keys {keys}" if keys else "an empty dict"
