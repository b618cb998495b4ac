"""The factorized space-time U-Net of video diffusion (Ho et al. 2022), in lucidrains' form and in the paper's.

Frames are folded into the batch: all convolutions and all spatial attention see single frames, and only temporal
attention, at each place of the picture over the frames, ties them together. So the number of frames is free.

Notable, because trained weights depend on it:
- sine-first timestep embedding with half - 1 in the denominator; the condition is appended to it, not added;
- block norm is RMS over channels (0.7.0 of the reference) or group norm with eps 1e-5 (up to 0.6.3);
- temporal attention has a learned bias by relative position, common to all of them, and rotary positions besides,
  on interleaved pairs of the first 32 features of each head;
- linear attention divides q after its softmax;
- the last block is told no timestep.

Attention is in `nets.unet3d_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.nets.caption import Caption, unpack
from difflab.nets.layers import silu, sincos_embedding
from difflab.nets.unet3d_attention import (
    BUCKETS,
    ROTARY,
    Attention,
    Clip,
    LinearAttention,
    Positions,
    SpatialAttention,
    TemporalAttention,
    WordAttention,
    relative_buckets,
    rotary_phases,
)

Norm = Literal["rms", "group"]


class ChannelRMS(nn.Module):
    """Root mean square norm over channels at each place: h / max(|h|, 1e-12) * sqrt(C) * gamma."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, h: Tensor, frames: int) -> Tensor:
        """(B F, C, H, W) -> the same."""
        length = torch.linalg.vector_norm(h, dim=1, keepdim=True).clamp(min=1e-12)
        return h / length * (math.sqrt(h.shape[1]) * self.gamma)[:, None, None]


