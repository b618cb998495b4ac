"""Folders of diffusers' `UNet2DModel`, as google/ddpm-church-256 is one: read and written without diffusers.

The same network as ours under other names: attention in linear layers instead of 1x1 convolutions, and up blocks
numbered in the order they run. Everything that would make it another network is refused by the name of the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from difflab.errors import DifflabError
from difflab.files import write_bytes, write_json
from difflab.validation import validated
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import plain_tensors
from difflab.zoo.contents import Contents, State
from difflab.zoo.diffusers_folder import (
    BETAS,
    PREDICTIONS,
    WEIGHTS,
    json_file,
    known_value,
    read_weights,
    schedule_fields,
    scheduler_file,
)
from difflab.zoo.families import FAMILIES, UNet2DConfig

CLASS = "UNet2DModel"

# Field -> (the value it must have, the value it has when config.json is silent).
_FIXED: dict[str, tuple[Any, Any]] = {
    "center_input_sample": (False, False),
    "time_embedding_type": ("positional", "positional"),
    "time_embedding_dim": (None, None),
    "freq_shift": (1, 0),
    "flip_sin_to_cos": (False, True),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D"),
    "mid_block_scale_factor": (1, 1),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "act_fn": ("silu", "silu"),
    "attention_head_dim": (None, 8),
    "norm_num_groups": (32, 32),
    "attn_norm_num_groups": (None, None),
    "norm_eps": (1e-6, 1e-5),
    "resnet_time_scale_shift": ("default", "default"),
    "add_attention": (True, True),
    "class_embed_type": (None, None),
    "num_class_embeds": (None, None),
    "num_train_timesteps": (None, None),
}
_FREE = {
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "dropout",
}
_VARIANCE = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
_LAYERS = {
    "temb_proj": "time_emb_proj",
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.18
_ENDS = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}


def read_diffusers_unet(folder: Path, home: Path, told: Mapping[str, Any]) -> Contents:
    """The U-Net whose config.json lies in `home`; `folder` is what the user gave.

    The scheduler's config, if there is one, tells betas, prediction and variance. `told` are fields of `UNet2DConfig`
    that the user gave; they decide over the folder. Raises DifflabError for a missing or damaged file, and naming any
    field that makes it another network.
    """
    values = json_file(home / "config.json")
    network = {**_network_fields(values, told, home / "config.json"), **told}
    found = {_modern(name): value for name, value in read_weights(home).items()}
    state = _from_diffusers(found, validated(UNet2DConfig, network, str(home / "config.json")), home)
    card = {"source": "a diffusers UNet2DModel folder", **schedule_fields(folder, home), **_variance(folder, home)}
    return Contents(state, network, card)


def write_diffusers_unet(folder: Path, card: Card, state: State) -> None:
    """Write config.json, weights, scheduler_config.json and model_index.json.

    `UNet2DModel`, `DDPMScheduler` and `DDPMPipeline` read them with `from_pretrained(folder)`. config.json comes last,
    so that a folder with one is complete. Raises DifflabError for a model that diffusers cannot express.
    """
    config, scheduler = _config_of(card), _scheduler_of(card)
    depth = len(_unet(card).ch_mult)
    tensors = {_name(name, depth): _as_linear(name, value) for name, value in state.items()}
    write_bytes(folder / f"{WEIGHTS}.safetensors", save(plain_tensors(tensors), {"format": "pt"}))
    write_json(folder / "scheduler_config.json", scheduler)
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", **parts})
    write_json(folder / "config.json", config)


def _network_fields(values: dict[str, Any], told: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for field, (needed, default) in _FIXED.items():
        if (found := values.get(field, default)) != needed:
            raise DifflabError(f"{path}: {field} is {json.dumps(found)}, but a DDPM network has {json.dumps(needed)}.")
    for field, value in values.items():
        if not field.startswith("_") and field not in _FREE | _FIXED.keys() and value is not None:
            raise DifflabError(f"{path}: the field {field} ({json.dumps(value)}) is not supported.")
    size = told.get("image_size", values.get("sample_size"))
    if not isinstance(size, int):
        raise DifflabError(
            f"{path}: sample_size is {json.dumps(size)}, but one number is needed; give config={{'image_size': N}}."
        )
    widths = _list(values, "block_out_channels", int, path)
    levels = _attention_levels(values, path)
    if any(width % widths[0] for width in widths):
        raise DifflabError(f"{path}: block_out_channels is {widths}, but all must be multiples of the first.")
    return {
        "image_size": size,
        "in_channels": values.get("in_channels", 3),
        "out_ch": values.get("out_channels", 3),
        "ch": widths[0],
        "ch_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": values.get("layers_per_block", 2),
        "attn_resolutions": tuple(size // 2**level for level in levels),
        "dropout": values.get("dropout", 0.0),
    }


def _list(values: dict[str, Any], name: str, kind: type, path: Path) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(item, kind) and item for item in found):
        raise DifflabError(
            f"{path}: {name} is {json.dumps(found)}, but a list with one {kind.__name__} a level is needed."
        )
    return found


def _attention_levels(values: dict[str, Any], path: Path) -> list[int]:
    down, up = (_list(values, f"{way}_block_types", str, path) for way in ("down", "up"))
    kinds = {"DownBlock2D": "UpBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}
    if not set(down) <= kinds.keys():
        raise DifflabError(f"{path}: down_block_types is {down}, but only {' and '.join(kinds)} are supported.")
    if up != [kinds[kind] for kind in reversed(down)]:
        raise DifflabError(f"{path}: up_block_types is {up}, but must mirror down_block_types.")
    return [level for level, kind in enumerate(down) if kind == "AttnDownBlock2D"]


def _from_diffusers(found: State, config: UNet2DConfig, home: Path) -> State:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in FAMILIES["unet2d"].build(config).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        theirs = _name(name, len(config.ch_mult))
        if theirs not in found:
            raise DifflabError(
                f"{home}: the weight {theirs} is missing; do config.json and the weights belong together?"
            )
        value = found.pop(theirs)
        same_but_flat = value.ndim == 2 and value.shape == shape[:2] and shape[2:] == (1, 1)
        state[name] = value[:, :, None, None] if same_but_flat else value
    if found:
        raise DifflabError(
            f"{home}: {len(found)} weights do not belong to this configuration, the first is {min(found)}; "
            "do config.json and the weights belong together?"
        )
    return state


def _name(name: str, depth: int) -> str:
    """Our name of a weight -> diffusers' name, in a network of `depth` levels."""
    layer, _, kind = name.rpartition(".")
    if layer in _ENDS:
        return f"{_ENDS[layer]}.{kind}"
    where, _, last = layer.rpartition(".")
    if (level := re.fullmatch(r"(down|up)\.(\d+)\.(\w+)(?:\.(\d+))?", where)) is not None:
        way, number, part, i = level.groups()
        number = int(number) if way == "down" else depth - 1 - int(number)
        parts = {"block": f"resnets.{i}", "attn": f"attentions.{i}", f"{way}sample": f"{way}samplers.0"}
        return f"{way}_blocks.{number}.{parts[part]}.{_LAYERS.get(last, last)}.{kind}"
    middle = {"mid.block_1": "resnets.0", "mid.attn_1": "attentions.0", "mid.block_2": "resnets.1"}[where]
    return f"mid_block.{middle}.{_LAYERS.get(last, last)}.{kind}"


