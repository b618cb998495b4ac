"""Between pixels and model space. Pixels are uint8 with channels last, model space is float32 with channels first.

For pixel models the way is a change of scale, for latent models an autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from difflab.nets.autoencoder import Posterior
from difflab.zoo.autoencoder import Autoencoder
from difflab.zoo.families import Rounding

PIXELS_AT_ONCE = 1 << 19  # eight pictures of 256x256: an autoencoder's own layers take 1 GiB for them


def encode(pixels: np.ndarray) -> Tensor:
    """Pixels (N, .., C) uint8 -> (N, C, ..) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).movedim(-1, 1).float().div_(127.5).sub_(1.0)


def decode(x: Tensor, rounding: Rounding = "nearest") -> np.ndarray:
    """(N, C, ..) float in [-1, 1] -> pixels (N, .., C) uint8; values outside are clamped.

    `nearest` is floor(255 clamp((x + 1) / 2) + 0.5), as ermongroup/ddim writes its pictures; `shifted` truncates
    clamp(127.5 x + 128), as DiT does, which is the same but for float32's last digit; `floor` truncates
    clamp(127.5 (x + 1)), as ADM does, and so lies half a level lower.
    """
    if rounding == "nearest":
        levels = x.add(1.0).div(2.0).clamp(0.0, 1.0).mul(255.0).add(0.5)
    elif rounding == "shifted":
        levels = x.mul(127.5).add(128.0).clamp(0.0, 255.0)
    else:
        levels = x.add(1.0).mul(127.5).clamp(0.0, 255.0)
    return levels.to(torch.uint8).movedim(1, -1).cpu().numpy()


def encode_moments(autoencoder: Autoencoder, pixels: np.ndarray, device: torch.device) -> Posterior:
    """The posterior of pictures (N, H, W, 3) uint8, on `device`, a bounded number at a time."""
    at_once = max(1, PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    parts = [autoencoder.encode(x.to(device)) for x in encode(pixels).split(at_once)]
    return Posterior(torch.cat([part.mean for part in parts]), torch.cat([part.logvar for part in parts]))


class Codec(Protocol):
    """From model space (N, C, H, W) to pixels (N, H, W, 3) uint8."""

    def decode(self, x: Tensor) -> np.ndarray: ...

    def passport(self) -> dict[str, Any] | None:
        """What decides the pixels besides the rounding; None where nothing else does."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """For models of pixels."""

    rounding: Rounding

    def passport(self) -> None:
        return None

    def decode(self, x: Tensor) -> np.ndarray:
        return decode(x, self.rounding)


@dataclass(frozen=True)
class LatentCodec:
    """For models of latents, which are `scale` times what the autoencoder gives."""

    autoencoder: Autoencoder
    scale: float
    rounding: Rounding

    def passport(self) -> dict[str, Any]:
        return {"autoencoder sha256": self._hash, "scale": self.scale}

    @cached_property
    def _hash(self) -> str:
        return self.autoencoder.weights_hash()

    def decode(self, x: Tensor) -> np.ndarray:
        """Pixels of latents `x`, a bounded number at a time."""
        return np.concatenate([decode(pictures, self.rounding) for pictures in self._pictures(x)])

    def to_float(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) of latents `x`, about [-1, 1], not rounded."""
        return torch.cat(list(self._pictures(x)))

    def _pictures(self, x: Tensor) -> Iterator[Tensor]:
        pixels = x.shape[-2] * x.shape[-1] * self.autoencoder.factor**2
        for part in x.split(max(1, PIXELS_AT_ONCE // pixels)):
            yield self.autoencoder.decode(part / self.scale)
