"""Checkpoints of guided-diffusion and improved-diffusion: plain state dicts, released or written by a trainer.

Our network has the official names, so nothing is renamed. Shapes tell all but the image size, the heads, the order of
their channels, the scale of timesteps and the noise schedule, which follow where a file has the shapes of a released
model. Of others image size and heads must be told, and the source says what else was assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difflab.errors import DifflabError
from difflab.zoo.contents import Contents, State, shape_of
from difflab.zoo.sizes import ADM_NAMES, adm_schedule, adm_size

MARK = "input_blocks.0.0.weight"
_SILENT = (
    "image_size",
    "num_heads",
    "num_head_channels",
    "use_new_attention_order",
    "dropout",
    "attention_resolutions",
    "timestep_scale",
)


def read_adm(state: State, path: Path, told: Mapping[str, Any]) -> Contents:
    """The network of a state dict that was read from `path`.

    Args:
        told: fields of `ADMConfig` that the user gave; they decide over the shapes.

    Raises DifflabError that says what is missing or does not fit.
    """
    network, name = network_fields(state, told, str(path))
    order = "the new" if network.get("use_new_attention_order") else "the legacy"
    assumed = (
        f"taken for {name} by its shapes" if name else f"with {order} order of heads and linear betas, unless told"
    )
    code = "improved-diffusion" if name and name.startswith("IDDPM") else "guided-diffusion"
    source = f"a state dict of {code}, {assumed}"
    card: dict[str, Any] = {"family": "adm", "weights": "plain", "source": source, "rounding": "floor"}
    card["variance"] = "learned" if network["learn_sigma"] else "large"
    card["schedule"] = adm_schedule(name)
    return Contents(state, network, card)


def network_fields(state: State, told: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
    """Fields of `ADMConfig` that fit `state`, and the released model whose shapes they are, if any."""
    _check_kind(state, where)
    base = _shape(state, "time_embed.0.weight", 2, where)[1]
    blocks, levels = _blocks_and_levels(state, where)
    first = [1 + level * (blocks + 1) for level in range(levels)]  # the first entry of each level on the way down
    widths = [_shape(state, f"input_blocks.{n}.0.in_layers.2.weight", 4, where)[0] for n in first]
    attends = tuple(f"input_blocks.{n}.1.qkv.weight" in state for n in first)
    in_channels, out = _shape(state, MARK, 4, where)[1], _shape(state, "out.2.weight", 4, where)[0]
    fields: dict[str, Any] = {
        "num_channels": base,
        "num_res_blocks": blocks,
        "channel_mult": tuple(width / base for width in widths),
        "num_classes": len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        "learn_sigma": out == 2 * in_channels,
        "resblock_updown": levels > 1 and not any(name.endswith(".0.op.weight") for name in state),
        "use_scale_shift_norm": _shape(state, "input_blocks.1.0.emb_layers.1.weight", 2, where)[0] == 2 * widths[0],
        "in_channels": in_channels,
    }
    name = _released(fields, attends)
    silent = {field: value for field, value in adm_size(name).items() if field in _SILENT} if name else {}
    if name is None and not ("image_size" in told and {"num_heads", "num_head_channels"} & told.keys()):
        raise DifflabError(
            f"{where}: a U-Net of guided-diffusion with the shapes of no released model, and its image "
            "size and heads are not in the weights; tell them, --config image_size=N,num_head_channels=N (in Python "
            "config={'image_size': N, ..})."
        )
    size = told.get("image_size", silent.get("image_size"))
    if isinstance(size, int):
        silent["attention_resolutions"] = tuple(size >> level for level, attended in enumerate(attends) if attended)
    return {**fields, **silent, **told}, name


def _check_kind(state: State, where: str) -> None:
    """Raise DifflabError for its relatives: a classifier, and an upsampler, which is told a small picture beside x."""
    if any(name.startswith("out.2.") and name not in ("out.2.weight", "out.2.bias") for name in state):
        raise DifflabError(
            f"{where}: this is a noisy classifier of guided-diffusion, which guides a model and draws none; give it as "
            "--classifier (in Python classifier=..)."
        )
    taken, given = _shape(state, MARK, 4, where)[1], _shape(state, "out.2.weight", 4, where)[0]
    if given not in (taken, 2 * taken) or (taken, given) == (6, 6):
        raise DifflabError(
            f"{where}: takes {taken} channels and gives {given}, as guided-diffusion's upsamplers do, which are told a "
            "small picture; give a model that draws from noise alone."
        )


def _blocks_and_levels(state: State, where: str) -> tuple[int, int]:
    """Residual blocks a level, and levels: on the way up every level but the finest ends in an entry that doubles."""
    entries = 1 + max((int(m[1]) for name in state if (m := re.match(r"output_blocks\.(\d+)\.", name))), default=-1)
    doubling = r"output_blocks\.(\d+)\.[12]\.(in_layers\.0|conv)\.weight"
    blocks = min((int(m[1]) for name in state if (m := re.match(doubling, name))), default=entries - 1)
    if blocks < 1 or entries % (blocks + 1):
        raise DifflabError(
            f"{where}: its way up has {entries} entries of which the first to double is number {blocks}; the file is "
            "incomplete or not a U-Net of guided-diffusion."
        )
    return blocks, entries // (blocks + 1)


def _released(fields: Mapping[str, Any], attends: tuple[bool, ...]) -> str | None:
    """The released model that has these shapes."""
    for name in ADM_NAMES:
        known = adm_size(name)
        same = all(known[field] == value for field, value in fields.items() if field in known)
        resolutions = [known["image_size"] >> level for level in range(len(known["channel_mult"]))]
        if same and attends == tuple(r in known["attention_resolutions"] for r in resolutions):
            return name
    return None


def _shape(state: State, name: str, dimensions: int, where: str) -> tuple[int, ...]:
    return shape_of(state, name, dimensions, where, "a U-Net of guided-diffusion")
