"""Autoencoders, which carry latent models to pixels and back: ours, and those of Stable Diffusion through diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Gt, MinLen, MultipleOf
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from difflab.errors import DifflabError, suggest
from difflab.hashing import hash_weights
from difflab.hub import from_hub, is_hub_id, need, reading
from difflab.nets.autoencoder import KLAutoencoder, Posterior
from difflab.precision import full_precision
from difflab.zoo.card import CodecConfig
from difflab.zoo.checkpoint import read_part
from difflab.zoo.diffusers_folder import json_file
from difflab.zoo.families import Positive
from difflab.zoo.registry import find, known
from difflab.zoo.weights import fill

KIND = "autoencoder"


class Autoencoder(Protocol):
    """Pictures (B, 3, H, W) float in [-1, 1] <-> latents (B, C, H / factor, W / factor)."""

    @property
    def factor(self) -> int:
        """Pixels of the side that one latent stands for."""
        ...

    @property
    def channels(self) -> int:
        """C, of a latent."""
        ...

    @property
    def scale(self) -> float:
        """What latents are multiplied by, so that a diffusion model sees about unit variance."""
        ...

    def encode(self, x: Tensor) -> Posterior: ...
    def decode(self, z: Tensor) -> Tensor: ...
    def weights_hash(self) -> str: ...


class AutoencoderConfig(BaseModel):
    """Arguments of `nets.autoencoder.KLAutoencoder`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Positive = 32
    channels: Positive = 3
    latent_channels: Positive = 4
    widths: Annotated[tuple[Annotated[int, Gt(0), MultipleOf(8)], ...], MinLen(1)] = (32, 64)
    blocks: Positive = 1
    patch: Positive = 2

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        if self.image_size % self.factor:
            raise ValueError(
                f"image_size is {self.image_size}, but these levels and patches need a multiple of {self.factor}"
            )
        return self

    @property
    def factor(self) -> int:
        """Pixels of the side that one latent stands for."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of the latents of one picture."""
        return (self.latent_channels, self.image_size // self.factor, self.image_size // self.factor)


class AutoencoderCard(BaseModel):
    """Everything about an autoencoder of ours that is not in its weights. scale: see `Autoencoder`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = KIND
    name: str
    network: AutoencoderConfig
    scale: Annotated[float, Gt(0.0)]
    training: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class SmallAutoencoder:
    """One of ours, in evaluation mode."""

    network: KLAutoencoder
    card: AutoencoderCard

    @property
    def factor(self) -> int:
        return self.card.network.factor

    @property
    def channels(self) -> int:
        return self.card.network.latent_channels

    @property
    def scale(self) -> float:
        return self.card.scale

    @torch.no_grad()
    def encode(self, x: Tensor) -> Posterior:
        with full_precision():
            return self.network.encode(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        with full_precision():
            return self.network.decode(z)

    def weights_hash(self) -> str:
        return hash_weights(self.network.state_dict())


@dataclass(frozen=True)
class DiffusersAutoencoder:
    """diffusers' AutoencoderKL, in evaluation mode: the autoencoders of Stable Diffusion."""

    network: Any

    @property
    def factor(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.network.config.latent_channels

    @property
    def scale(self) -> float:
        return self.network.config.scaling_factor

    @torch.no_grad()
    def encode(self, x: Tensor) -> Posterior:
        with full_precision():
            found = self.network.encode(x).latent_dist
        return Posterior(found.mean, found.logvar)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        with full_precision():
            return self.network.decode(z).sample

    def weights_hash(self) -> str:
        return hash_weights(self.network.state_dict())


def open_autoencoder(source: str, device: str | torch.device = "cpu") -> Autoencoder:
    """An autoencoder by name, path or hub id.

    Args:
        source: the name of one that ships or was trained here, such as `shapes-vae`; a .safetensors of ours; a folder
            in the diffusers layout (config.json and weights), or one that holds it as `vae`; else a model of the
            Hugging Face hub, such as `stabilityai/sd-vae-ft-ema`, from its cache on this machine or by download.
        device: where it is to run.

    Raises DifflabError for what is not there, damaged, or something else.
    """
    entry = find(source)
    path = entry.require() if entry and entry.kind == "autoencoder" else Path(source).expanduser()
    if path.is_file():
        return _read_ours(path, device)
    if path.is_dir():
        return _from_folder(path / "vae" if (path / "vae").is_dir() else path, device)
    if is_hub_id(source):
        return from_hub(source, "autoencoder", partial(_from_pretrained, device=device))
    raise DifflabError(
        f"{source}: no such autoencoder; give a folder in the diffusers layout, a hub id such as "
        f"stabilityai/sd-vae-ft-ema, or one of the names here.{suggest(source, known('autoencoder'))}"
    )


def _read_ours(path: Path, device: str | torch.device) -> SmallAutoencoder:
    card, state = read_part(path, AutoencoderCard, KIND, "an autoencoder")
    network = fill(lambda: KLAutoencoder(**card.network.model_dump()), state, device, str(path))
    return SmallAutoencoder(network, card)


def _from_folder(path: Path, device: str | torch.device) -> DiffusersAutoencoder:
    if not (path / "config.json").is_file():
        raise DifflabError(
            f"{path}: has no config.json, which says how the autoencoder is built; give a folder in diffusers' layout."
        )
    name = json_file(path / "config.json").get("_class_name")
    if name != "AutoencoderKL":
        raise DifflabError(f"{path}: config.json names the class {name!r}, but an AutoencoderKL is needed.")
    return _from_pretrained(str(path), device, local_files_only=True)


def _from_pretrained(source: str, device: str | torch.device, **options: Any) -> DiffusersAutoencoder:
    need("diffusers", source, "an autoencoder of Stable Diffusion")
    from diffusers import AutoencoderKL

    with reading("diffusers", source, "autoencoder", "a complete folder in the diffusers layout"):
        network = AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32, **options)
    network.eval().requires_grad_(False)
    return DiffusersAutoencoder(network.to(device, memory_format=torch.channels_last))


def codec_of(source: str, device: str | torch.device = "cpu") -> CodecConfig:
    """The codec of a model that is trained on the latents of an autoencoder."""
    return codec_config(source, open_autoencoder(source, device))


def codec_config(source: str, autoencoder: Autoencoder) -> CodecConfig:
    """The codec of a model that is trained on the latents of this autoencoder, which `source` names."""
    digest = autoencoder.weights_hash()
    return CodecConfig(vae=source, scale=autoencoder.scale, factor=autoencoder.factor, sha256=digest)