def _modern(name: str) -> str:
    """diffusers' present name of a weight that may have an old one."""
    return re.sub(r"(attentions\.\d+)\.(\w+)\.", lambda m: f"{m[1]}.{_OLD_ATTENTION.get(m[2], m[2])}.", name)


def _as_linear(name: str, value: Tensor) -> Tensor:
    return value[:, :, 0, 0] if re.search(r"attn.*\.(q|k|v|proj_out)\.weight$", name) else value


def _variance(folder: Path, home: Path) -> dict[str, Any]:
    path = scheduler_file(folder, home)
    return {"variance": known_value(json_file(path), "variance_type", "fixed_small", _VARIANCE, path)} if path else {}


def _config_of(card: Card) -> dict[str, Any]:
    network = _unet(card)
    for wrong, what in (
        (network.patch != 1, f"patch {network.patch}"),
        (network.groups != 32, f"groups {network.groups}"),
        (not network.resamp_with_conv, "resamp_with_conv false"),
        (network.ch_mult[0] != 1, f"ch_mult that begins with {network.ch_mult[0]}"),
    ):
        if wrong:
            raise DifflabError(
                f"{card.name}: has {what}, which is not written for diffusers' UNet2DModel; "
                "convert it to difflab instead."
            )
    attention = [
        "Attn" if network.image_size // 2**i in network.attn_resolutions else "" for i in range(len(network.ch_mult))
    ]
    return {
        "_class_name": "UNet2DModel",
        **{field: needed for field, (needed, _) in _FIXED.items()},
        "sample_size": network.image_size,
        "in_channels": network.in_channels,
        "out_channels": network.out_ch,
        "block_out_channels": [network.ch * m for m in network.ch_mult],
        "layers_per_block": network.num_res_blocks,
        "down_block_types": [f"{a}DownBlock2D" for a in attention],
        "up_block_types": [f"{a}UpBlock2D" for a in reversed(attention)],
        "dropout": network.dropout,
    }


def _unet(card: Card) -> UNet2DConfig:
    assert isinstance(card.network, UNet2DConfig)
    return card.network


def _scheduler_of(card: Card) -> dict[str, Any]:
    schedule = card.schedule
    if schedule.name not in BETAS.values():
        raise DifflabError(
            f"{card.name}: diffusers has no schedule {schedule.name}; convert it to difflab or official instead."
        )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.timesteps,
        "beta_schedule": _reversed(BETAS)[schedule.name],
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": _reversed(PREDICTIONS)[card.prediction],
        "variance_type": _reversed(_VARIANCE)[card.variance],
        "clip_sample": True,
    }


def _reversed(names: dict[str, str]) -> dict[str, str]:
    """ours -> theirs; of several names of theirs the first."""
    return {ours: theirs for theirs, ours in reversed(names.items())}
