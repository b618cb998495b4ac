"""What a training minimises: one class for each kind of recipe."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.core.loss import antithetic_timesteps, diffusion_loss
from difflab.data.dataset import Dataset
from difflab.data.shapes import BACKGROUNDS, COLOURS, COLUMNS, KINDS, ROWS, SIZES, sample_scenes
from difflab.data.transforms import Pixels, scale_unit
from difflab.errors import DifflabError, suggest
from difflab.score.features import SmallFeatures, SmallFeaturesConfig
from difflab.train.config import DiffusionRecipe, FeaturesRecipe
from difflab.train.feed import Batch
from difflab.train.shapes_denoiser import ShapesDenoiser
from difflab.zoo.codec import encode
from difflab.zoo.families import FAMILIES


class Objective(Protocol):
    """Builds its network and gives the loss of a batch."""

    def build(self) -> nn.Module: ...

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator, device: torch.device) -> Tensor: ...


class DiffusionObjective:
    """The error of the predicted noise, x0 or v; see `core.loss`."""

    def __init__(self, recipe: DiffusionRecipe) -> None:
        self.recipe = recipe
        self.schedule = recipe.schedule.build()
        self.denoiser = ShapesDenoiser() if recipe.target == "exact" else None

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        return FAMILIES[self.recipe.family].build(self.recipe.network)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator, device: torch.device) -> Tensor:
        """Loss of a batch, with all randomness from `generator`."""
        x0 = _model_space(batch.pictures, self.recipe.data.dequantization, generator)
        draw = antithetic_timesteps if self.recipe.timesteps == "antithetic" else _uniform_timesteps
        t = draw(len(x0), self.schedule.timesteps, generator).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        r, denoiser = self.recipe, self.denoiser.to(device) if self.denoiser else None
        return diffusion_loss(
            network, x0.to(device), t, eps, self.schedule, r.prediction, r.reduction, r.weighting, denoiser
        )


class FeaturesObjective:
    """Cross entropy over the heads of a feature network, on pictures with some noise mixed in."""

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self.recipe = recipe

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        return SmallFeatures(SmallFeaturesConfig(self.recipe.width, self.recipe.dim, dict(self.recipe.heads)))

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator, device: torch.device) -> Tensor:
        """Loss of a batch, with all randomness from `generator`."""
        x = encode(batch.pictures)
        share = torch.rand(len(x), 1, 1, 1, generator=generator) * self.recipe.noise
        x = torch.lerp(x, torch.randn(x.shape, generator=generator), share).to(device)
        logits = network(x)
        targets = self._targets(batch)
        losses = [
            F.cross_entropy(logits[head].float(), targets[head].to(device), ignore_index=-1)
            for head in self.recipe.heads
        ]
        return torch.stack(losses).sum()

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        if self.recipe.data.source == "shapes":
            return scene_targets(self.recipe.data.seed, batch.indices)
        return {head: torch.from_numpy(batch.labels) for head in self.recipe.heads}


_SHAPE_HEADS = {"kind": len(KINDS), "colour": len(COLOURS), "size": len(SIZES), "place": len(ROWS) * len(COLUMNS)}
SCENE_HEADS = {  # what can be asked of a scene, and how many answers there are
    "count": 2,
    "background": len(BACKGROUNDS),
    **{f"{shape} {name}": classes for shape in ("main", "other") for name, classes in _SHAPE_HEADS.items()},
}


def check_heads(recipe: FeaturesRecipe, dataset: Dataset) -> None:
    """Raise DifflabError unless `dataset` has the labels that the heads of `recipe` are to learn, in that number."""
    if recipe.data.source == "shapes":
        known = SCENE_HEADS
    else:
        known = dict.fromkeys(recipe.heads, _count_classes(dataset))
    for head, classes in recipe.heads.items():
        if head not in known:
            raise DifflabError(f"{recipe.name}: a scene has no attribute {head!r}.{suggest(head, known)}")
        if classes != known[head]:
            raise DifflabError(
                f"{recipe.name}: the head {head!r} has {classes} classes, but the data have {known[head]}; set "
                f"heads to {{{head}: {known[head]}}}."
            )


def _count_classes(dataset: Dataset) -> int:
    if dataset.classes is not None:
        return len(dataset.classes)
    labels = [dataset[i].label for i in range(len(dataset))] if dataset[0].label is not None else []
    known = [label for label in labels if label is not None]
    if not known or len(known) < len(labels) or min(known) < 0:
        raise DifflabError(f"{dataset.description}: has no labels to learn; give class folders, or an .npz with arr_1.")
    return max(known) + 1


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


def _model_space(
    pictures: np.ndarray, dequantization: Literal["uniform", "gaussian"] | None, generator: torch.Generator
) -> Tensor:
    """Pixels (B, H, W, C) uint8 -> (B, C, H, W) float32 in [-1, 1], each grey level spread if asked for."""
    if dequantization is None:
        return encode(pictures)
    draw = torch.rand if dequantization == "uniform" else torch.randn
    noise = draw(pictures.shape, generator=generator).numpy()
    return torch.from_numpy(Pixels(dequantization).forward(scale_unit(pictures), noise)).movedim(-1, 1)


def _uniform_timesteps(n: int, timesteps: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, timesteps, (n,), generator=generator)
