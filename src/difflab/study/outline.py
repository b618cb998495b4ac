"""A study in outline: its networks without weights, known by name, so that it can be planned where nothing of it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import difflab
from difflab.errors import DifflabError, suggest
from difflab.score.extractors import (
    CLIPS_AT_ONCE,
    FVD_FEATURES,
    INCEPTION,
    Extractor,
    I3DExtractor,
    InceptionExtractor,
    SmallExtractor,
)
from difflab.score.i3d import I3D
from difflab.score.inception import InceptionFID
from difflab.study.bench import Bench
from difflab.study.features import choose_features, open_extractor
from difflab.study.shelf import Shelf
from difflab.study.spec import Settings, Study, View
from difflab.study.store import Store
from difflab.study.work import Work, gradient, work_of
from difflab.train.config import AutoencoderRecipe, DiffusionRecipe, read_recipe
from difflab.zoo.card import Card, CodecConfig, TextConfig
from difflab.zoo.codec import PIXELS_AT_ONCE
from difflab.zoo.families import FAMILIES
from difflab.zoo.model import Model
from difflab.zoo.outline import (
    META,
    known_card,
    outline_autoencoder,
    outline_classifier,
    outline_decoder,
    outline_of,
)
from difflab.zoo.registry import find, known_names
from difflab.zoo.text import open_text_encoder

_USUAL_TOKENS = 77  # of a caption, as CLIP reads it


@dataclass(frozen=True, eq=False)
class Outline:
    """A bench whose networks have no weights, and the autoencoder of a latent model, None where it is not known."""

    bench: Bench
    decoder: nn.Module | None

    @property
    def model(self) -> Model:
        """The model, without weights."""
        return self.bench.model

    def network(self, settings: Settings) -> Work:
        """The work of the network in a cell: of the pass about a whole batch, twice as many rows where guided."""
        model, rows = self.bench.model_of(settings), self.rows
        return self._network(model.shape, 2 * rows if settings.guidance != 1.0 else rows, False)

    def completing(self, settings: Settings) -> Work:
        """The same with the gradient of reconstruction guidance, as blocks after the first have it."""
        model, rows = self.bench.model_of(settings), self.rows
        return self._network(model.shape, 2 * rows if settings.guidance != 1.0 else rows, True)

    @cache  # noqa: B019 (an outline is made once a plan)
    def _network(self, shape: tuple[int, ...], rows: int, graded: bool) -> Work:
        network, x = self.model.network, torch.zeros(rows, *shape, device=META)
        t, told = torch.zeros(rows, device=META), told_nothing(self.model, rows)

        def ask(x: Tensor) -> Tensor:
            return network(x, t, *told)

        return work_of(network, (lambda: gradient(ask, x)) if graded else (lambda: ask(x)), rows)

    @cached_property
    def classifier(self) -> Work | None:
        """The work of the classifier with its gradient."""
        classifier = self.bench.model.classifier
        if classifier is None:
            return None
        x, t = torch.zeros(self.rows, *classifier.shape, device=META), torch.zeros(self.rows, device=META)
        return work_of(classifier.network, lambda: gradient(lambda z: classifier(z, t), x), self.rows)

    @cached_property
    def decoding(self) -> Work | None:
        """The work of the decoder; None for a model of pixels, and where the autoencoder is not known."""
        if self.decoder is None:
            return None
        at_once = max(1, min(self.rows, PIXELS_AT_ONCE // self.model.card.side**2))
        latents = torch.zeros(at_once, *self.model.shape, device=META)
        return work_of(self.decoder, lambda: self.decoder.decode(latents), at_once)  # type: ignore[union-attr,operator]

    def features(self, settings: Settings, view: View | None = None) -> Work:
        """The work of the feature network on the samples of a cell, or on a view of them."""
        frames = self.bench.frames_of(settings)
        if view in ("window", "last"):
            frames = self.bench.study.window
        return self._features(None if view == "frames" else frames, view == "frames")

    @cache  # noqa: B019
    def _features(self, frames: int | None, of_frames: bool) -> Work:
        extractor = self.bench.extractor_of("frames" if of_frames else None)
        rows, side = min(self.rows, CLIPS_AT_ONCE) if extractor.clips else self.rows, self.model.card.side
        clips = () if frames is None else (frames,)
        pictures = torch.zeros(rows, *clips, side, side, 3, dtype=torch.uint8, device=META)
        network = extractor.network  # type: ignore[attr-defined]
        return work_of(network, lambda: look(extractor, pictures), rows)

    @property
    def rows(self) -> int:
        """Samples drawn at a time."""
        return min(self.bench.batch, self.bench.study.chunk)


def told_nothing(model: Model, rows: int) -> tuple[Tensor, ...]:
    """What a network is told besides x and t: class 0, or captions of zeros; (), where it is told nothing."""
    network, device = model.card.network, model.device
    if network.classes is not None:
        return (torch.zeros(rows, dtype=torch.int64, device=device),)
    if network.condition_width is None:
        return ()
    tokens = (1 + caption_tokens(model.card),) if network.reads_tokens else ()
    return (torch.zeros(rows, *tokens, network.condition_width, device=device),)


def caption_tokens(card: Card) -> int:
    """Tokens of a caption: as the encoder has it where it is ours and here, else as CLIP."""
    entry = find(card.text.encoder) if card.text is not None else None
    here = entry is not None and entry.kind == "text" and entry.path is not None
    return open_text_encoder(card.text.encoder).length if card.text is not None and here else _USUAL_TOKENS


def look(extractor: Extractor, pictures: Tensor) -> Any:
    """What a feature network says of uint8 pictures (B, H, W, 3) or clips (B, F, H, W, 3), left on their device."""
    network: Any = extractor.network  # type: ignore[attr-defined]
    if isinstance(network, I3D):
        return network(pictures)
    first = pictures.movedim(-1, 1)
    return network(first, ("2048", "logits_unbiased")) if isinstance(network, InceptionFID) else network.features(first)


def sketch(study: Study, batch: int) -> Outline:
    """The outline of a study.

    Raises DifflabError for a model, classifier or features that are neither here nor known by name, and for settings
    that do not fit them.
    """
    card, decoder = find_card(study)
    clips = len(card.network.sample_shape) == 4
    features = study.features or _usual_features(study.reference, card.side, clips)
    names = {features} | (
        {_usual_features(study.reference, card.side, False)} if "fid-frames" in study.metrics else set()
    )
    shelf = Shelf(
        str(META),
        _models={(study.model, study.config): outline_of(card)},
        _classifiers={study.classifier: outline_classifier(study.classifier)} if study.classifier else {},
        _extractors={name: outline_extractor(name) for name in names},
    )
    bench = _Sketched(study.model_copy(update={"features": features}), Store(Path()), shelf, batch)
    for settings in study.cells():
        bench.calls(settings)
    return Outline(bench, decoder)


class _Sketched(Bench):
    """A bench that chooses feature networks whether or not their weights are here."""

    @cached_property
    def picture_extractor(self) -> Extractor:
        return self.shelf.extractor(_usual_features(self.study.reference, self.model.card.side, False))


def _usual_features(reference: str, side: int, clips: bool) -> str:
    try:
        return choose_features(reference, side, clips)
    except DifflabError:  # its weights are not here
        return "i3d" if clips else INCEPTION


def outline_extractor(name: str, device: torch.device = META) -> Extractor:
    """A feature network; a published one has no weights, or random ones on a device that has values."""
    if name == INCEPTION:
        with device:
            state = InceptionFID().state_dict()
        return InceptionExtractor(InceptionFID.with_weights(state), "")
    if name in FVD_FEATURES:
        with device:
            network = I3D(FVD_FEATURES[name]).eval().requires_grad_(False)
        return I3DExtractor(network, "", name)
    opened = open_extractor(name)
    assert isinstance(opened, SmallExtractor)
    return replace(opened, network=opened.network.to(device))


def find_card(study: Study) -> tuple[Card, nn.Module | None]:
    """The card of a study's model, and the autoencoder of a latent one, None where that is not known.

    Looked for on this machine, among the official models, and among recipes, in `recipes/` here or of a checkout of
    difflab. Raises DifflabError where it is not found.
    """
    card = known_card(study.model, study.config)
    if card is None and (path := _recipe_file(study.model)) is not None:
        card = _card_of_recipe(read_recipe(path), path)
    if card is None:
        raise DifflabError(
            f"{study.model}: is not on this machine, and without it one cannot know how its network is built; give "
            f"another, or its recipe as recipes/{study.model}.yaml.{suggest(study.model, known_names())}"
        )
    return card, _decoder_of(card.codec) if card.codec is not None else None


def _decoder_of(codec: CodecConfig) -> nn.Module | None:
    if (path := _recipe_file(codec.vae)) is not None and find(codec.vae) is None:
        recipe = read_recipe(path)
        return outline_autoencoder(recipe.network) if isinstance(recipe, AutoencoderRecipe) else None
    return outline_decoder(codec)


def _recipe_file(name: str) -> Path | None:
    checkout = Path(difflab.__file__).parents[2]
    places = [root / "recipes" / f"{name}.yaml" for root in (Path(), checkout)]
    return next((place for place in places if place.is_file()), None)


def _card_of_recipe(recipe: Any, path: Path) -> Card:
    """The card that a training by this recipe will write, as far as it decides the work."""
    if not isinstance(recipe, DiffusionRecipe):
        raise DifflabError(f"{path}: trains no diffusion model but {recipe.kind}; give a model that draws samples.")
    codec = None
    if recipe.autoencoder is not None:
        factor = recipe.data.size // recipe.network.sample_shape[-1]
        codec = CodecConfig(vae=recipe.autoencoder, scale=1.0, factor=factor)
    text = None if recipe.text_encoder is None else TextConfig(encoder=recipe.text_encoder)
    return Card(
        name=recipe.name, family=recipe.family, network=recipe.network, codec=codec, text=text,
        schedule=recipe.schedule, prediction=recipe.prediction, variance=recipe.variance,
        rounding=FAMILIES[recipe.family].rounding, training={"recipe": recipe.model_dump(mode="json")},
    )  # fmt: skip
