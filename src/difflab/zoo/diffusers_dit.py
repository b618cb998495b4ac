"""DiT in the layout of diffusers: a folder `transformer`, alone or in a whole pipeline with `vae` and `scheduler`.

diffusers stores a copy of the timestep's and the label's embedders in every block. They must be equal here, as in all
published conversions; our network has them once.
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
from difflab.nets.dit import position_table
from difflab.validation import validated
from difflab.zoo.card import Card, CodecConfig
from difflab.zoo.checkpoint import plain_tensors
from difflab.zoo.contents import Contents, State
from difflab.zoo.diffusers_folder import WEIGHTS, json_file, read_weights, schedule_fields
from difflab.zoo.dit_files import SD_CHANNELS, card_fields
from difflab.zoo.families import DiTConfig

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second is what published folders say
_FIXED = {  # what the class can be told and DiT never is
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
_PLAIN = {  # theirs -> ours, outside of the blocks
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_EMBEDDERS = {  # theirs in every block -> ours
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")  # ours are one layer, in this order


def read_diffusers_dit(folder: Path, home: Path, told: Mapping[str, Any]) -> Contents:
    """The DiT whose config.json lies in `home`; `folder` is what the user gave, with a scheduler and an autoencoder if
    it is a pipeline.

    `told`: fields of `DiTConfig` that decide over the file's. The numerics are the official ones, with which the
    weights were trained, unless told `numerics: diffusers`.

    Raises DifflabError for embedders that differ between blocks, and for what does not fit or is missing.
    """
    values = json_file(home / "config.json")
    network = {**_network_fields(values, home / "config.json"), **told}
    config = validated(DiTConfig, network, str(home / "config.json"))
    state = _from_diffusers(read_weights(home), config, home)
    card = {"family": "dit", "source": f"a diffusers {values['_class_name']} folder", **card_fields(network)}
    if (folder / "vae" / "config.json").is_file():
        card["codec"] = _codec(folder / "vae")
    elif network["in_channels"] != SD_CHANNELS:
        card = {name: value for name, value in card.items() if name not in ("codec", "guided_channels")}
    return Contents(state, network, {**card, **_names(folder, config), **schedule_fields(folder, home)})


def _network_fields(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        heads, head = int(values["num_attention_heads"]), int(values["attention_head_dim"])
        channels, out = int(values["in_channels"]), int(values.get("out_channels") or values["in_channels"])
        fields = {
            "input_size": int(values["sample_size"]),
            "patch_size": int(values["patch_size"]),
            "in_channels": channels,
            "hidden_size": heads * head,
            "num_heads": heads,
            "depth": int(values["num_layers"]),
            "num_classes": int(values["num_embeds_ada_norm"]),
            "learn_sigma": out == 2 * channels,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DifflabError(
            f"{path}: the field {error} of a DiT is missing or no number; fetch the file again."
        ) from error
    for name, needed in _FIXED.items():
        if values.get(name, needed) != needed:
            raise DifflabError(f"{path}: {name} is {json.dumps(values[name])}, but a DiT has {json.dumps(needed)}.")
    return fields


def _codec(folder: Path) -> dict[str, Any]:
    values = json_file(folder / "config.json")
    levels = len(values.get("block_out_channels", ()))
    fields = {"vae": str(folder), "scale": values.get("scaling_factor", 0.18215), "factor": 2 ** max(levels - 1, 0)}
    return validated(CodecConfig, fields, str(folder / "config.json")).model_dump()


def _names(folder: Path, config: DiTConfig) -> dict[str, Any]:
    """Class names of a pipeline's id2label, where it names all of them."""
    path = folder / "model_index.json"
    labels = json_file(path).get("id2label") if path.is_file() else None
    if not isinstance(labels, Mapping) or len(labels) != config.num_classes:
        return {}
    return {"classes": tuple(str(labels.get(str(i), i)) for i in range(config.num_classes))}


