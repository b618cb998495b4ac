"""The U-Net of guided-diffusion (Nichol and Dhariwal 2021; Dhariwal and Nichol 2021, "ADM"), and its noisy classifier.

Notable, because released weights depend on it:
- group norm with 32 groups and eps 1e-5; cosine-first timestep embedding, to which a class's row is added;
- a block's embedding scales and shifts after its second norm, or, in the plain form, is added before it;
- resampling by residual blocks, which resample between their first activation and their first convolution, or by plain
  convolutions, which here pad on both sides;
- heads take their channels in one of two orders: each head's q, k and v together, or, in the "new" one, all q first;
- module names are the official state-dict keys, so official weights load without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.nets.layers import cossin_embedding, silu

_GROUPS = 32

Resample = Literal["down", "up"]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels, eps=1e-5)


def _zeroed(module: nn.Module) -> nn.Module:
    """The module with its parameters at zero, so that a branch begins as if it were not there."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def _resampled(x: Tensor, how: Resample) -> Tensor:
    return F.avg_pool2d(x, 2) if how == "down" else F.interpolate(x, scale_factor=2, mode="nearest")


class ResidualBlock(nn.Module):
    """(B, C_in, H, W), (B, E) -> (B, C_out, H', W'): norm, swish, conv, twice, told the embedding in between."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, dropout: float, scale_shift: bool, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(_norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * c_out if scale_shift else c_out))
        last = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.out_layers = nn.Sequential(_norm(c_out), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, swished: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = silu(norm(x))
        if self.resample is not None:
            h, x = _resampled(h, self.resample), _resampled(x, self.resample)
        h = conv(h)
        told = self.emb_layers[1](swished)[:, :, None, None]
        norm, _, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + told)
        return self.skip_connection(x) + conv(dropout(silu(h)))


class AttentionBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): softmax attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = attend(self.qkv(self.norm(x).flatten(2)), self.heads, self.new_order)
        return x + self.proj_out(h).view_as(x)


def attend(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """Attention (B, C, N) of queries, keys and values (B, 3 C, N) in one of the two orders."""
    parts = qkv.unflatten(1, (3, heads, -1) if new_order else (heads, 3, -1))
    q, k, v = parts.transpose(-1, -2).unbind(1 if new_order else 2)  # (B, heads, N, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_resampled(x, "up"))


class Entry(nn.Sequential):
    """Layers of which the residual blocks are told the embedding: one entry of the official lists of blocks."""

    def forward(self, x: Tensor, swished: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, swished) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class _Plan:
    """Makes the layers of one network; `levels` are the widths, finest first."""

    def __init__(
        self, image_size: int, num_channels: int, channel_mult: Sequence[float], attention_resolutions: Sequence[int],
        num_heads: int, num_head_channels: int, dropout: float, use_scale_shift_norm: bool, resblock_updown: bool,
        use_new_attention_order: bool,
    ) -> None:  # fmt: skip
        self.levels = [round(m * num_channels) for m in channel_mult]
        self.attends = [image_size >> level in set(attention_resolutions) for level in range(len(self.levels))]
        self.heads, self.head_channels = num_heads, num_head_channels
        self.dropout, self.scale_shift, self.updown = dropout, use_scale_shift_norm, resblock_updown
        self.new_order, self.embedding = use_new_attention_order, 4 * num_channels

    def block(self, c_in: int, c_out: int, resample: Resample | None = None) -> ResidualBlock:
        return ResidualBlock(c_in, c_out, self.embedding, self.dropout, self.scale_shift, resample)

    def attention(self, channels: int) -> AttentionBlock:
        heads = self.heads if self.head_channels == -1 else channels // self.head_channels
        return AttentionBlock(channels, heads, self.new_order)

    def entry(self, level: int, c_in: int, c_out: int) -> list[nn.Module]:
        return [self.block(c_in, c_out), *([self.attention(c_out)] if self.attends[level] else [])]

    def down(self, in_channels: int, blocks: int) -> tuple[nn.ModuleList, list[int]]:
        """The way down, and the channels that each of its entries gives."""
        width = self.levels[0]
        entries, given = [Entry(nn.Conv2d(in_channels, width, 3, padding=1))], [width]
        for level, c_out in enumerate(self.levels):
            for _ in range(blocks):
                entries.append(Entry(*self.entry(level, width, c_out)))
                given.append(width := c_out)
            if level < len(self.levels) - 1:
                entries.append(Entry(self.block(width, width, "down") if self.updown else Downsample(width)))
                given.append(width)
        return nn.ModuleList(entries), given

    def middle(self) -> Entry:
        width = self.levels[-1]
        return Entry(self.block(width, width), self.attention(width), self.block(width, width))

    def up(self, blocks: int, given: list[int]) -> nn.ModuleList:
        """The way up, each of whose entries takes one of the way down beside what it comes from."""
        entries, width, given = [], self.levels[-1], list(given)
        for level, c_out in reversed(list(enumerate(self.levels))):
            for i in range(blocks + 1):
                layers, width = self.entry(level, width + given.pop(), c_out), c_out
                if level and i == blocks:
                    layers.append(self.block(width, width, "up") if self.updown else Upsample(width))
                entries.append(Entry(*layers))
        return nn.ModuleList(entries)


def _time_embed(num_channels: int) -> nn.Sequential:
    width = 4 * num_channels
    return nn.Sequential(nn.Linear(num_channels, width), nn.SiLU(), nn.Linear(width, width))


class ADM(nn.Module):
    """x (B, 3, image_size, image_size), t (B,), classes -> (B, 3 or 6, image_size, image_size).

    Args (by the names of guided-diffusion's flags):
        image_size: height and width in pixels.
        num_channels: base width; level l is channel_mult[l] * num_channels wide, a multiple of 32.
        num_res_blocks: residual blocks a level (one more on the way up).
        attention_resolutions: resolutions in pixels whose levels have attention; the middle always has.
        num_heads, num_head_channels: of attention: so many heads, or, unless -1, heads so wide.
        num_classes: how many classes it is told apart by; None is unconditional.
        learn_sigma: whether it answers twice the channels, the second half for the variance.
        resblock_updown, use_scale_shift_norm, use_new_attention_order: see the module.
        dropout: inside each residual block, while training.
        in_channels: of a picture.
        timestep_scale: what timesteps are multiplied by before they are embedded, 1000 / T under rescale_timesteps.
    """

    edges: ClassVar[tuple[str, ...]] = ("time_embed", "label_emb", "input_blocks.0", "out")
    shards: ClassVar[tuple[type[nn.Module], ...]] = (
        ResidualBlock,
        AttentionBlock,
    )  # see `train.parallel`

    def __init__(
        self,
        *,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float],
        attention_resolutions: Sequence[int],
        num_heads: int = 4,
        num_head_channels: int = -1,
        num_classes: int | None = None,
        learn_sigma: bool = True,
        resblock_updown: bool = False,
        use_scale_shift_norm: bool = True,
        use_new_attention_order: bool = False,
        dropout: float = 0.0,
        in_channels: int = 3,
        timestep_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_channels, self.timestep_scale = num_channels, timestep_scale
        plan = _Plan(
            image_size, num_channels, channel_mult, attention_resolutions, num_heads, num_head_channels, dropout,
            use_scale_shift_norm, resblock_updown, use_new_attention_order,
        )  # fmt: skip
        self.time_embed = _time_embed(num_channels)
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, plan.embedding)
        self.input_blocks, given = plan.down(in_channels, num_res_blocks)
        self.middle_block = plan.middle()
        self.output_blocks = plan.up(num_res_blocks, given)
        last = _zeroed(nn.Conv2d(plan.levels[0], in_channels * (2 if learn_sigma else 1), 3, padding=1))
        self.out = nn.Sequential(_norm(plan.levels[0]), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """Answer for noisy pictures x at timesteps t (B,), which may be fractions, of `classes` (B,) int64.

        Raises ValueError for classes that are missing or not asked for.
        """
        if (classes is None) != (self.label_emb is None):
            raise ValueError("classes are needed" if classes is None else "this network is told no classes")
        embedded = self.time_embed(cossin_embedding(t * self.timestep_scale, self.num_channels, self.num_channels // 2))
        if self.label_emb is not None and classes is not None:
            embedded = embedded + self.label_emb(classes)
        swished = silu(embedded)  # every block swishes the same vector: once is enough
        skips = []
        h = x
        for entry in _entries(self.input_blocks):
            h = entry(h, swished)
            skips.append(h)
        h = self.middle_block(h, swished)
        for entry in _entries(self.output_blocks):
            h = entry(torch.cat([h, skips.pop()], dim=1), swished)
        norm, _, conv = self.out
        return conv(silu(norm(h)))


class AttentionPool(nn.Module):
    """(B, C, side, side) -> (B, out): what the mean of all places, as a query of its own, sees of them (Radford et al.
    2021)."""

    def __init__(self, side: int, channels: int, head_channels: int, out: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(x), self.heads, new_order=True)[..., :1])[..., 0]


class NoisyClassifier(nn.Module):
    """x (B, 3, image_size, image_size), t (B,) -> logits (B, num_classes): the way down of `ADM` and attention pooling.

    Args: as those of `ADM`; of guided-diffusion's flags, `classifier_width` is num_channels here and `classifier_depth`
        num_res_blocks.
    """

    def __init__(
        self,
        *,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float],
        attention_resolutions: Sequence[int],
        num_head_channels: int = 64,
        num_classes: int = 1000,
        resblock_updown: bool = True,
        use_scale_shift_norm: bool = True,
        use_new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.image_size, self.num_channels = image_size, num_channels
        plan = _Plan(
            image_size, num_channels, channel_mult, attention_resolutions, 1, num_head_channels, 0.0,
            use_scale_shift_norm, resblock_updown, use_new_attention_order,
        )  # fmt: skip
        width, side = plan.levels[-1], image_size >> (len(plan.levels) - 1)
        self.time_embed = _time_embed(num_channels)
        self.input_blocks, _ = plan.down(3, num_res_blocks)
        self.middle_block = plan.middle()
        self.out = nn.Sequential(_norm(width), nn.SiLU(), AttentionPool(side, width, num_head_channels, num_classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits for noisy pictures x at timesteps t (B,)."""
        swished = silu(self.time_embed(cossin_embedding(t, self.num_channels, self.num_channels // 2)))
        h = x
        for entry in _entries(self.input_blocks):
            h = entry(h, swished)
        norm, _, pool = self.out
        return pool(silu(norm(self.middle_block(h, swished))))


def _entries(modules: nn.ModuleList) -> list[Entry]:
    return cast(list[Entry], list(modules))
