"""The U-Net of DDPM and DDIM (Ho et al. 2020; the PyTorch form of ermongroup/ddim), for images.

Notable, because released weights depend on it:
- group norm with 32 groups and eps 1e-6 (so the base width is a multiple of 32); swish everywhere;
- sine-first timestep embedding with half - 1 in the denominator;
- downsampling pads one row at the bottom and one column at the right only;
- attention sits where the integer resolution is listed, one head over all channels, and always in the middle;
- module names are the official state-dict keys, so official weights load without renaming.

Ours, for small models: `patch` folds patch x patch pixels into channels before the first convolution and back after the
last one, so that 32x32 images cost what 16x16 ones would; `groups` lowers the number of groups, since at 32 channels
32 of them normalise each channel by itself and so erase the picture's mean colour from what the network knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.nets.layers import silu, sincos_embedding


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """(B, C_in, H, W), (B, E) -> (B, C_out, H, W): norm, swish, conv, twice, with the timestep added in between."""

    def __init__(self, c_in: int, c_out: int, embedding: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(embedding, c_out)
        self.norm2 = _norm(groups, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, swished_temb: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = h + self.temb_proj(swished_temb)[:, :, None, None]
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttentionBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): one softmax head over all pixels, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (
            conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )  # (B, 1, HW, C)
        h = F.scaled_dot_product_attention(q, k, v)  # scores divided by sqrt(C)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve height and width, by a strided convolution or a 2x2 mean."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only: the trained weights expect it


class Upsample(nn.Module):
    """Double height and width by nearest neighbours, with an optional convolution."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)


class Level(nn.Module):
    """The blocks of one resolution on the way down or up; `attn` is as long as `block`, or empty."""

    def __init__(self, blocks: Sequence[ResidualBlock], attention: Sequence[AttentionBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attention)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def __len__(self) -> int:
        return len(self.block)

    def run(self, i: int, x: Tensor, temb: Tensor) -> Tensor:
        """Block `i`, then its attention if this level has any."""
        x = self.block[i](x, temb)
        return self.attn[i](x) if len(self.attn) else x


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, embedding: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, embedding, dropout, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, embedding, dropout, groups)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, temb)), temb)


class TimestepEmbedding(nn.Module):
    """(B,) timesteps -> (B, 4 ch): sinusoids, linear, swish, linear."""

    def __init__(self, ch: int) -> None:
        super().__init__()
        self.ch = ch
        self.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        return second(silu(first(sincos_embedding(t, self.ch))))


def _levels(modules: nn.ModuleList) -> list[Level]:
    return cast(list[Level], list(modules))


class UNet2D(nn.Module):
    """x (B, in_channels, image_size, image_size), t (B,) -> (B, out_ch, image_size, image_size).

    Args:
        image_size: height and width in pixels; with `patch` they must be divisible by patch * 2^(levels - 1).
        in_channels, out_ch: image channels in and out.
        ch: base width, a multiple of `groups`; level l is ch * ch_mult[l] wide.
        num_res_blocks: residual blocks a level (one more on the way up).
        attn_resolutions: resolutions, in pixels after `patch`, whose levels have attention.
        dropout: inside each residual block, while training.
        resamp_with_conv: convolutions in down- and upsampling, else plain pooling and repetition.
        patch: side of the pixel blocks folded into channels; 1 is the official network.
        groups: of every group norm; 32 is the official network.
    """

    # What meets pixels or timesteps rather than hidden channels; see `train.optim`.
    edges: ClassVar[tuple[str, ...]] = ("temb", "conv_in", "conv_out")
    shards: ClassVar[tuple[type[nn.Module], ...]] = (
        ResidualBlock,
        AttentionBlock,
    )  # see `train.parallel`

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        patch: int = 1,
        groups: int = 32,
    ) -> None:
        super().__init__()
        levels = len(ch_mult)
        if ch % groups:
            raise ValueError(f"ch is {ch}, but group norm needs a multiple of {groups}")
        if image_size % (patch * 2 ** (levels - 1)):
            raise ValueError(f"image_size {image_size} cannot be halved {levels - 1} times after patches of {patch}")
        self.image_size, self.in_channels, self.patch = image_size, in_channels, patch
        widths = [ch * m for m in ch_mult]
        embedding = 4 * ch

        def attention(level: int, blocks: int) -> list[AttentionBlock]:
            attends = image_size // patch // 2**level in attn_resolutions
            return [AttentionBlock(widths[level], groups) for _ in range(blocks)] if attends else []

        self.temb = TimestepEmbedding(ch)
        self.conv_in = nn.Conv2d(in_channels * patch**2, ch, 3, padding=1)
        skips = [ch]
        self.down = nn.ModuleList()
        width = ch
        for i, out in enumerate(widths):
            blocks = []
            for _ in range(num_res_blocks):
                blocks.append(ResidualBlock(width, out, embedding, dropout, groups))
                width = out
                skips.append(width)
            level = Level(blocks, attention(i, len(blocks)))
            if i < levels - 1:
                level.downsample = Downsample(width, resamp_with_conv)
                skips.append(width)
            self.down.append(level)
        self.mid = Middle(width, embedding, dropout, groups)
        ups: list[Level] = []
        for i, out in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(num_res_blocks + 1):
                blocks.append(ResidualBlock(width + skips.pop(), out, embedding, dropout, groups))
                width = out
            level = Level(blocks, attention(i, len(blocks)))
            if i > 0:
                level.upsample = Upsample(width, resamp_with_conv)
            ups.insert(0, level)  # numbered by resolution, like `down`
        self.up = nn.ModuleList(ups)
        self.norm_out = _norm(groups, width)
        self.conv_out = nn.Conv2d(width, out_ch * patch**2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Answer for noisy images `x` (B, C, H, W) at timesteps `t` (B,); raises ValueError on a wrong shape."""
        if x.shape[1:] != (self.in_channels, self.image_size, self.image_size):
            expected = (self.in_channels, self.image_size, self.image_size)
            raise ValueError(f"the U-Net takes images of shape {expected}, not {tuple(x.shape[1:])}")
        temb = silu(self.temb(t))  # every block swishes the same vector: once is enough
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [h]
        for level in _levels(self.down):
            for i in range(len(level)):
                h = level.run(i, h, temb)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h)
                skips.append(h)
        h = self.mid(h, temb)
        for level in reversed(_levels(self.up)):
            for i in range(len(level)):
                h = level.run(i, torch.cat([h, skips.pop()], dim=1), temb)
            if level.upsample is not None:
                h = level.upsample(h)
        h = self.conv_out(silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
