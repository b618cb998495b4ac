"""Checkpoints of lucidrains' video-diffusion-pytorch: files of its trainer, `model-<m>.pt`, and plain state dicts.

Its names follow its wrappers (`downs.0.3.fn.fn.fn.to_qkv`) and its kernels are 3D over a single frame, so weights are
renamed and reshaped, and back. Shapes tell the network, but for the number of groups; the tables in the file tell the
number of timesteps. Side and length of the clips are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.core.names import BetaName
from difflab.core.schedule import Schedule
from difflab.errors import DifflabError
from difflab.nets.unet3d_attention import ROTARY, rotary_rates
from difflab.validation import validated
from difflab.zoo.contents import Contents, State, shape_of
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet3DConfig
from difflab.zoo.safe import is_state

MARK = "time_rel_pos_bias.relative_attention_bias.weight"  # only this network has it
PREFIX = "denoise_fn."  # of the network's weights inside the diffusion module's
SCHEDULE: BetaName = "cosine-9999"
_FREQUENCIES = "rotary_emb.freqs"  # a formula, kept by the reference beside the weights

_PARTS = {"block1": "0", "block2": "1", "spatial": "2", "temporal": "3", "resample": "4"}
_NAMES = {
    "null_condition": "null_cond_emb",
    "position_bias": "time_rel_pos_bias.relative_attention_bias",
    "time_mlp.0": "time_mlp.1",
    "time_mlp.2": "time_mlp.3",
    "init_temporal": "init_temporal_attn",
    "mid.block1": "mid_block1",
    "mid.spatial": "mid_spatial_attn",
    "mid.temporal": "mid_temporal_attn",
    "mid.block2": "mid_block2",
    "final_block": "final_conv.0",
    "final_conv": "final_conv.1",
}


def is_container(value: Any) -> bool:
    """Whether `value` is what the reference's trainer saves: step, model, ema, both of the diffusion module."""
    if not (isinstance(value, Mapping) and {"step", "model", "ema"} <= value.keys()):
        return False
    return is_state(value["ema"]) and f"{PREFIX}{MARK}" in value["ema"]


def read_vdm(value: Any, path: Path, told: Mapping[str, Any], averaged: bool) -> Contents:
    """The 3D U-Net in `value`, a state dict of it or of the diffusion module, or a trainer's file, read from `path`.

    Args:
        told: fields of `UNet3DConfig` that the user gave; they decide over the shapes.
        averaged: whether the averaged weights are taken where there are such.

    Raises DifflabError that says what is missing or does not fit.
    """
    weights, source, training = "plain", "a state dict of video-diffusion-pytorch", {}
    if is_container(value):
        weights = "ema" if averaged else "raw"
        source = "a trainer's file of video-diffusion-pytorch"
        training = {"step": int(value["step"])} if isinstance(value["step"], int | float) else {}
        value = value[weights if averaged else "model"]
    if not is_state(value):
        raise DifflabError(f"{path}: its entry {'ema' if averaged else 'model'} holds no weights; the file is damaged.")
    schedule = _schedule(value, path)
    state = {name.removeprefix(PREFIX): x for name, x in value.items() if name.startswith(PREFIX)} or dict(value)
    network = network_fields(state, told, str(path))
    unknown = [name for name in ("image_size", "num_frames") if name not in told]
    if unknown:
        source += f", which does not tell {' and '.join(unknown)}"
    return Contents(
        _ours(state, validated(UNet3DConfig, network, str(path))),
        network,
        {
            "family": "unet3d", "weights": weights, "source": source, "training": training, "rounding": "floor",
            "schedule": schedule,
        },
    )  # fmt: skip


def _schedule(value: State, path: Path) -> ScheduleConfig:
    """The schedule of the tables beside the weights; the usual one where there are none. Raises DifflabError for tables
    of another curve, or cut short."""
    if "betas" not in value:
        return ScheduleConfig(name=SCHEDULE)
    found = value["betas"].double().numpy()
    if not found.size:
        raise DifflabError(f"{path}: its table of betas is empty; the file is damaged.")
    config = ScheduleConfig(name=SCHEDULE, timesteps=len(found))
    if not np.allclose(found, tables(config.build())["betas"], rtol=1e-3, atol=1e-6):
        raise DifflabError(
            f"{path}: its table of betas, {len(found)} of them, is not the cosine curve of video-diffusion-pytorch; is "
            "the file damaged, or of changed code?"
        )
    return config


