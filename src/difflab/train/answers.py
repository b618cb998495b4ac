"""What feature networks and text encoders are asked of the world `shapes`, and the right answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from difflab.data.captions import PLACES, RELATIONS, read
from difflab.data.shapes import BACKGROUNDS, COLOURS, COLUMNS, KINDS, SIZES, sample_scenes
from difflab.data.shapes_clips import DIRECTIONS, SPEEDS, sample_motions

_OF_A_SHAPE = {"kind": len(KINDS), "colour": len(COLOURS), "size": len(SIZES), "place": len(PLACES)}
SCENE_HEADS = {  # what can be asked of a scene, and how many answers there are
    "count": 2,
    "background": len(BACKGROUNDS),
    **{f"{shape} {name}": classes for shape in ("main", "other") for name, classes in _OF_A_SHAPE.items()},
}
MOTION_HEADS = {  # and of a clip
    "background": len(BACKGROUNDS),
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "direction": len(DIRECTIONS),
    "speed": len(SPEEDS),
}
READ = {  # what is asked of a sentence, and how many answers there are, 0 of which is that it does not say
    **{f"{which} {name}": 1 + n for which in ("first", "second") for name, n in _OF_A_SHAPE.items()},
    "relation": 1 + len(RELATIONS),
    "background": 1 + len(BACKGROUNDS),
    "direction": 1 + len(DIRECTIONS),
    "speed": 1 + len(SPEEDS),
}


def scene_targets(seed: int, indices: np.ndarray) -> dict[str, Tensor]:
    """Attributes of scenes as classification targets (N,); -1 where the second shape is absent."""
    scenes = sample_scenes(seed, indices)
    targets = {"count": scenes.count - 1, "background": scenes.background}
    for j, shape in enumerate(("main", "other")):
        absent = scenes.count <= j
        place = scenes.row[:, j] * len(COLUMNS) + scenes.column[:, j]
        values = {"kind": scenes.kind[:, j], "colour": scenes.colour[:, j], "size": scenes.size[:, j], "place": place}
        targets |= {f"{shape} {name}": np.where(absent, -1, value) for name, value in values.items()}
    return {name: torch.from_numpy(value) for name, value in targets.items()}


def motion_targets(seed: int, indices: np.ndarray) -> dict[str, Tensor]:
    """Attributes of clips as classification targets (N,)."""
    motions = sample_motions(seed, indices)
    return {name: torch.from_numpy(getattr(motions, name)) for name in MOTION_HEADS}


def claimed(text: str) -> dict[str, int]:
    """The answers of a sentence to what is asked in `READ`."""
    claim = read(text)
    said: dict[str, int | None] = dict.fromkeys(READ)
    for which, thing in zip(("first", "second"), claim.things, strict=False):
        said |= {f"{which} {name}": getattr(thing, name) for name in _OF_A_SHAPE}
    relation = None if claim.relation is None else list(RELATIONS).index(claim.relation)
    said |= {"relation": relation, **{name: getattr(claim, name) for name in ("background", "direction", "speed")}}
    return {name: 0 if value is None else 1 + value for name, value in said.items()}
