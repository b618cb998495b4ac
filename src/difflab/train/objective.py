"""What a training minimises: one class for each kind of recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.core.denoiser import Estimate
from difflab.core.loss import antithetic_timesteps, diffusion_loss, hybrid_terms, lognormal_timesteps
from difflab.core.posterior import Posteriors
from difflab.core.schedule import Places
from difflab.data.captions import WORDS, clip_captions, scene_captions
from difflab.data.dataset import Captioned, Dataset
from difflab.data.latents import Latents
from difflab.data.transforms import Dequantization, dequantize, rescale, scale_unit
from difflab.errors import DifflabError
from difflab.nets.autoencoder import KLAutoencoder, Posterior
from difflab.nets.dit import DiT
from difflab.nets.text import SmallText
from difflab.score.features import SmallFeatures, SmallFeaturesConfig
from difflab.train.answers import READ, claimed, motion_targets, scene_targets
from difflab.train.config import AnyRecipe, AutoencoderRecipe, DiffusionRecipe, FeaturesRecipe, TextRecipe
from difflab.train.draws import Draws, Of
from difflab.train.feed import Batch
from difflab.train.latents_denoiser import LatentsDenoiser
from difflab.train.motions_denoiser import MotionsDenoiser, known_of_captions, known_of_classes
from difflab.train.shapes_denoiser import ShapesDenoiser
from difflab.train.start import begin_with
from difflab.zoo.autoencoder import Autoencoder, open_autoencoder
from difflab.zoo.captions import CaptionCache
from difflab.zoo.codec import encode, encode_moments
from difflab.zoo.families import FAMILIES
from difflab.zoo.text import SmallTextConfig, TextEncoder, TransformersEncoder, open_text_encoder

Drawn = tuple[Tensor, ...]  # everything a loss needs of a batch, each (B, ..)
Exact = ShapesDenoiser | MotionsDenoiser | LatentsDenoiser


class Objective(Protocol):
    """Builds its network, draws what a step needs, and gives the loss of any part of that.

    Drawing comes first, before a batch is taken in parts, and `draws` gives each sample what its place in the batch of
    all processes has, so that the loss of the whole batch is the mean of that of any equal parts.
    `asks_a_network` tells whether it computes on the device, `looks` whether it needs the pictures of a batch.
    """

    asks_a_network: bool
    looks: bool

    def build(self) -> nn.Module: ...

    def draw(self, batch: Batch, draws: Draws, device: torch.device) -> Drawn: ...

    def loss(self, network: nn.Module, drawn: Drawn) -> Tensor: ...


class DiffusionObjective:
    """The error of the predicted noise, x0 or v; where the variance is learned, beside it the bound's term."""

    looks = True

    def __init__(self, recipe: DiffusionRecipe) -> None:
        self.recipe = recipe
        self.schedule = recipe.schedule.build()
        self.posteriors = Posteriors.of(self.schedule) if recipe.network.learns_variance else None
        self.denoiser: Exact | None = None
        self.before: dict[str, Any] = {}  # the training of the model that it starts from, where that is known
        self.autoencoder: Autoencoder | None = None
        self.text_encoder: TextEncoder | None = None
        self.asks_a_network = recipe.autoencoder is not None  # text encoders, without convolutions, share no settings

    def build(self) -> nn.Module:
        """The network with its initial weights, or those of the model that it starts from."""
        network = FAMILIES[self.recipe.family].build(self.recipe.network)
        if self.recipe.start is not None:
            card = begin_with(network, self.recipe.network, self.recipe.start, self.recipe.text_encoder)
            self.before = card.training
        if isinstance(network, DiT):
            network.checkpointing = self.recipe.checkpointing
        return network

    def draw(self, batch: Batch, draws: Draws, device: torch.device) -> Drawn:
        """Data in model space, timesteps and noise; for a network that is told classes or captions, these, some of them
        hidden; and where the exact mean is learned, what they say."""
        denoiser, x0 = self.opened_denoiser(device), self._model_space(batch, draws, device)
        t = self._timesteps(draws).to(device)
        eps = draws.normal(Of.NOISE, x0.shape[1:]).to(device)
        drawn = [x0, t, eps]
        if self.recipe.network.classes is not None:
            labels = self._labels(batch, draws).to(device)
            drawn.append(labels)
        elif self.recipe.text_encoder is not None:
            captions = self._captions(batch, draws)
            drawn.append(self.told(captions, device))
        if isinstance(denoiser, MotionsDenoiser) and len(drawn) > 3:
            known = known_of_captions(captions) if self.recipe.text_encoder else known_of_classes(labels)
            drawn.append(known.to(device))
        elif isinstance(denoiser, LatentsDenoiser) and len(drawn) > 3:
            drawn.append(labels)  # it knows the class where the network is told it
        return tuple(drawn)

    def loss(self, network: nn.Module, drawn: Drawn) -> Tensor:
        """Mean loss of what was drawn."""
        x0, t, eps, *more = drawn
        told, known = more[:1], more[1] if len(more) > 1 else None
        beside = {"images": self.recipe.data.images} if self.recipe.data.images else {}

        def answer(x: Tensor, t: Tensor) -> Tensor:
            return network(x, t, *told, **beside)

        r, exact = self.recipe, self._denoiser(x0.device, known)
        if self.posteriors is not None:
            error, bound = hybrid_terms(answer, x0, t, eps, self.schedule, self.posteriors, exact)
            return (error + bound).mean()
        return diffusion_loss(answer, x0, t, eps, self.schedule, r.prediction, r.reduction, r.weighting, exact, r.error)

    def _denoiser(self, device: torch.device, known: Tensor | None) -> Callable[[Tensor, Places], Estimate] | None:
        """The exact denoiser, told what the network is."""
        denoiser = self.opened_denoiser(device)
        if isinstance(denoiser, MotionsDenoiser):
            return partial(denoiser, known=known)
        return partial(denoiser, labels=known) if isinstance(denoiser, LatentsDenoiser) else denoiser

    def opened_denoiser(self, device: torch.device) -> Exact | None:
        """The exact denoiser of data whose mean is learned, made once; that of latents encodes the whole world."""
        r = self.recipe
        if r.target == "exact" and self.denoiser is None:
            if (autoencoder := self.opened_autoencoder(device)) is not None:
                self.denoiser = LatentsDenoiser.of_shapes(autoencoder, device)
            else:
                self.denoiser = ShapesDenoiser() if r.data.frames is None else MotionsDenoiser(r.data.frames)
            self.denoiser.to(device)
        return self.denoiser

    def opened_autoencoder(self, device: torch.device) -> Autoencoder | None:
        """The autoencoder of a latent model, opened once. Raises DifflabError if its latents do not fit the network."""
        if self.recipe.autoencoder is not None and self.autoencoder is None:
            self.autoencoder = open_autoencoder(self.recipe.autoencoder, device)
            factor, side = self.autoencoder.factor, self.recipe.data.size
            found, due = self.recipe.network.sample_shape, (self.autoencoder.channels, side // factor, side // factor)
            if found != due or side % factor:
                raise DifflabError(
                    f"{self.recipe.name}: the network takes {found}, but pictures of {side} pixels have latents {due} "
                    f"in {self.recipe.autoencoder}; set network.input_size, in_channels and data.size to fit."
                )
        return self.autoencoder

    def opened_text_encoder(self, device: torch.device) -> TextEncoder | None:
        """What reads the captions, opened once. Raises DifflabError if its vectors do not fit the network."""
        name, due = self.recipe.text_encoder, self.recipe.network.condition_width
        if name is not None and self.text_encoder is None:
            self.text_encoder = open_text_encoder(name, device)
            if self.text_encoder.width != due:
                raise DifflabError(
                    f"{self.recipe.name}: {name} makes vectors of {self.text_encoder.width} numbers, but "
                    f"network.cond_dim is {due}; set it to {self.text_encoder.width}."
                )
        return self.text_encoder

    def read_ahead(
        self, dataset: Dataset | Latents, device: torch.device, watch: Callable[[int, int], None] | None = None
    ) -> None:
        """Open the text encoder and, if it is one of transformers, let it read all captions of the data, or find on the
        disk what it said of them before; see `zoo.captions`. Ours is quick, and the captions of `shapes` have no end.

        `watch` is told how many captions are read, of how many. Raises DifflabError as `opened_text_encoder` does.
        """
        encoder = self.opened_text_encoder(device)
        if isinstance(encoder, TransformersEncoder) and isinstance(dataset, Captioned):
            cache = CaptionCache(encoder, device)
            cache.add((text for index in range(len(dataset)) for text in dataset.captions_of(index)), watch)
            self.text_encoder = cache

    def _captions(self, batch: Batch, draws: Draws) -> list[str]:
        """Captions, the hidden ones empty."""
        assert batch.captions is not None
        hidden = self._hidden(draws).tolist()
        return ["" if h else caption for caption, h in zip(batch.captions, hidden, strict=True)]

    def _hidden(self, draws: Draws) -> Tensor:
        """(B,) bool: of which samples the network is not told."""
        share = torch.rand(draws.whole, generator=draws.generator(Of.HIDDEN))[draws.own]
        return share < self.recipe.network.hidden_share

    def told(self, captions: list[str], device: torch.device) -> Tensor:
        """What the network is told of captions, (B, 1 + L, W), or (B, W) where it reads no tokens."""
        encoder = self.opened_text_encoder(device)
        assert encoder is not None
        made = encoder.encode(captions)
        return made if self.recipe.network.reads_tokens else made[:, 0]

    def _model_space(self, batch: Batch, draws: Draws, device: torch.device) -> Tensor:
        autoencoder = self.opened_autoencoder(device)
        if autoencoder is None:
            return _pixels(batch.pictures, self.recipe.data.dequantization, draws).to(device)
        if batch.moments is None:
            posterior = encode_moments(autoencoder, batch.pictures, device)
        else:
            posterior = Posterior(*torch.from_numpy(batch.moments).to(device).chunk(2, dim=1))
        if self.recipe.target == "exact":
            return posterior.mean * autoencoder.scale
        noise = draws.normal(Of.LATENTS, posterior.mean.shape[1:])
        return posterior.sample(noise.to(device)) * autoencoder.scale

    def _timesteps(self, draws: Draws) -> Tensor:
        n, generator = draws.whole, draws.generator(Of.TIMESTEPS)
        if self.recipe.noise_level is not None:  # lognormal
            return lognormal_timesteps(n, self.schedule, *self.recipe.noise_level, generator)[draws.own]
        draw = antithetic_timesteps if self.recipe.timesteps == "antithetic" else _uniform_timesteps
        return draw(n, self.schedule.timesteps, generator)[draws.own]

    def _labels(self, batch: Batch, draws: Draws) -> Tensor:
        """Class numbers (B,); with one class all are 0. Hidden ones, and samples that have none, are the null class (Ho
        and Salimans 2022)."""
        network = self.recipe.network
        y = (
            torch.zeros(len(batch.labels), dtype=torch.int64)
            if network.classes == 1
            else torch.from_numpy(batch.labels)
        )
        if network.null_class is None:
            return y
        return torch.where(self._hidden(draws) | (y < 0), network.null_class, y)


class FeaturesObjective:
    """Cross entropy over the heads of a feature network, on pictures with some noise mixed in."""

    asks_a_network, looks = False, True

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self.recipe = recipe

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        r = self.recipe
        return SmallFeatures(SmallFeaturesConfig(r.width, r.dim, dict(r.heads), r.data.frames is not None))

    def draw(self, batch: Batch, draws: Draws, device: torch.device) -> Drawn:
        """Pictures with noise, the right answer of each head, and what it counts."""
        x = encode(batch.pictures)
        share = torch.rand(draws.whole, generator=draws.generator(Of.SHARES))[draws.own] * self.recipe.noise
        x = torch.lerp(x, draws.normal(Of.NOISE, x.shape[1:]), share.reshape(-1, *[1] * (x.ndim - 1)))
        answers = self._answers(batch, draws)
        targets, weights = zip(*(answers[head] for head in self.recipe.heads), strict=True)
        return tuple(part.to(device) for part in (x, *targets, *weights))

    def loss(self, network: nn.Module, drawn: Drawn) -> Tensor:
        """Mean loss of what was drawn."""
        x, *answers = drawn
        targets, weights = answers[: len(self.recipe.heads)], answers[len(self.recipe.heads) :]
        logits = network(x)
        losses = [
            (weight * F.cross_entropy(logits[head].float(), target, ignore_index=-1, reduction="none")).mean()
            for head, target, weight in zip(self.recipe.heads, targets, weights, strict=True)
        ]
        return torch.stack(losses).sum()

    def _answers(self, batch: Batch, draws: Draws) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each head, answers (B,), -1 where there is none, and weights (B,), with which a mean over the whole batch
        is one over the samples that have an answer."""
        data = self.recipe.data
        if data.source != "shapes":
            labels = torch.from_numpy(batch.labels)
            return {head: (labels, torch.ones(len(labels))) for head in self.recipe.heads}
        targets = scene_targets if data.frames is None else motion_targets
        together = targets(data.seed, batch.indices if batch.together is None else batch.together)
        weights = {head: len(found) / max(1, int((found >= 0).sum())) for head, found in together.items()}
        own = {head: found[draws.own] for head, found in together.items()}
        return {head: (found, torch.full((len(found),), weights[head])) for head, found in own.items()}


class TextObjective:
    """Cross entropy of what a sentence asks for, for sentences about scenes and about clips in turn."""

    asks_a_network, looks = False, False

    def __init__(self, recipe: TextRecipe) -> None:
        self.recipe = recipe
        self.config = SmallTextConfig(
            words=WORDS, width=recipe.width, depth=recipe.depth, heads=recipe.heads, length=recipe.length,
            targets=READ,
        )  # fmt: skip
        self.network = SmallText(**self.config.model_dump())

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        return self.network

    def draw(self, batch: Batch, draws: Draws, device: torch.device) -> Drawn:
        """Word numbers of sentences, and the right answer to each question."""
        seed, odd = self.recipe.data.seed, batch.indices % 2 == 1
        scenes = iter(scene_captions(seed, batch.indices[~odd]))
        clips = iter(clip_captions(seed, batch.indices[odd]))
        texts = [next(clips if o else scenes) for o in odd]
        answers = [claimed(text) for text in texts]
        numbers, _ = self.network.numbered(texts)
        targets = (torch.tensor([answer[name] for answer in answers]) for name in READ)
        return tuple(part.to(device) for part in (numbers, *targets))

    def loss(self, network: nn.Module, drawn: Drawn) -> Tensor:
        """Mean loss of what was drawn."""
        numbers, *targets = drawn
        logits = network(numbers).answers
        losses = [F.cross_entropy(logits[name].float(), target) for name, target in zip(READ, targets, strict=True)]
        return torch.stack(losses).sum()


class AutoencoderObjective:
    """Squared error of the reconstruction and the KL divergence; see `AutoencoderRecipe`."""

    asks_a_network, looks = False, True

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        self.recipe = recipe

    def build(self) -> nn.Module:
        """The network with its initial weights."""
        return KLAutoencoder(**self.recipe.network.model_dump())

    def draw(self, batch: Batch, draws: Draws, device: torch.device) -> Drawn:
        """Pictures, and the noise of their latents."""
        x = encode(batch.pictures).contiguous(memory_format=torch.channels_last)
        return x.to(device), draws.normal(Of.LATENTS, self.recipe.network.latent_shape).to(device)

    def loss(self, network: nn.Module, drawn: Drawn) -> Tensor:
        """Mean loss of what was drawn."""
        x, noise = drawn
        reconstruction, posterior = network(x, noise)
        return F.mse_loss(reconstruction.float(), x) + self.recipe.kl_weight * posterior.kl().mean()


def make_objective(recipe: AnyRecipe) -> Objective:
    """The objective of a recipe."""
    if isinstance(recipe, DiffusionRecipe):
        return DiffusionObjective(recipe)
    if isinstance(recipe, AutoencoderRecipe):
        return AutoencoderObjective(recipe)
    if isinstance(recipe, TextRecipe):
        return TextObjective(recipe)
    return FeaturesObjective(recipe)


def _pixels(pictures: np.ndarray, dequantization: Dequantization | None, draws: Draws) -> Tensor:
    """Pixels (B, .., C) uint8 -> (B, C, ..) float32 in [-1, 1], each grey level spread if asked for."""
    if dequantization is None:
        return encode(pictures)
    draw = draws.uniform if dequantization == "uniform" else draws.normal
    noise = draw(Of.GREYS, pictures.shape[1:]).numpy()
    return torch.from_numpy(rescale(dequantize(scale_unit(pictures), noise, dequantization))).movedim(-1, 1)


def _uniform_timesteps(n: int, timesteps: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, timesteps, (n,), generator=generator)
