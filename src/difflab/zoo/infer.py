"""The configuration of a DDIM U-Net as far as the shapes of its weights tell it.

They tell everything but the image size: convolutions fit any. So it must be told, or the shapes must be those of one of
the official configurations.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from difflab.errors import DifflabError
from difflab.zoo.contents import State, shape_of
from difflab.zoo.families import UNet2DConfig
from difflab.zoo.official import OfficialConfig, read_config


def network_fields(state: State, told: dict[str, Any], where: str) -> dict[str, Any]:
    """Fields of `UNet2DConfig` that fit `state`.

    Args:
        state: weights by the official names.
        told: fields the user gave; they decide over the shapes. With image_size the result is complete.
        where: what to call the file in a DifflabError, raised when a weight that decides is missing or misshapen.
    """
    levels = range(1 + _last(r"down\.(\d+)\.", state))
    ch, c_in = _kernel(state, "conv_in", where)[:2]
    widths = [_kernel(state, f"down.{level}.block.0.conv1", where)[0] for level in levels]
    patch = told.get("patch", 1)
    fields: dict[str, Any] = {
        "in_channels": c_in // patch**2,
        "out_ch": _kernel(state, "conv_out", where)[0] // patch**2,
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": 1 + _last(r"down\.0\.block\.(\d+)\.", state),
        "resamp_with_conv": len(levels) == 1 or "down.0.downsample.conv.weight" in state,
    }
    size = told.get("image_size")
    if isinstance(size, int):
        fields["attn_resolutions"] = tuple(size // patch // 2**level for level in attention_levels(state))
    return {**fields, **told}


def official_match(state: State, where: str) -> tuple[str, OfficialConfig]:
    """Name and content of the official configuration whose weights have these shapes.

    church and bedroom are the same network and schedule: such weights are called church.
    Raises DifflabError, asking for the image size, if there is none.
    """
    found = network_fields(state, {}, where)
    for name in ("cifar10", "celeba", "church"):
        config = read_config(name)
        network: UNet2DConfig = config.card_fields()["network"]
        same = all(getattr(network, field) == value for field, value in found.items())
        if same and attention_levels(state) == _levels_at(network):
            return name, config
    shown = f"ch {found['ch']}, ch_mult {list(found['ch_mult'])}, attention at levels {attention_levels(state)}"
    raise DifflabError(
        f"{where}: a DDIM U-Net ({shown}) of none of the official configurations, and its image size is not in the "
        "weights; give its configuration, --config FILE.yml (in Python config='file.yml' or config={'image_size': N})."
    )


def attention_levels(state: Collection[str]) -> list[int]:
    """Levels with attention, 0 being the finest."""
    return sorted({int(m[1]) for name in state if (m := re.match(r"down\.(\d+)\.attn\.", name))})


def _levels_at(network: UNet2DConfig) -> list[int]:
    sizes = [network.image_size // network.patch // 2**level for level in range(len(network.ch_mult))]
    return [level for level, size in enumerate(sizes) if size in network.attn_resolutions]


def _last(pattern: str, names: Collection[str]) -> int:
    return max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=0)


def _kernel(state: State, layer: str, where: str) -> tuple[int, ...]:
    return shape_of(state, f"{layer}.weight", 4, where, "a DDIM U-Net")
