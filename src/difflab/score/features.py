"""A small feature network for small pictures: trained here on scenes whose attributes are known, shipped with difflab.

It reads a picture's attributes (shape, colour, place, ...) through one linear head each; what the heads read from is
the feature vector. About 23 MFLOP a picture at the default width, so that demo-scale studies can score on a CPU.
Distances in its features are "FD (name)", never FID.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from difflab.errors import DifflabError
from difflab.files import write_bytes
from difflab.precision import full_precision

SIZE = 32
KIND = "small-features"
_METADATA_KEY = "difflab"  # safetensors metadata are strings: ours is one JSON text under this key


@dataclass(frozen=True)
class SmallFeaturesConfig:
    """Shape of a `SmallFeatures` network.

    Attributes:
        width: channels of the first block, a multiple of 8; the next two have twice and four times as many.
        dim: number of features, a multiple of 8.
        heads: attribute -> number of its classes.
    """

    width: int = 32
    dim: int = 64
    heads: dict[str, int] = field(default_factory=dict)


class SmallFeatures(nn.Module):
    """Four convolutions 32 -> 32 -> 16 -> 8 -> 4 with group norm and SiLU, mean over space, linear heads.

    Group norm acts the same in training and evaluation, so features never depend on the batch around a sample.
    """

    def __init__(self, config: SmallFeaturesConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.trunk = nn.Sequential(
            _block(3, width, stride=1),
            _block(width, 2 * width, stride=2),
            _block(2 * width, 4 * width, stride=2),
            _block(4 * width, config.dim, stride=2),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(config.dim, classes) for name, classes in config.heads.items()})
        # Interleaved channels, here and in `prepare`, make it about 1.4 times as fast on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of every head for `x` (B, 3, 32, 32), floats in [-1, 1] as `prepare` makes them."""
        pooled = self._pooled(x)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, dim) features of uint8 images (B, 3, H, W) of any size."""
        with full_precision():
            return self._pooled(self.prepare(images))

    @property
    def classifies(self) -> bool:
        """Whether its heads tell the class."""
        return "class" in self.heads or {"main kind", "main colour"} <= set(self.heads)

    @torch.no_grad()
    def classified(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, dim), and log probabilities (B, classes) of the class; None without heads that tell it.

        A scene's class is its main shape's kind and colour, which two heads tell independently.
        """
        with full_precision():
            features = self._pooled(self.prepare(images))
            logs = {name: F.log_softmax(head(features), dim=1) for name, head in self.heads.items()}
        if "class" in logs:
            return features, logs["class"]
        if {"main kind", "main colour"} <= logs.keys():
            return features, (logs["main kind"][:, :, None] + logs["main colour"][:, None]).flatten(1)
        return features, None

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, 3, 32, 32) in [-1, 1], channels last in memory.

        Other sizes are brought to 32x32 by antialiased bilinear resize.
        Raises DifflabError for images that are not uint8 (B, 3, H, W).
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DifflabError(
                f"This network takes uint8 images of shape (B, 3, H, W), but got {images.dtype} {tuple(images.shape)}."
            )
        x = images.to(next(self.parameters()))
        if x.shape[2:] != (SIZE, SIZE):
            x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean(dim=(2, 3))


def save_small_features(path: Path, network: SmallFeatures, name: str) -> None:
    """Write `network` as safetensors with its configuration; `name` is what its distances are called by."""
    card = {"kind": KIND, "name": name, "config": asdict(network.config)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    write_bytes(path, save(tensors, metadata={_METADATA_KEY: json.dumps(card, sort_keys=True)}))


def load_small_features(path: Path, device: torch.device | str = "cpu") -> tuple[str, SmallFeatures]:
    """(name, network) from a file of `save_small_features`, in evaluation mode on `device`.

    Raises DifflabError when there is no such file, it is no safetensors file, or it holds something else.
    """
    if not path.is_file():
        raise DifflabError(f"{path}: no such file; expected the weights of a small feature network.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "{}")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise DifflabError(f"{path}: not a complete safetensors file ({error}); make or fetch it again.") from error
    try:
        card = json.loads(text)
        if card["kind"] != KIND:
            raise DifflabError(f"{path}: holds a {card['kind']!r}, expected a {KIND!r}.")
        network = SmallFeatures(SmallFeaturesConfig(**card["config"]))
        network.load_state_dict(state)
    except (KeyError, TypeError, json.JSONDecodeError, RuntimeError) as error:
        raise DifflabError(
            f"{path}: not a feature network of difflab, its card and its tensors do not fit; expected a file made by "
            "`difflab train`."
        ) from error
    return card["name"], network.to(device).eval().requires_grad_(False)


def _block(cin: int, cout: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False), nn.GroupNorm(8, cout), nn.SiLU())
