"""Whether data are what a recipe can learn from, asked before anything is trained."""

from __future__ import annotations

from difflab.data.dataset import Captioned, Dataset
from difflab.data.latents import Latents
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.errors import DifflabError, suggest
from difflab.train.answers import MOTION_HEADS, SCENE_HEADS
from difflab.train.config import AnyRecipe, DiffusionRecipe, FeaturesRecipe
from difflab.zoo.autoencoder import open_autoencoder

_LOOKED_AT = 1000  # items, for a caption


def check_data(recipe: AnyRecipe, dataset: Dataset | Latents) -> None:
    """Raise DifflabError unless the data are what the recipe can learn from."""
    if isinstance(recipe, DiffusionRecipe):
        _check_classes(recipe, dataset)
        _check_captions(recipe, dataset)
        if isinstance(dataset, Latents):
            _check_latents(recipe, dataset)
    elif isinstance(dataset, Latents):
        raise DifflabError(f"{recipe.name}: the data are latents, which only a diffusion model is trained on.")
    elif isinstance(recipe, FeaturesRecipe):
        _check_heads(recipe, dataset)


def _check_heads(recipe: FeaturesRecipe, dataset: Dataset) -> None:
    """Raise DifflabError unless `dataset` has the labels that the heads of `recipe` are to learn, in that number."""
    if recipe.data.source == "shapes":
        known = SCENE_HEADS if recipe.data.frames is None else MOTION_HEADS
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


def _check_classes(recipe: DiffusionRecipe, dataset: Dataset | Latents) -> None:
    """Raise DifflabError unless the labels of `dataset` are classes that the network of `recipe` is told apart by."""
    told = recipe.network.classes
    if told is None or told == 1:  # one class is no class
        return
    found = dataset.count_classes() if isinstance(dataset, Latents) else _count_classes(dataset)
    if found > told:
        raise DifflabError(
            f"{recipe.name}: the data have {found} classes, but the network is told {told} apart; set "
            f"network.num_classes to {found}."
        )


def _check_captions(recipe: DiffusionRecipe, dataset: Dataset | Latents) -> None:
    """Raise DifflabError where the network is to be told captions and the data have none."""
    if recipe.text_encoder is None or isinstance(dataset, Shapes | ShapesClips):
        return
    told = isinstance(dataset, Captioned) and any(dataset.captions_of(i) for i in range(min(len(dataset), _LOOKED_AT)))
    if not told:
        raise DifflabError(
            f"{recipe.name}: has a text_encoder, but the data ({dataset.description}) have no captions; give such as "
            "MS-COCO or Something-Something V2, or leave text_encoder out."
        )


def _check_latents(recipe: DiffusionRecipe, latents: Latents) -> None:
    """Raise DifflabError unless stored latents are of the recipe's autoencoder and size."""
    if recipe.autoencoder is None:
        raise DifflabError(f"{recipe.name}: the data are latents, so autoencoder must name what made them.")
    if latents.record["autoencoder"] != open_autoencoder(recipe.autoencoder).weights_hash():
        raise DifflabError(
            f"{recipe.name}: the latents were made by another autoencoder ({latents.record['vae']}) than "
            f"{recipe.autoencoder}; set autoencoder to it, or make them again."
        )
    if latents.record["size"] != recipe.data.size:
        raise DifflabError(
            f"{recipe.name}: the latents are of pictures of {latents.record['size']} pixels, but data.size is "
            f"{recipe.data.size}; set it alike."
        )


def _count_classes(dataset: Dataset) -> int:
    if dataset.classes is not None:
        return len(dataset.classes)
    labels = [dataset[i].label for i in range(len(dataset))] if dataset[0].label is not None else []
    known = [label for label in labels if label is not None]
    if not known or len(known) < len(labels) or min(known) < 0:
        raise DifflabError(f"{dataset.description}: has no labels to learn; give class folders, or an .npz with arr_1.")
    return max(known) + 1
