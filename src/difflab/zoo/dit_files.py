"""Checkpoints of the official DiT code: released state dicts and the files of its train.py, told apart by content.

Our network has the official names, so nothing is renamed. Shapes tell the whole configuration but the number of heads,
which follows from the published sizes or must be told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflab.errors import DifflabError
from difflab.nets.dit import Conditioning, position_table
from difflab.zoo.contents import Contents, State, copied, shape_of
from difflab.zoo.safe import is_state
from difflab.zoo.sizes import DIT_NAMES, dit_size

MARK = "x_embedder.proj.weight"  # only DiT has it
SD_VAE = {"vae": "stabilityai/sd-vae-ft-ema", "scale": 0.18215, "factor": 8}  # the codec of all released DiT
_TABLE_DRIFT = 1e-3  # averaging also averages the frozen position table, which rounds it a little


def is_container(value: Any) -> bool:
    """Whether `value` is what train.py saves: model, ema, opt, args."""
    return isinstance(value, Mapping) and {"model", "ema", "args"} <= value.keys()


def read_dit(value: Any, path: Path, told: Mapping[str, Any], averaged: bool) -> Contents:
    """The DiT in `value`, a state dict or a container, which was read from `path`.

    Args:
        told: fields of `DiTConfig` that the user gave; they decide over the shapes.
        averaged: whether the averaged weights are taken where there are such, as the official loader does.

    Raises DifflabError that says what is missing or does not fit.
    """
    if not is_container(value):
        return _contents(dict(value), path, told, "plain", "a state dict of the official DiT code", None)
    weights = "ema" if averaged else "raw"
    state = value["ema" if averaged else "model"]
    if not is_state(state):
        raise DifflabError(f"{path}: its entry {'ema' if averaged else 'model'} holds no weights; the file is damaged.")
    size = getattr(value["args"], "model", None)
    return _contents(copied(dict(state)), path, told, weights, "a file of the official DiT train.py", size)


def _contents(
    state: State, path: Path, told: Mapping[str, Any], weights: str, source: str, size: str | None
) -> Contents:
    network = network_fields(state, told, size, str(path))
    state["pos_embed"] = _position_table(state["pos_embed"], network)
    card: dict[str, Any] = {"family": "dit", "weights": weights, "source": source}
    return Contents(state, network, {**card, **card_fields(network)})


def card_fields(network: Mapping[str, Any]) -> dict[str, Any]:
    """What the official scripts take for granted: variance, autoencoder, and guidance of three channels of four."""
    latent = network["in_channels"] == SD_CHANNELS
    variance = "learned" if network["learn_sigma"] else "large"
    official = {"codec": SD_VAE, "guided_channels": 3} if latent else {}  # an oversight, kept
    return {"variance": variance, "rounding": "shifted", **official}


SD_CHANNELS = 4


def network_fields(state: State, told: Mapping[str, Any], size: str | None, where: str) -> dict[str, Any]:
    """Fields of `DiTConfig` that fit `state`; `size` is a name such as DiT-XL/2 that the file mentions."""
    width, channels, patch = _shape(state, MARK, 4, where)[:3]
    tokens = _shape(state, "pos_embed", 3, where)[1]
    rows = _shape(state, "y_embedder.embedding_table.weight", 2, where)[0]
    out = _shape(state, "final_layer.linear.weight", 2, where)[0] // patch**2
    depth = 1 + max((int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    no_null = told.get("num_classes") == rows or told.get("class_dropout_prob") == 0
    fields = {
        "input_size": math.isqrt(tokens) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth,
        "mlp_ratio": _shape(state, "blocks.0.mlp.fc1.weight", 2, where)[0] / width,
        "class_dropout_prob": 0.0 if no_null else 0.1,
        "num_classes": rows if no_null else rows - 1,
        "learn_sigma": out == 2 * channels,
        "conditioning": _conditioning(state, width),
    }
    if "num_heads" not in told:
        fields["num_heads"] = _heads(depth, width, size, where)
    return {**fields, **told}


def _heads(depth: int, width: int, size: str | None, where: str) -> int:
    published = [dit_size(name) for name in ([size] if size in DIT_NAMES else []) + list(DIT_NAMES)]
    for known in published:
        if (known["depth"], known["hidden_size"]) == (depth, width):
            return known["num_heads"]
    raise DifflabError(
        f"{where}: a DiT of depth {depth} and width {width}, which is no published size, and the number of heads is "
        "not in the weights; tell it, in Python config={'num_heads': N}, at the command line --config num_heads=N."
    )


def _conditioning(state: State, width: int) -> Conditioning:
    modulation = state.get("blocks.0.adaLN_modulation.1.weight")
    if modulation is not None:
        return "adaln-zero" if len(modulation) == 6 * width else "adaln"
    return "cross-attention" if "blocks.0.cross.q.weight" in state else "in-context"


def _position_table(found: Tensor, network: Mapping[str, Any]) -> Tensor:
    """The frozen table in place of one that averaging has rounded; one that is really another stays."""
    grid = network["input_size"] // network["patch_size"]
    fixed = torch.from_numpy(position_table(network["hidden_size"], grid)).float().unsqueeze(0)
    close = fixed.shape == found.shape and (found.float() - fixed).abs().max() < _TABLE_DRIFT
    return fixed if close else found


def _shape(state: State, name: str, dimensions: int, where: str) -> tuple[int, ...]:
    return shape_of(state, name, dimensions, where, "a DiT")
