"""A loaded model: its network and its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from difflab.core.schedule import Schedule
from difflab.errors import DifflabError
from difflab.hashing import hash_weights
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.card import Card
from difflab.zoo.classifier import Classifier
from difflab.zoo.codec import Codec, LatentCodec, PixelCodec
from difflab.zoo.families import FAMILIES, Family, UNet3DConfig
from difflab.zoo.text import TextEncoder, open_text_encoder
from difflab.zoo.weights import fill


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its card.

    `network(x, t)`, or `network(x, t, y)` where it is told classes y (B,) int64, answers as the official network does:
    x (B, C, H, W) float32 in model space, t (B,). classifier: what may guide it, see `guided_by`.
    """

    network: nn.Module
    card: Card
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    classifier: Classifier | None = None

    @property
    def family(self) -> Family:
        """The row of `FAMILIES` this model belongs to."""
        return FAMILIES[self.card.family]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample in model space."""
        return self.card.network.sample_shape

    def with_frames(self, frames: int | None) -> Model:
        """The same model for clips of another length; None is the length it was trained on.

        Raises DifflabError for a model of pictures, and for a number that is not positive.
        """
        if frames is None:
            return self
        network = self.card.network
        if not isinstance(network, UNet3DConfig):
            raise DifflabError(f"{self.card.name}: is a model of pictures, which have no frames; leave them out.")
        if frames < 1:
            raise DifflabError(f"{self.card.name}: {frames} frames were asked for, but a clip has at least one.")
        longer = self.card.model_copy(update={"network": network.model_copy(update={"num_frames": frames})})
        return replace(self, card=longer)

    def guided_by(self, classifier: Classifier) -> Model:
        """The same model with a noisy classifier beside it, on its device.

        Raises DifflabError where it looks at other samples, or tells other classes than the model is told.
        """
        name, told = self.card.name, self.card.network.classes
        if classifier.shape != self.shape:
            raise DifflabError(
                f"{name}: draws samples {_by(self.shape)}, but the classifier {classifier.name} looks at "
                f"{_by(classifier.shape)}; give one of the model's own resolution."
            )
        if self.card.network.condition_width is not None:
            raise DifflabError(f"{name}: is told captions, but a classifier knows classes alone; leave it out.")
        if told is not None and told != classifier.classes:
            raise DifflabError(
                f"{name}: is told {told} classes, but the classifier {classifier.name} knows {classifier.classes}; "
                "give one of the model's own classes."
            )
        return replace(self, classifier=classifier)

    @property
    def classes(self) -> int | None:
        """How many classes samples can be asked for by; those of the classifier where only that is told them."""
        own = self.card.network.classes
        return own if own is not None or self.classifier is None else self.classifier.classes

    @property
    def frames(self) -> int | None:
        """Frames of a sample; None for a model of pictures."""
        return self.shape[1] if len(self.shape) == 4 else None

    @property
    def steps(self) -> int:
        """Sampler steps where none are asked for: the family's own, or all there are."""
        return min(self.family.steps, self.schedule.timesteps)

    @property
    def bounded(self) -> bool:
        """Whether model space is [-1, 1], so that samplers that clamp x0 clamp it there; latents are not bounded."""
        return self.card.codec is None

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule it was trained with."""
        return self.card.schedule.build()

    @cached_property
    def codec(self) -> Codec:
        """From model space to pixels; the autoencoder of a latent model is opened when it is first needed."""
        codec = self.card.codec
        if codec is None:
            return PixelCodec(self.card.rounding)
        autoencoder = open_autoencoder(codec.vae, self.device)
        found, due = (autoencoder.channels, autoencoder.factor), (self.shape[0], codec.factor)
        if found != due:
            raise DifflabError(
                f"{self.card.name}: {codec.vae} has latents of {found[0]} channels, one for {found[1]} pixels a side, "
                f"but this model needs {due[0]} and {due[1]}; give the autoencoder it was trained with."
            )
        if codec.sha256 is not None and autoencoder.weights_hash() != codec.sha256:
            raise DifflabError(
                f"{self.card.name}: {codec.vae} is not the autoencoder this model was trained with; give that one with "
                "--vae, or train the model again."
            )
        return LatentCodec(autoencoder, codec.scale, self.card.rounding)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """What reads its captions. Raises DifflabError where there is none, or not the one it was trained with."""
        name, text = self.card.name, self.card.text
        if text is None:
            raise DifflabError(f"{name}: is told no captions; leave the prompt out.")
        encoder = open_text_encoder(text.encoder, self.device)
        if encoder.width != self.card.network.condition_width:
            raise DifflabError(
                f"{name}: {text.encoder} makes vectors of {encoder.width} numbers, but this model takes "
                f"{self.card.network.condition_width}; give the text encoder it was trained with."
            )
        if text.sha256 is not None and encoder.weights_hash() != text.sha256:
            raise DifflabError(
                f"{name}: {text.encoder} is not the text encoder this model was trained with; give that one with "
                "--text-encoder, or train the model again."
            )
        return encoder

    def read(self, prompts: Sequence[str]) -> Tensor:
        """What the network is told for these prompts: (B, 1 + L, W), or (B, W) where it reads no tokens.

        An empty prompt is none. Raises DifflabError for a prompt that cannot be read.
        """
        unlike = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        made = self.text_encoder.encode(list(unlike))[[unlike[prompt] for prompt in prompts]]
        return made if self.card.network.reads_tokens else made[:, 0]

    @cached_property
    def weights_hash(self) -> str:
        """Hex SHA-256 over the names and values of all weights: the same for every file format they come in."""
        return hash_weights(self.network.state_dict())


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def build_model(
    card: Card, state: Mapping[str, Tensor], device: str | torch.device = "cpu", where: str | None = None
) -> Model:
    """A model from its card and a complete state dict, which came from `where`; see `zoo.weights.fill`."""
    network = fill(lambda: FAMILIES[card.family].build(card.network), state, device, where or card.name)
    return Model(network, card, torch.device(device))
