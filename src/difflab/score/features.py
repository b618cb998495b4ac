"""A small feature network for small pictures or clips, trained here on scenes whose attributes are known.

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
_CLASS = (("main kind", "main colour"), ("kind", "direction"))  # heads that together tell the class
_METADATA_KEY = "difflab"  # safetensors metadata are strings: ours is one JSON text under this key


@dataclass(frozen=True)
class SmallFeaturesConfig:
    """Shape of a `SmallFeatures` network.

    Attributes:
        width: channels of the first block, a multiple of 8; the next two have twice and four times as many.
        dim: number of features, a multiple of 8.
        heads: attribute -> number of its classes.
        clips: whether it looks at clips, whose frames its convolutions see together, instead of pictures.
    """

    width: int = 32
    dim: int = 64
    heads: dict[str, int] = field(default_factory=dict)
    clips: bool = False


class SmallFeatures(nn.Module):
    """Four convolutions 32 -> 32 -> 16 -> 8 -> 4 with group norm and SiLU, mean over space, linear heads.

    On clips the first one halves, too, and the third halves time; the mean is over time as well, so any number of
    frames will do.

    Group norm acts the same in training and evaluation, so features never depend on the batch around a sample.
    """

    def __init__(self, config: SmallFeaturesConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.clips:
            self.trunk = nn.Sequential(
                _clip_block(3, width, (1, 2, 2)),
                _clip_block(width, 2 * width, (1, 2, 2)),
                _clip_block(2 * width, 4 * width, (2, 2, 2)),
                _clip_block(4 * width, config.dim, (1, 1, 1)),
            )
        else:
            self.trunk = nn.Sequential(
                _block(3, width, stride=1),
                _block(width, 2 * width, stride=2),
                _block(2 * width, 4 * width, stride=2),
                _block(4 * width, config.dim, stride=2),
            )
        self.heads = nn.ModuleDict({name: nn.Linear(config.dim, classes) for name, classes in config.heads.items()})
        # Interleaved channels, here and in `prepare`, make it about 1.4 times as fast on a CPU.
        self.to(memory_format=torch.channels_last_3d if config.clips else torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of every head for `x` (B, 3, [T,] 32, 32), floats in [-1, 1] as `prepare` makes them."""
        pooled = self._pooled(x)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, dim) features of uint8 images (B, 3, H, W), or clips (B, 3, T, H, W), of any size."""
        with full_precision():
            return self._pooled(self.prepare(images))

    @property
    def classifies(self) -> bool:
        """Whether its heads tell the class."""
        return "class" in self.heads or any(set(pair) <= set(self.heads) for pair in _CLASS)

    @torch.no_grad()
    def classified(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, dim), and log probabilities (B, classes) of the class; None without heads that tell it.

        A scene's class is its main shape's kind and colour, a clip's is kind and direction; two heads tell these
        independently.
        """
        with full_precision():
            features = self._pooled(self.prepare(images))
            logs = {name: F.log_softmax(head(features), dim=1) for name, head in self.heads.items()}
        if "class" in logs:
            return features, logs["class"]
        for first, second in _CLASS:
            if {first, second} <= logs.keys():
                return features, (logs[first][:, :, None] + logs[second][:, None]).flatten(1)
        return features, None

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W), or clips (B, 3, T, H, W) -> floats in [-1, 1] of 32x32 pixels, channels last in memory.

        Other sizes are brought to 32x32 by antialiased bilinear resize. Raises DifflabError for other arrays.
        """
        dimensions = 5 if self.config.clips else 4
        if images.dtype != torch.uint8 or images.ndim != dimensions or images.shape[1] != 3:
            what = "clips of shape (B, 3, T, H, W)" if self.config.clips else "images of shape (B, 3, H, W)"
            raise DifflabError(f"This network takes uint8 {what}, but got {images.dtype} {tuple(images.shape)}.")
        x = images.to(next(self.parameters()))
        if x.shape[-2:] != (SIZE, SIZE):
            frames = x.transpose(1, 2).flatten(0, 1) if self.config.clips else x
            frames = F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
            x = frames.unflatten(0, (len(x), -1)).transpose(1, 2) if self.config.clips else frames
        memory = torch.channels_last_3d if self.config.clips else torch.channels_last
        return (x / 127.5 - 1).contiguous(memory_format=memory)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.trunk(x).flatten(2).mean(dim=2)


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


def _clip_block(cin: int, cout: int, stride: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(cin, cout, 3, stride, padding=1, bias=False), nn.GroupNorm(8, cout), nn.SiLU())
