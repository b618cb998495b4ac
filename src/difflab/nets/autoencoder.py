"""A small KL autoencoder for small pictures, after that of latent diffusion (Rombach et al. 2022).

Its latents are what a small DiT is trained on, so that a laptop needs no Stable Diffusion VAE. Notable: pictures are
folded into channels first (`patch`), the encoder answers mean and log variance, and nothing looks beyond its picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Posterior(NamedTuple):
    """q(z | x), a Gaussian for each latent: mean and logvar (B, C, H, W)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std noise, for noise of the same shape."""
        return torch.addcmul(self.mean, self.logvar.mul(0.5).exp(), noise)

    def kl(self) -> Tensor:
        """(B,) KL(q || N(0, 1)) in nats, averaged over the latents."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).flatten(1).mean(1)


class Residual(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): norm, SiLU, convolution, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class KLAutoencoder(nn.Module):
    """Pictures (B, channels, I, I) in [-1, 1] <-> latents (B, latent_channels, I / f, I / f), f = patch 2^(levels - 1).

    Args:
        image_size: I, divisible by f.
        channels: of the picture.
        latent_channels: of a latent.
        widths: channels of each level, finest first, multiples of 8.
        blocks: residual blocks a level, on the way down and on the way up.
        patch: side of the pixel blocks folded into channels.
    """

    edges: ClassVar[tuple[str, ...]] = ("encode_in", "encode_out", "decode_in", "decode_out")
    shards: ClassVar[tuple[type[nn.Module], ...]] = (Residual,)  # see `train.parallel`

    def __init__(
        self,
        *,
        image_size: int = 32,
        channels: int = 3,
        latent_channels: int = 4,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        patch: int = 2,
    ) -> None:
        super().__init__()
        self.patch = patch
        first, last = widths[0], widths[-1]
        self.encode_in = nn.Conv2d(channels * patch**2, first, 3, padding=1)
        down: list[nn.Module] = []
        for width, nxt in zip(widths, [*widths[1:], None], strict=True):
            down += [Residual(width) for _ in range(blocks)]
            down += [nn.Conv2d(width, nxt, 3, stride=2, padding=1)] if nxt else []
        self.down = nn.Sequential(*down)
        self.encode_norm = nn.GroupNorm(8, last, eps=1e-6)
        self.encode_out = nn.Conv2d(last, 2 * latent_channels, 3, padding=1)
        self.decode_in = nn.Conv2d(latent_channels, last, 3, padding=1)
        up: list[nn.Module] = []
        for width, nxt in zip(widths[::-1], [*widths[-2::-1], None], strict=True):
            up += [Residual(width) for _ in range(blocks)]
            up += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, nxt, 3, padding=1)] if nxt else []
        self.up = nn.Sequential(*up)
        self.decode_norm = nn.GroupNorm(8, first, eps=1e-6)
        self.decode_out = nn.Conv2d(first, channels * patch**2, 3, padding=1)

    def encode(self, x: Tensor) -> Posterior:
        """The posterior of pictures."""
        h = self.down(self.encode_in(F.pixel_unshuffle(x, self.patch)))
        mean, logvar = self.encode_out(F.silu(self.encode_norm(h))).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Pictures for latents; about [-1, 1], not clamped."""
        h = self.up(self.decode_in(z))
        return F.pixel_shuffle(self.decode_out(F.silu(self.decode_norm(h))), self.patch)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Posterior]:
        """Reconstruction of `x` through a sampled latent, and its posterior."""
        posterior = self.encode(x)
        return self.decode(posterior.sample(noise)), posterior
