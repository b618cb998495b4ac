"""The published sizes of DiT, and of guided-diffusion's and improved-diffusion's U-Nets, by name."""

from __future__ import annotations

from typing import Any

from difflab.errors import DifflabError, suggest

# Depth, width and heads of the published sizes; DiT-XL/2 is XL with patches of 2.
_DIT_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
_DIT_PATCHES = (2, 4, 8)
DIT_NAMES = tuple(f"DiT-{size}/{patch}" for size in reversed(_DIT_SIZES) for patch in _DIT_PATCHES)

# What the five ImageNet models of guided-diffusion have in common, and apart.
_ADM = {
    "attention_resolutions": (32, 16, 8), "learn_sigma": True, "resblock_updown": True, "use_scale_shift_norm": True,
    "num_channels": 256, "num_res_blocks": 2, "num_head_channels": 64, "num_classes": 1000,
}  # fmt: skip
_ADM_64 = {
    "num_channels": 192, "num_res_blocks": 3, "channel_mult": (1, 2, 3, 4), "use_new_attention_order": True,
    "dropout": 0.1,
}  # fmt: skip
_ADM_SIZES: dict[str, dict[str, Any]] = {
    "ADM-64": {**_ADM, "image_size": 64, **_ADM_64},
    "ADM-128": {**_ADM, "image_size": 128, "channel_mult": (1, 1, 2, 3, 4), "num_heads": 4, "num_head_channels": -1},
    "ADM-256": {**_ADM, "image_size": 256, "channel_mult": (1, 1, 2, 2, 4, 4)},
    "ADM-256-uncond": {**_ADM, "image_size": 256, "channel_mult": (1, 1, 2, 2, 4, 4), "num_classes": None},
    "ADM-512": {**_ADM, "image_size": 512, "channel_mult": (0.5, 1, 1, 2, 2, 4, 4)},
}
# What those of improved-diffusion have in common, which came before; but for two they rescale 4,000 timesteps to 1,000.
_IDDPM = {
    "attention_resolutions": (16, 8), "learn_sigma": True, "resblock_updown": False, "use_scale_shift_norm": True,
    "num_channels": 128, "num_res_blocks": 3, "num_heads": 4, "num_head_channels": -1, "num_classes": None,
}  # fmt: skip
_IDDPM_LSUN = {
    "channel_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "num_heads": 1, "attention_resolutions": (16,),
    "use_scale_shift_norm": False,
}  # fmt: skip
_ADM_SIZES |= {
    "IDDPM-32": {**_IDDPM, "image_size": 32, "channel_mult": (1, 2, 2, 2), "dropout": 0.3, "timestep_scale": 0.25},
    "IDDPM-64": {**_IDDPM, "image_size": 64, "channel_mult": (1, 2, 3, 4), "timestep_scale": 0.25},
    "IDDPM-64-cond": {
        **_IDDPM, "image_size": 64, "channel_mult": (1, 2, 3, 4), "num_channels": 192, "num_classes": 1000,
    },
    "IDDPM-256": {**_IDDPM, "image_size": 256, **_IDDPM_LSUN},
}  # fmt: skip
ADM_NAMES = tuple(_ADM_SIZES)
_COSINE = {"ADM-64": 1000, "IDDPM-32": 4000, "IDDPM-64": 4000, "IDDPM-64-cond": 4000}  # others are linear, of 1,000


def dit_size(name: str) -> dict[str, int]:
    """Fields of `DiTConfig` for a published size such as `DiT-XL/2`. Raises DifflabError for another name."""
    if name not in DIT_NAMES:
        raise DifflabError(f"{name}: not a published size of DiT.{suggest(name, DIT_NAMES)}")
    size, patch = name.removeprefix("DiT-").split("/")
    depth, width, heads = _DIT_SIZES[size]
    return {"depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": int(patch)}


def adm_schedule(name: str | None) -> dict[str, Any]:
    """Fields of `ScheduleConfig` for a released model, or for one that is none of them."""
    return {"name": "cosine", "timesteps": _COSINE[name]} if name in _COSINE else {"name": "linear"}


def adm_size(name: str) -> dict[str, Any]:
    """Fields of `ADMConfig` for a released model, `ADM-256` or `IDDPM-64`. Raises DifflabError for another name."""
    if name not in _ADM_SIZES:
        raise DifflabError(f"{name}: not a published size of ADM.{suggest(name, ADM_NAMES)}")
    return dict(_ADM_SIZES[name])
