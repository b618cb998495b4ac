"""Attention of the 3D U-Net: among the places of a frame, among frames at a place, and to the words of a caption.

Attention makes three times heads x width channels of every place. On a CPU it is done a block of places at a time: so
the large tensors never exist at once, which is where the reference's memory and much of its time goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difflab.nets.caption import Caption, CaptionAttention

_SPATIAL_HEAD = 32  # width of the heads of both kinds of spatial attention
ROTARY = 32  # features of a head that are rotated
BUCKETS, _FURTHEST = 32, 32
_FEW_FRAMES = 64  # up to which plain products beat fused attention on a CPU, by half at 10: its blocks stay empty
_AT_ONCE = 1 << 21  # numbers of q, k and v that an attention on a CPU makes at once: 8 MiB, the fastest of 2^17 to 2^30


class Clip(NamedTuple):
    """How the frames of a batch belong together.

    frames: in each sample; linked: how many of them, from the first one, see each other in temporal attention, in each
    sample; the others see themselves alone.
    """

    frames: int
    linked: tuple[int, ...]

    @property
    def free(self) -> Clip:
        """The same with all frames linked."""
        return Clip(self.frames, (self.frames,) * len(self.linked))


class Positions(NamedTuple):
    """What temporal attention knows of time: bias (heads, F, F) of its scores, phases (F, R / 2) of its rotation."""

    bias: Tensor
    phases: Tensor


class Attention(nn.Module):
    """What the three kinds of attention share: h + out(attend(q, k, v of norm(h))), a block of places at a time."""

    def __init__(self, channels: int, heads: int, width: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.norm = nn.LayerNorm(channels, eps=1e-5, bias=False)
        self.to_qkv = nn.Linear(channels, 3 * heads * width, bias=False)
        self.to_out = nn.Linear(heads * width, channels, bias=bias)

    def qkv(self, tokens: Tensor) -> Tensor:
        """(.., C) -> (.., 3, heads, width) of the normalised tokens."""
        return self.to_qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, self.width))

    def in_blocks(self, tokens: Tensor, dim: int, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """tokens + to_out(attend(part)) for parts of the tokens along `dim`, which must not matter to each other.

        Gradients and other devices than CPUs take all at once: there the parts would save nothing.
        """
        if torch.is_grad_enabled() or tokens.device.type != "cpu":
            return tokens + self.to_out(attend(tokens))
        made = tokens.numel() // tokens.shape[dim] // tokens.shape[-1] * 3 * self.heads * self.width
        parts = tokens.split(max(1, _AT_ONCE // made), dim=dim)
        return torch.cat([part + self.to_out(attend(part)) for part in parts], dim=dim)


class LinearAttention(Attention):
    """Spatial attention whose cost is linear in the places: softmax of k over places, of q over features."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, _SPATIAL_HEAD, bias=True)

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        return _pictures(self.in_blocks(_tokens(h), 0, self._attend), h)

    def _attend(self, frames: Tensor) -> Tensor:
        """(n, P, C) -> (n, P, heads 32)"""
        q, k, v = self.qkv(frames).unbind(2)
        q = q.softmax(dim=-1).transpose(1, 2) * self.width**-0.5  # (n, heads, P, 32)
        k = k.softmax(dim=1).transpose(1, 2)
        return (q @ (k.transpose(2, 3) @ v.transpose(1, 2))).transpose(1, 2).flatten(2)