class ClipGroupNorm(nn.Module):
    """Group norm over all frames of a clip together."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor, frames: int) -> Tensor:
        """(B F, C, H, W) -> the same."""
        clip = h.unflatten(0, (-1, frames)).transpose(1, 2)
        return F.group_norm(clip, self.groups, self.weight, self.bias, eps=1e-5).transpose(1, 2).flatten(0, 1)


class Block(nn.Module):
    """(B F, C_in, H, W) -> (B F, C_out, H, W): convolution, norm, scale and shift, swish."""

    def __init__(self, c_in: int, c_out: int, norm: Norm, groups: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = ChannelRMS(c_out) if norm == "rms" else ClipGroupNorm(groups, c_out)

    def forward(self, h: Tensor, frames: int, told: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """told: scale and shift (B F, C_out, 1, 1)."""
        h = self.norm(self.proj(h), frames)
        return silu(h if told is None else torch.addcmul(told[1], h, 1.0 + told[0]))


class ResidualBlock(nn.Module):
    """Two blocks with a shortcut; the embedding scales and shifts the first one. embedding None: it is told nothing."""

    def __init__(self, c_in: int, c_out: int, embedding: int | None, norm: Norm, groups: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(embedding, 2 * c_out) if embedding else None
        self.block1 = Block(c_in, c_out, norm, groups)
        self.block2 = Block(c_out, c_out, norm, groups)
        self.res_conv = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, h: Tensor, swished: Tensor | None, clip: Clip) -> Tensor:
        """h (B F, C_in, H, W), swished (B, E) -> (B F, C_out, H, W)."""
        told = None
        if self.mlp is not None and swished is not None:
            scale, shift = self.mlp(swished).repeat_interleave(clip.frames, dim=0)[:, :, None, None].chunk(2, dim=1)
            told = scale, shift
        out = self.block2(self.block1(h, clip.frames, told), clip.frames)
        return out + (h if self.res_conv is None else self.res_conv(h))


class Resolution(nn.Module):
    """Two residual blocks, spatial and temporal attention, attention to a caption, and the change of resolution, where
    there are such."""

    def __init__(self, block1: ResidualBlock, block2: ResidualBlock, spatial: nn.Module | None,
                 temporal: TemporalAttention | None, resample: nn.Module | None,
                 words: WordAttention | None = None) -> None:  # fmt: skip
        super().__init__()
        self.block1, self.block2 = block1, block2
        self.spatial, self.temporal, self.resample = spatial, temporal, resample
        self.words = words

    def forward(self, h: Tensor, swished: Tensor, clip: Clip, positions: Positions, words: Caption | None) -> Tensor:
        h = self.block2(self.block1(h, swished, clip), swished, clip)
        if self.spatial is not None:
            h = self.spatial(h)
        if self.words is not None and words is not None:
            h = self.words(h, words)
        return h if self.temporal is None else self.temporal(h, clip, positions)


class Middle(nn.Module):
    """Block, full spatial attention, attention to a caption where there is one, temporal attention, block at the lowest
    resolution."""

    def __init__(self, block1: ResidualBlock, spatial: SpatialAttention, temporal: TemporalAttention,
                 block2: ResidualBlock, words: WordAttention | None = None) -> None:  # fmt: skip
        super().__init__()
        self.block1, self.spatial, self.temporal, self.block2 = block1, spatial, temporal, block2
        self.words = words

    def forward(self, h: Tensor, swished: Tensor, clip: Clip, positions: Positions, words: Caption | None) -> Tensor:
        h = self.spatial(self.block1(h, swished, clip))
        if self.words is not None and words is not None:
            h = self.words(h, words)
        return self.block2(self.temporal(h, clip, positions), swished, clip)


class UNet3D(nn.Module):
    """x (B, channels, F, H, W), t (B,), condition -> (B, out_dim, F, H, W), for any number of frames.

    Args:
        image_size: height and width in pixels, divisible by patch 2^(levels - 1); weights do not depend on it unless
            `attn_resolutions` are told.
        dim: base width; level l is dim * dim_mults[l] wide.
        cond_dim: width of a condition; None is unconditional.
        num_classes: the condition may be a class, looked up in a table; None is a vector (B, cond_dim) always.
        out_dim: output channels; None is `channels`.
        channels: of a frame.
        attn_heads, attn_dim_head: heads of every attention, width of the temporal ones' heads.
        init_kernel_size: odd; of the first convolution.
        use_sparse_linear_attn: linear spatial attention at every level.
        norm, resnet_groups: of the blocks: `rms` is the reference from 0.7.0, `group` before.
        attn_resolutions: None is the reference. Else the paper's form: full spatial attention, then temporal, at these
            resolutions and in the middle alone, in the place of linear attention and of temporal attention everywhere.
        strict_mask: whether the first temporal attention, too, obeys what frames are linked. The reference's does not.
        patch: side of the pixel blocks folded into channels, as in `UNet2D`; 1 is the reference.
        cond_tokens: whether the condition is a caption, whose vector takes the way of the reference's and whose tokens
            are attended to wherever there is temporal attention. The reference has the vector alone.
    """

    # What meets pixels, timesteps or conditions rather than hidden channels; see `train.optim`.
    edges: ClassVar[tuple[str, ...]] = ("time_mlp", "init_conv", "final_conv", "position_bias", "class_table")
    shards: ClassVar[tuple[type[nn.Module], ...]] = (ResidualBlock, Attention)  # see `train.parallel`

    def __init__(
        self,
        *,
        image_size: int,
        dim: int,
        cond_dim: int | None = None,
        num_classes: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        attn_heads: int = 8,
        attn_dim_head: int = 32,
        init_kernel_size: int = 7,
        use_sparse_linear_attn: bool = True,
        norm: Norm = "rms",
        resnet_groups: int = 8,
        attn_resolutions: Sequence[int] | None = None,
        strict_mask: bool = False,
        patch: int = 1,
        cond_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.dim, self.head_width, self.strict_mask = channels, dim, attn_dim_head, strict_mask
        self.norm = norm
        self.patch, self.multiple = patch, patch * 2 ** (len(dim_mults) - 1)
        widths = [dim, *(dim * m for m in dim_mults)]
        embedding = 4 * dim + (cond_dim or 0)

        def block(c_in: int, c_out: int, told: int | None = embedding) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, told, norm, resnet_groups)

        def temporal(width: int) -> TemporalAttention:
            return TemporalAttention(width, attn_heads, attn_dim_head)

        def words(width: int) -> WordAttention | None:
            return WordAttention(width, attn_heads, cond_dim) if cond_tokens and cond_dim else None

        def level(i: int, c_in: int, c_out: int, resample: nn.Module | None) -> Resolution:
            spatial: nn.Module | None = None
            attends = attn_resolutions is None or image_size // patch >> i in attn_resolutions
            if attn_resolutions is not None:
                spatial = SpatialAttention(c_out, attn_heads) if attends else None
            elif use_sparse_linear_attn:
                spatial = LinearAttention(c_out, attn_heads)
            blocks = block(c_in, c_out), block(c_out, c_out)
            if not attends:
                return Resolution(*blocks, spatial, None, resample)
            return Resolution(*blocks, spatial, temporal(c_out), resample, words(c_out))

        self.position_bias = nn.Embedding(BUCKETS, attn_heads)
        self.init_conv = nn.Conv2d(channels * patch**2, dim, init_kernel_size, padding=init_kernel_size // 2)
        self.init_temporal = temporal(dim) if attn_resolutions is None else None
        self.time_mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim))
        self.null_condition = nn.Parameter(torch.randn(cond_dim)) if cond_dim else None
        self.null_token = nn.Parameter(torch.randn(cond_dim)) if cond_dim and cond_tokens else None
        self.class_table = nn.Embedding(num_classes, cond_dim) if num_classes and cond_dim else None
        pairs = list(pairwise(widths))
        last = len(pairs) - 1
        self.downs = nn.ModuleList(
            level(i, a, b, nn.Conv2d(b, b, 4, stride=2, padding=1) if i < last else None)
            for i, (a, b) in enumerate(pairs)
        )
        deepest = widths[-1]
        self.mid = Middle(
            block(deepest, deepest), SpatialAttention(deepest, attn_heads), temporal(deepest), block(deepest, deepest),
            words(deepest),
        )  # fmt: skip
        self.ups = nn.ModuleList(
            level(i, 2 * b, a, nn.ConvTranspose2d(a, a, 4, stride=2, padding=1) if i > 0 else None)
            for i, (a, b) in reversed(list(enumerate(pairs)))
        )
        self.final_block = block(2 * dim, dim, None)
        self.final_conv = nn.Conv2d(dim, (channels if out_dim is None else out_dim) * patch**2, 1)

    def forward(
        self, x: Tensor, t: Tensor, condition: Tensor | None = None, *, alone: Tensor | None = None, images: int = 0
    ) -> Tensor:
        """Answer for noisy clips.

        Args:
            x: (B, channels, F, H, W).
            t: (B,) timesteps.
            condition: vectors (B, cond_dim) float, with `cond_tokens` captions (B, 1 + L, cond_dim), see
                `nets.caption`, or classes (B,) int64, `num_classes` for none; rows of NaN are vectors that are hidden.
            alone: (B,) bool: whether each frame of a sample sees itself alone (the reference's focus_present_mask).
            images: how many of the last frames are single pictures, no part of the clip.

        Raises ValueError for shapes that do not fit, and for a condition that is missing or not asked for.
        """
        self._check(x, condition)
        batch, _, frames = x.shape[:3]
        together = frames - images
        linked = [together] * batch if alone is None else [0 if a else together for a in alone.tolist()]
        clip = Clip(frames, tuple(linked))
        if images and self.init_temporal is not None and not self.strict_mask:
            raise ValueError("pictures beside a clip need strict_mask, else the first attention mixes them with it")
        if images and self.norm == "group":
            raise ValueError("pictures beside a clip need norm rms, else the norm's statistics mix them with it")
        positions = self._positions(frames, x.device)
        words, vector = None, condition
        if condition is not None and self.null_condition is not None and self.null_token is not None:
            words = unpack(condition, self.null_condition, self.null_token)
            vector = words.vector
        swished = silu(self._embed(t, vector))  # every block swishes the same vector: once is enough
        h = x.transpose(1, 2).flatten(0, 1)
        h = F.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        h = self.init_conv(h.contiguous(memory_format=torch.channels_last))
        if self.init_temporal is not None:
            h = self.init_temporal(h, clip if self.strict_mask else clip.free, positions)
        first, skips = h, []
        for down in cast(list[Resolution], list(self.downs)):
            h = down(h, swished, clip, positions, words)
            skips.append(h)
            h = h if down.resample is None else down.resample(h)
        h = self.mid(h, swished, clip, positions, words)
        for up in cast(list[Resolution], list(self.ups)):
            h = up(torch.cat([h, skips.pop()], dim=1), swished, clip, positions, words)
            h = h if up.resample is None else up.resample(h)
        h = self.final_conv(self.final_block(torch.cat([h, first], dim=1), None, clip))
        h = F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
        return h.unflatten(0, (batch, frames)).transpose(1, 2)

    def _positions(self, frames: int, device: torch.device) -> Positions:
        bias = self.position_bias(relative_buckets(frames).to(device)).permute(2, 0, 1)
        return Positions(bias, rotary_phases(frames, min(ROTARY, self.head_width), device))

    def _embed(self, t: Tensor, condition: Tensor | None) -> Tensor:
        """(B, E): the timestep, and beside it the condition or what stands for none."""
        embedded = self.time_mlp(sincos_embedding(t, self.dim))
        if condition is None or self.null_condition is None:
            return embedded
        if condition.dtype == torch.int64:
            assert self.class_table is not None
            hidden = condition >= self.class_table.num_embeddings
            vectors = self.class_table(condition.masked_fill(hidden, 0))
        else:
            hidden = condition.isnan().any(dim=1)
            vectors = condition
        vectors = torch.where(hidden[:, None], self.null_condition, vectors)
        return torch.cat([embedded, vectors], dim=1)

    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        if x.ndim != 5 or x.shape[1] != self.channels or not x.shape[2]:
            raise ValueError(f"the 3D U-Net takes clips (B, {self.channels}, F, H, W), not {tuple(x.shape)}")
        if x.shape[3] % self.multiple or x.shape[4] % self.multiple:
            raise ValueError(f"frames of {x.shape[3]}x{x.shape[4]}: both sides must be multiples of {self.multiple}")
        if (condition is None) != (self.null_condition is None):
            raise ValueError("a condition is needed" if condition is None else "this network is told no condition")
