"""Models in outline: on the meta device, without weights, from what is known of them by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difflab.nets.adm import NoisyClassifier
from difflab.nets.autoencoder import KLAutoencoder
from difflab.validation import validated
from difflab.zoo.autoencoder import AutoencoderConfig, DiffusersAutoencoder, SmallAutoencoder, open_autoencoder
from difflab.zoo.card import Card, CodecConfig
from difflab.zoo.classifier import Classifier, open_classifier
from difflab.zoo.dit_files import SD_VAE
from difflab.zoo.dit_files import card_fields as dit_fields
from difflab.zoo.families import FAMILIES, DiTConfig
from difflab.zoo.load import read_model
from difflab.zoo.model import Model
from difflab.zoo.official import read_config
from difflab.zoo.registry import Entry, find
from difflab.zoo.sizes import adm_schedule, adm_size, dit_size

META = torch.device("meta")
_LSUN = "ADM-256-uncond"  # the shapes of guided-diffusion's models of LSUN
_ADM_NAMES = {
    **{f"adm-imagenet{side}": f"ADM-{side}" for side in (64, 128, 256, 512)},
    "adm-imagenet256-uncond": _LSUN, "adm-lsun": _LSUN,
    "iddpm-imagenet64-uncond": "IDDPM-64", "iddpm-imagenet64-cond": "IDDPM-64-cond", "iddpm-cifar10": "IDDPM-32",
    "iddpm-lsun-bedroom": "IDDPM-256",
}  # fmt: skip
# guided-diffusion's classifiers by their image size: blocks a level, and channels of each level over 128.
_CLASSIFIERS = {
    64: (4, (1, 2, 3, 4)), 128: (2, (1, 1, 2, 3, 4)), 256: (2, (1, 1, 2, 2, 4, 4)),
    512: (2, (0.5, 1, 1, 2, 2, 4, 4)),
}  # fmt: skip
_SD_DECODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 256,
}  # fmt: skip


def outline_of(card: Card) -> Model:
    """The model of a card without its weights."""
    with META:
        network = FAMILIES[card.family].build(card.network)
    return Model(network.eval().requires_grad_(False).to(META), card, META)  # some tables are made on the CPU


def known_card(source: str, config: str | None = None) -> Card | None:
    """The card of a model that is on this machine, or of an official one, which need not be; else None.

    Raises DifflabError for a file that cannot be read, or a configuration that does not fit.
    """
    entry = find(source)
    here = entry.path if entry is not None else Path(source)
    if here is not None and here.exists():
        return read_model(source, config=config)[0]
    if entry is None or entry.kind != "official":
        return None
    return validated(Card, {"name": entry.name, "weights": entry.weights, **_official_fields(entry)}, source)


def _official_fields(entry: Entry) -> dict[str, Any]:
    if entry.config is not None:
        return read_config(entry.config).card_fields()
    if entry.name.startswith("dit-"):
        side = int(entry.name.rsplit("x", 1)[1])
        network = DiTConfig(**dit_size("DiT-XL/2"), input_size=side // SD_VAE["factor"])  # type: ignore[arg-type,operator]
        return {"family": "dit", "network": network, **dit_fields(network.model_dump())}
    name = _ADM_NAMES[max((known for known in _ADM_NAMES if entry.name.startswith(known)), key=len)]
    network_fields = adm_size(name)
    variance = "learned" if network_fields["learn_sigma"] else "large"
    return {"family": "adm", "network": network_fields, "rounding": "floor", "variance": variance,
            "schedule": adm_schedule(name)}  # fmt: skip


def outline_decoder(codec: CodecConfig) -> nn.Module | None:
    """The autoencoder of a latent model, whose `decode` takes latents; None where its layers are not known here."""
    entry = find(codec.vae)
    if (entry is not None and entry.path is not None) or Path(codec.vae).exists():
        opened = open_autoencoder(codec.vae)
        assert isinstance(opened, SmallAutoencoder | DiffusersAutoencoder)
        return opened.network.to(META)
    if codec.factor == SD_VAE["factor"] and find_spec("diffusers") is not None:
        from diffusers import AutoencoderKL

        with META:
            network: Any = AutoencoderKL(**_SD_DECODER)
        return network.eval().requires_grad_(False)
    return None


def outline_autoencoder(config: AutoencoderConfig) -> nn.Module:
    """An autoencoder of ours without its weights."""
    with META:
        return KLAutoencoder(**config.model_dump()).eval().requires_grad_(False)


def outline_classifier(source: str) -> Classifier:
    """A noisy classifier without its weights: a released one by name, or one that is on this machine.

    Raises DifflabError for another.
    """
    entry = find(source)
    if entry is None or entry.kind != "classifier" or entry.path is not None:
        opened = open_classifier(source)
        return Classifier(opened.network.to(META), opened.name, opened.shape, opened.classes)
    side = int(entry.name.removeprefix("adm-classifier"))
    blocks, widths = _CLASSIFIERS[side]
    with META:
        network = NoisyClassifier(
            image_size=side, num_channels=128, num_res_blocks=blocks, channel_mult=widths,
            attention_resolutions=(32, 16, 8),
        )  # fmt: skip
    return Classifier(network.eval().requires_grad_(False).to(META), entry.name, (3, side, side), 1000)