class SpatialAttention(Attention):
    """Full attention among the places of each frame, without positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, _SPATIAL_HEAD, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        return _pictures(self.in_blocks(_tokens(h), 0, self._attend), h)

    def _attend(self, frames: Tensor) -> Tensor:
        q, k, v = self.qkv(frames).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class TemporalAttention(Attention):
    """Attention among the frames at each place, with rotary positions and a bias by relative position."""

    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__(channels, heads, width, bias=False)

    def forward(self, h: Tensor, clip: Clip, positions: Positions) -> Tensor:
        """(B F, C, H, W) -> the same."""
        tokens = _tokens(h).unflatten(0, (-1, clip.frames))  # (B, F, P, C)
        if len(set(clip.linked)) == 1:
            return _pictures(self._linked(tokens, clip.linked[0], positions).flatten(0, 1), h)
        rows = [self._linked(row[None], linked, positions) for row, linked in zip(tokens, clip.linked, strict=True)]
        return _pictures(torch.cat(rows).flatten(0, 1), h)

    def _linked(self, tokens: Tensor, linked: int, positions: Positions) -> Tensor:
        """The first `linked` frames see each other, the others themselves alone: their softmax is 1, so v is left."""
        seen, alone, done = tokens[:, :linked], tokens[:, linked:], []
        if linked:
            near = Positions(positions.bias[:, :linked, :linked], positions.phases[:linked])
            done.append(self.in_blocks(seen, 2, lambda part: self._attend(part, near)))
        if alone.shape[1]:
            done.append(self.in_blocks(alone, 2, lambda part: self.qkv(part)[..., 2, :, :].flatten(-2)))
        return torch.cat(done, dim=1) if len(done) > 1 else done[0]

    def _attend(self, tokens: Tensor, positions: Positions) -> Tensor:
        """(B, F, n, C) -> (B, F, n, heads width)"""
        batch, _, places, _ = tokens.shape
        made = self.qkv(tokens).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (3, B n, heads, F, width)
        (q, k), v, bias = rotate(made[:2], positions.phases), made[2], positions.bias.to(made.dtype)
        if tokens.device.type == "cpu" and tokens.shape[1] <= _FEW_FRAMES:
            h = ((q * self.width**-0.5) @ k.transpose(-2, -1)).add(bias).softmax(dim=-1) @ v
        else:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return h.unflatten(0, (batch, places)).permute(0, 3, 1, 2, 4).flatten(3)


def rotary_rates(rotated: int, device: torch.device | str = "cpu") -> Tensor:
    """(R / 2,) float32: 10000^(-2 j / R), the angle by which pair j turns from frame to frame."""
    return 10000.0 ** (-torch.arange(0, rotated, 2, device=device, dtype=torch.float32) / rotated)


def rotary_phases(frames: int, rotated: int, device: torch.device) -> Tensor:
    """(F, R / 2) complex64: e^(i p 10000^(-2 j / R)) for frame p and pair j."""
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rotary_rates(rotated, device)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Turn the first pairs (2 j, 2 j + 1) of features of x (.., F, D) by the phases (F, R / 2); others pass."""
    turned, rest = x[..., : 2 * phases.shape[-1]], x[..., 2 * phases.shape[-1] :]
    copy = turned.float().unflatten(-1, (-1, 2)).clone(memory_format=torch.contiguous_format)
    turned = torch.view_as_real(torch.view_as_complex(copy).mul_(phases)).flatten(-2).type_as(x)
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def relative_buckets(frames: int, buckets: int = BUCKETS, furthest: int = _FURTHEST) -> Tensor:
    """(F, F) int64: the bucket of key frame j as seen from query frame i, after T5, both directions.

    Half of the buckets are for keys in the future. Of each half, half are exact distances, and the rest grow in
    proportion up to `furthest`, beyond which all are one.
    """
    half = buckets // 2
    exact, grown = half // 2, half - half // 2

    def bucket(distance: int) -> int:
        if distance < exact:
            return distance
        # The largest k with distance >= exact (furthest / exact)^(k / grown), in whole numbers, which do not round.
        reached = [k for k in range(grown) if distance**grown * exact**k >= exact**grown * furthest**k]
        return exact + reached[-1]

    table = torch.tensor([bucket(distance) for distance in range(furthest + 1)])
    place = torch.arange(frames)
    ahead = place[None, :] - place[:, None]
    return table[ahead.abs().clamp(max=furthest)] + half * (ahead > 0)


class WordAttention(nn.Module):
    """Every place of every frame attends to the tokens of the clip's caption; nothing at first."""

    def __init__(self, channels: int, heads: int, told: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-5, bias=False)
        self.attend = CaptionAttention(channels, heads, told)
        nn.init.zeros_(self.attend.proj.weight)
        nn.init.zeros_(self.attend.proj.bias)

    def forward(self, h: Tensor, words: Caption) -> Tensor:
        """(B F, C, H, W) -> the same."""
        tokens = _tokens(h)  # (B F, P, C)
        clips = tokens.unflatten(0, (len(words.tokens), -1)).flatten(1, 2)
        return _pictures(tokens + self.attend(self.norm(clips), words.tokens, words.present).view_as(tokens), h)


def _tokens(h: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C), without a copy where channels come last in memory."""
    return h.permute(0, 2, 3, 1).flatten(1, 2)


def _pictures(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, H W, C) -> (N, C, H, W) with channels last in memory, as `like`."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
