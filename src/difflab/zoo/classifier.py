"""The noisy classifiers of guided-diffusion, which tell the class of a picture at any noise and so can guide a model.

Files are plain state dicts. Shapes tell everything but the width of heads, which is 64 channels in its code; only those
with attention pooling are read, as the released ones are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflab.errors import DifflabError, suggest
from difflab.hashing import hash_weights
from difflab.nets.adm import NoisyClassifier
from difflab.precision import full_precision
from difflab.zoo.contents import State, shape_of
from difflab.zoo.registry import find, known
from difflab.zoo.safe import is_safetensors, is_state, read_safetensors, read_torch
from difflab.zoo.weights import fill

_HEAD = 64
_POOL = "out.2.positional_embedding"
_WHAT = "a noisy classifier of guided-diffusion with attention pooling"


@dataclass(frozen=True)
class Classifier:
    """A noisy classifier in evaluation mode: x (B, *shape) in model space, t (B,) -> logits (B, classes) float32."""

    network: NoisyClassifier
    name: str
    shape: tuple[int, int, int]
    classes: int

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits, through which gradients flow to x."""
        with full_precision():
            logits: Tensor = self.network(x, t)
        return logits

    @cached_property
    def weights_hash(self) -> str:
        """Hex SHA-256 over the names and values of all weights."""
        return hash_weights(self.network.state_dict())


def open_classifier(source: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """A noisy classifier by name, such as `adm-classifier64`, or from a file; nothing in it is executed.

    Raises DifflabError for what is not there, damaged, or something else.
    """
    entry = find(source) if isinstance(source, str) else None
    named = entry is not None and entry.kind == "classifier"
    path = entry.require() if entry is not None and named else Path(source).expanduser()
    if not path.is_file():
        raise DifflabError(
            f"{source}: no such file, nor a noisy classifier of that name.{suggest(str(source), known('classifier'))}"
        )
    state = read_safetensors(path)[0] if is_safetensors(path) else read_torch(path)
    fields = classifier_fields(state, str(path))
    network = fill(lambda: NoisyClassifier(**fields), state, device, str(path))
    side = fields["image_size"]
    return Classifier(network, entry.name if entry and named else path.stem, (3, side, side), fields["num_classes"])


def classifier_fields(state: Any, where: str) -> dict[str, Any]:
    """Arguments of `NoisyClassifier` that fit the content of the file `where`.

    Raises DifflabError if it is none, or its shapes leave open how its blocks make levels.
    """
    if not is_state(state) or _POOL not in state:
        raise DifflabError(
            f"{where}: not {_WHAT}, which has the weight {_POOL}; give such a file, or a name that `difflab models` "
            "lists as a classifier."
        )
    base = _shape(state, "time_embed.0.weight", 2, where)[1]
    widths, attends = _entries(state, where)
    found = list(_layouts(widths, attends))
    if len(found) != 1:
        raise DifflabError(
            f"{where}: its way down has {len(widths) + 1} entries, which make levels of equal length in {len(found)} "
            f"ways, but there should be one; the file is incomplete or not {_WHAT}."
        )
    levels, blocks = found[0]
    first = [level * (blocks + 1) for level in range(levels)]
    channels, places = _shape(state, _POOL, 2, where)
    side = math.isqrt(places - 1) << (levels - 1)
    attended = [*(widths[n] for n in first if attends[n]), channels]
    if odd := [width for width in attended if width % _HEAD]:
        raise DifflabError(
            f"{where}: has attention over {odd[0]} channels, but {_WHAT} has heads of {_HEAD}; give another file."
        )
    return {
        "image_size": side,
        "num_channels": base,
        "num_res_blocks": blocks,
        "channel_mult": tuple(widths[n] / base for n in first),
        "attention_resolutions": tuple(side >> level for level, n in enumerate(first) if attends[n]),
        "num_head_channels": _HEAD,
        "num_classes": _shape(state, "out.2.c_proj.weight", 3, where)[0],
        "resblock_updown": not any(name.endswith(".0.op.weight") for name in state),
        "use_scale_shift_norm": _shape(state, "input_blocks.1.0.emb_layers.1.weight", 2, where)[0] == 2 * widths[0],
    }


def _entries(state: State, where: str) -> tuple[list[int], list[bool]]:
    """Channels that each entry of the way down gives, after the first convolution, and whether it has attention."""
    count = 1 + max((int(m[1]) for name in state if (m := re.match(r"input_blocks\.(\d+)\.", name))), default=0)
    widths, attends = [], []
    for n in range(1, count):
        plain = f"input_blocks.{n}.0.op.weight"
        name = plain if plain in state else f"input_blocks.{n}.0.in_layers.2.weight"
        widths.append(_shape(state, name, 4, where)[0])
        attends.append(f"input_blocks.{n}.1.qkv.weight" in state)
    return widths, attends


def _layouts(widths: list[int], attends: list[bool]) -> Iterator[tuple[int, int]]:
    """Levels and blocks a level that entries may make: each level of one width, with attention in all its blocks or in
    none, and all but the last with an entry that halves at the end, which has no attention."""
    total = len(widths) + 1
    for blocks in range(1, total):
        parts = [range(n, min(n + blocks + 1, total - 1)) for n in range(0, total - 1, blocks + 1)]
        if total % (blocks + 1) == 0 and all(_is_level(part, blocks, widths, attends) for part in parts):
            yield len(parts), blocks


def _is_level(part: range, blocks: int, widths: list[int], attends: list[bool]) -> bool:
    """Whether these entries make one level of so many blocks."""
    alike = len({widths[n] for n in part}) == len({attends[n] for n in part[:blocks]}) == 1
    return alike and not any(attends[n] for n in part[blocks:])


def _shape(state: State, name: str, dimensions: int, where: str) -> tuple[int, ...]:
    return shape_of(state, name, dimensions, where, _WHAT)