def _from_diffusers(found: State, config: DiTConfig, home: Path) -> State:
    state: State = {}
    parts: dict[str, list[Tensor | None]] = {}
    for name, value in found.items():
        if name.startswith("pos_embed.") and name.endswith("pos_embed"):
            continue  # the fixed table, where it was stored
        layer, _, kind = name.rpartition(".")
        block = re.match(r"transformer_blocks\.(\d+)\.(.+)", layer)
        if layer in _PLAIN:
            state[f"{_PLAIN[layer]}.{kind}"] = value
        elif block is None:
            raise DifflabError(f"{home}: the weight {name} does not belong to a DiT; is this another transformer?")
        elif block[2] in _EMBEDDERS:
            _keep_equal(state, f"{_EMBEDDERS[block[2]]}.{kind}", value, name, home)
        elif block[2] in _BLOCK:
            state[f"blocks.{block[1]}.{_BLOCK[block[2]]}.{kind}"] = value
        elif block[2] in _QKV:
            thirds = parts.setdefault(f"blocks.{block[1]}.attn.qkv.{kind}", [None, None, None])
            thirds[_QKV.index(block[2])] = value
        else:
            raise DifflabError(f"{home}: the weight {name} does not belong to a DiT; is this another transformer?")
    for name, thirds in parts.items():
        whole = [value for value in thirds if value is not None]
        if len(whole) != 3:
            raise DifflabError(f"{home}: {name} is incomplete: to_q, to_k or to_v is missing; fetch the folder again.")
        state[name] = torch.cat(whole)
    grid = config.input_size // config.patch_size
    state["pos_embed"] = torch.from_numpy(position_table(config.hidden_size, grid)).float().unsqueeze(0)
    return state


def _keep_equal(state: State, ours: str, value: Tensor, theirs: str, home: Path) -> None:
    if ours not in state:
        state[ours] = value
    elif not torch.equal(state[ours], value):
        raise DifflabError(
            f"{home}: {theirs} differs from the same embedder of another block, but a DiT has one for all blocks; "
            "these weights were tuned by other code and cannot be read as a DiT."
        )


def write_diffusers_dit(folder: Path, card: Card, state: State) -> None:
    """Write `transformer`, `scheduler` and model_index.json.

    `DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer")` reads it, and
    `DiTPipeline.from_pretrained(folder, vae=...)`, told an autoencoder. Raises DifflabError for a model that diffusers
    cannot express.
    """
    network = card.network
    assert isinstance(network, DiTConfig)
    if (network.conditioning, network.mlp_ratio, card.prediction) != ("adaln-zero", 4.0, "eps"):
        found = f"conditioning {network.conditioning}, mlp_ratio {network.mlp_ratio:g} and predicts {card.prediction}"
        raise DifflabError(
            f"{card.name}: has {found}, but diffusers knows adaln-zero, 4 and eps only; convert it to difflab instead."
        )
    if network.null_class is None:
        raise DifflabError(
            f"{card.name}: has no row for 'no class', which diffusers' DiT always has; convert it to difflab instead."
        )
    if card.schedule.name != "linear":
        raise DifflabError(
            f"{card.name}: has the schedule {card.schedule.name}, but diffusers' pipeline of DiT is linear; convert it "
            "to difflab instead."
        )
    home = folder / "transformer"
    weights = save(plain_tensors(_to_diffusers(state, network.depth)), {"format": "pt"})
    write_bytes(home / f"{WEIGHTS}.safetensors", weights)
    schedule = card.schedule
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.timesteps,
        "beta_schedule": schedule.name,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": "epsilon",
        "clip_sample": False,
    }
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    names = {str(i): name for i, name in enumerate(card.classes)}
    parts = {"scheduler": ["diffusers", "DDIMScheduler"], "transformer": ["diffusers", "DiTTransformer2DModel"]}
    index = {"_class_name": "DiTPipeline", **parts, "vae": ["diffusers", "AutoencoderKL"], "id2label": names or None}
    write_json(folder / "model_index.json", index)
    write_json(home / "config.json", _config_of(network))


def _config_of(network: DiTConfig) -> dict[str, Any]:
    return {
        "_class_name": "DiTTransformer2DModel",
        **_FIXED,
        "num_attention_heads": network.num_heads,
        "attention_head_dim": network.hidden_size // network.num_heads,
        "in_channels": network.in_channels,
        "out_channels": network.answers,
        "num_layers": network.depth,
        "sample_size": network.input_size,
        "patch_size": network.patch_size,
        "num_embeds_ada_norm": network.num_classes,
        "norm_eps": 1e-6,
    }


def _to_diffusers(state: State, depth: int) -> State:
    found: State = {}
    plain = {ours: theirs for theirs, ours in _PLAIN.items()}
    block = {ours: theirs for theirs, ours in _BLOCK.items()}
    embedders = {ours: theirs for theirs, ours in _EMBEDDERS.items()}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        inside = re.match(r"blocks\.(\d+)\.(.+)", layer)
        if layer in plain:
            found[f"{plain[layer]}.{kind}"] = value
        elif layer in embedders:
            found |= {f"transformer_blocks.{i}.{embedders[layer]}.{kind}": value for i in range(depth)}
        elif inside is not None and inside[2] in block:
            found[f"transformer_blocks.{inside[1]}.{block[inside[2]]}.{kind}"] = value
        elif inside is not None:
            for theirs, part in zip(_QKV, value.chunk(3), strict=True):
                found[f"transformer_blocks.{inside[1]}.{theirs}.{kind}"] = part
    return found