def network_fields(state: State, told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of `UNet3DConfig` that fit `state`; side and frames, which it does not tell, as told or as by default."""
    levels = 1 + max((int(m[1]) for name in state if (m := re.match(r"downs\.(\d+)\.", name))), default=-1)
    dim = _shape(state, "time_mlp.1.weight", 2, where)[1]
    widths = [_shape(state, f"downs.{i}.1.block1.proj.weight", 5, where)[0] for i in range(levels)]
    first = _shape(state, "init_conv.weight", 5, where)
    if first[0] != dim:
        raise DifflabError(
            f"{where}: its first convolution is {first[0]} wide, the others {dim}; such a network cannot be run."
        )
    heads = _shape(state, MARK, 2, where)[1]
    if not heads:
        raise DifflabError(f"{where}: its attention has no heads; the file is damaged.")
    out, channels = _shape(state, "final_conv.1.weight", 5, where)[0], first[1]
    null = state.get("null_cond_emb")
    fields: dict[str, Any] = {
        "dim": dim,
        "dim_mults": tuple(width // dim for width in widths),
        "channels": channels,
        "out_dim": None if out == channels else out,
        "cond_dim": None if null is None else null.shape[1],
        "attn_heads": heads,
        "attn_dim_head": _shape(state, "mid_temporal_attn.fn.fn.fn.to_qkv.weight", 2, where)[0] // 3 // heads,
        "init_kernel_size": first[-1],
        "use_sparse_linear_attn": "downs.0.2.fn.fn.to_qkv.weight" in state,
        "norm": "rms" if "downs.0.0.block1.norm.gamma" in state else "group",
    }
    return {**fields, **told}


def to_reference(state: State, network: UNet3DConfig, schedule: ScheduleConfig) -> dict[str, Any]:
    """A trainer's file, as the reference loads it, of our weights. Raises DifflabError where it has no such network."""
    usual = UNet3DConfig(**network.model_dump(include={"dim"}))
    for name in ("num_classes", "attn_resolutions", "strict_mask", "patch"):
        if getattr(network, name) != getattr(usual, name):
            raise DifflabError(f"{name} is {getattr(network, name)}, which the reference does not know; leave it.")
    if schedule.name != SCHEDULE:
        raise DifflabError(f"the schedule is {schedule.name}, but the reference knows {SCHEDULE} only.")
    theirs: State = {name: torch.from_numpy(table).float() for name, table in tables(schedule.build()).items()}
    frequencies = rotary_rates(min(ROTARY, network.attn_dim_head))
    for name, value in state.items():
        theirs[PREFIX + original(name)] = _their_shape(name, value).clone()
        if re.search(r"temporal\.to_qkv", name):
            theirs[PREFIX + original(name).replace("to_qkv.weight", _FREQUENCIES)] = frequencies.clone()
    return {"step": 0, "model": theirs, "ema": {k: v.clone() for k, v in theirs.items()}, "scaler": {}}


def tables(schedule: Schedule) -> dict[str, np.ndarray]:
    """The tables (T,) float64 that the reference keeps beside its weights, by its names."""
    kept = schedule.alpha_bar
    before = np.concatenate([[1.0], kept[:-1]])
    betas = 1.0 - kept / before
    variance = betas * (1.0 - before) / (1.0 - kept)
    return {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - kept),
        "log_one_minus_alphas_cumprod": np.log(1.0 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / kept - 1.0),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1.0 - kept),
        "posterior_mean_coef2": (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - kept),
    }


def original(name: str) -> str:
    """The reference's name for a weight of `UNet3D`."""
    match = re.match(r"(downs|ups)\.(\d+)\.(\w+)\.", name)
    if match:
        part = match[3]
        head, rest = f"{match[1]}.{match[2]}.{_PARTS[part]}", name[match.end() :]
    else:
        ours = next((ours for ours in _NAMES if name == ours or name.startswith(f"{ours}.")), "")
        part, head, rest = ours.split(".")[-1], _NAMES.get(ours, ""), name[len(ours) :].lstrip(".")
    if part in ("spatial", "temporal", "init_temporal"):
        deep = "fn.fn." if match and part == "spatial" else "fn.fn.fn."  # linear attention is wrapped once less
        rest = "fn.norm.gamma" if rest == "norm.weight" else f"{deep}{rest}"
    elif rest.startswith("mlp."):
        rest = rest.replace("mlp.", "mlp.1.", 1)
    return ".".join(filter(None, (head, rest)))


def _their_shape(name: str, value: Tensor) -> Tensor:
    """A weight of ours in the shape it has there: a frame more in kernels, norms that span all axes."""
    if name == "null_condition":
        return value[None]
    if name.endswith("norm.gamma"):
        return value[:, None, None, None]
    if re.search(r"(spatial|temporal)\.norm\.weight$", name):
        return value[None, :, None, None, None]
    if re.match(r"(downs|ups)\.\d+\.spatial\.to_\w+\.weight$", name):
        return value[:, :, None, None]
    return value.unsqueeze(2) if value.ndim == 4 else value


def _ours(state: State, network: UNet3DConfig) -> State:
    """Their weights by our names and in our shapes; what has no place keeps its name, so that it will be told."""
    with torch.device("meta"):
        expected = FAMILIES["unet3d"].build(network).state_dict()
    left = {name: value for name, value in state.items() if not name.endswith(_FREQUENCIES)}
    found: State = {}
    for name, ours in expected.items():
        if (value := left.pop(original(name), None)) is not None:
            fits = _their_shape(name, ours).shape == value.shape
            found[name] = value.reshape(ours.shape).clone() if fits else value
    return {**found, **left}


def _shape(state: State, name: str, dimensions: int, where: str) -> tuple[int, ...]:
    return shape_of(state, name, dimensions, where, "a 3D U-Net")
