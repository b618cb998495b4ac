"""The diffusion transformer, DiT (Peebles and Xie 2023), in the four designs of conditioning that the paper compares,
and for captions.

Notable, because released weights depend on it:
- cos-first timestep embedding with half (not half - 1) in the denominator, on the original timesteps 0 .. 999;
- a frozen sin-cos position table whose column code comes first, kept in the state dict as `pos_embed`;
- layer norms with eps 1e-6, GELU by its tanh approximation, one fused qkv layer, patches read channel-fastest;
- module names are the official state-dict keys, so official weights load without renaming.

A design says where the condition enters: `adaln-zero` and `adaln` let it shift and scale what the branches of a block
see (and, with -zero, gate what they add, from zero); `cross-attention` lets the picture's tokens attend to it;
`in-context` lets it travel along as two more tokens. The paper never released the last three: what it leaves open is
decided here as said at `Block` and `DiT`. `adaln-single`, of PixArt-alpha (Chen et al. 2023), is `adaln-zero` with one
linear layer for all blocks, to which each adds a table of its own.

The condition is the timestep and a class, or the timestep and the vector of a caption; the tokens of a caption enter
besides, by attention to them (`cross-attention`, as in PixArt-alpha) or as tokens beside the picture's (`in-context`,
as in U-ViT, Bao et al. 2023).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from difflab.nets.caption import CaptionAttention, CaptionEmbedding
from difflab.nets.layers import cossin_embedding

Conditioning = Literal["adaln-zero", "adaln", "adaln-single", "cross-attention", "in-context"]
CaptionTokens = Literal["cross-attention", "in-context"]
Numerics = Literal["official", "diffusers"]

_FREQUENCIES = 256  # width of the timestep's sinusoids
_EPS = 1e-6


class Design(NamedTuple):
    """vectors: what each branch of a block takes from the condition: (shift, scale, gate), (shift, scale) or nothing;
    shared: whether all blocks share the layer that makes them; attends: whether tokens attend to the condition; joins:
    whether it is part of the sequence."""

    vectors: int = 0
    shared: bool = False
    attends: bool = False
    joins: bool = False


DESIGNS: dict[Conditioning, Design] = {
    "adaln-zero": Design(vectors=3),
    "adaln": Design(vectors=2),
    "adaln-single": Design(vectors=3, shared=True),
    "cross-attention": Design(attends=True),
    "in-context": Design(joins=True),
}


class Modulation(NamedTuple):
    """What the condition does to a branch, each (B, 1, D): its input h becomes h (1 + scale) + shift, its output is
    multiplied by the gate; None is no change."""

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def input(self, h: Tensor) -> Tensor:
        """h (B, T, D) as the branch sees it."""
        return h if self.shift is None or self.scale is None else torch.addcmul(self.shift, h, 1.0 + self.scale)

    def add(self, x: Tensor, output: Tensor) -> Tensor:
        """x (B, T, D) with the branch's output added."""
        return x + output if self.gate is None else torch.addcmul(x, self.gate, output)


class Modulator(nn.ModuleDict):
    """swished condition (B, D) -> `vectors` vectors (B, 1, D) for each of `branches` branches; nothing at the start.

    The official module is a Sequential of SiLU and this layer, hence its name "1"; the SiLU is done once for all.
    """

    def __init__(self, width: int, branches: int, vectors: int) -> None:
        super().__init__({"1": nn.Linear(width, branches * vectors * width)})
        self.branches, self.vectors = branches, vectors

    @property
    def linear(self) -> nn.Linear:
        """Its only layer."""
        return cast(nn.Linear, self["1"])

    def forward(self, swished: Tensor) -> list[Modulation]:
        return split(self.linear(swished).unflatten(1, (self.branches * self.vectors, -1)), self.vectors)


def split(made: Tensor, vectors: int) -> list[Modulation]:
    """Modulations of so many vectors from (B, branches x vectors, D)."""
    parts = made.unsqueeze(2).unbind(1)
    return [Modulation(*parts[i : i + vectors]) for i in range(0, len(parts), vectors)]


class Told(NamedTuple):
    """What a block is told. swished (B, D): SiLU of the condition; sequence (B, 2, D): timestep, and class or caption;
    shared (B, 6, D): modulations before each block adds its own, if they share these; tokens (B, L, D) of a caption,
    if it attends to such, and present (B, L) which there are; mask (B, 1, 1, S): which tokens of its own sequence there
    are, None is all."""

    swished: Tensor
    sequence: Tensor
    shared: Tensor | None = None
    tokens: Tensor | None = None
    present: Tensor | None = None
    mask: Tensor | None = None


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D): softmax self-attention; scores divided by sqrt(D / heads). mask (B, 1, 1, T): which
    tokens are seen, None is all."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """(B, T, D), (B, S, D) -> (B, T, D): the first sequence asks, the second answers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """(B, T, D) -> (B, T, D): linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm attention and MLP, each a residual branch; with `cross-attention` a third branch between them, and a
    branch that attends to a caption before the MLP.

    Norms have weights of their own where the condition does not provide them.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, design: Design, mlp_eps: float, attends: bool = False
    ) -> None:
        super().__init__()
        affine = not design.vectors
        self.norm1 = nn.LayerNorm(width, _EPS, elementwise_affine=affine)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, mlp_eps, elementwise_affine=affine)
        self.mlp = MLP(width, int(width * mlp_ratio))
        own = design.vectors and not design.shared
        self.adaLN_modulation = Modulator(width, 2, design.vectors) if own else None
        rows = 2 * design.vectors
        self.scale_shift_table = nn.Parameter(torch.randn(rows, width) * width**-0.5) if design.shared else None
        self.norm_cross = nn.LayerNorm(width, _EPS) if design.attends else None
        self.cross = CrossAttention(width, heads) if design.attends else None
        self.caption = CaptionAttention(width, heads, width) if attends else None

    def forward(self, x: Tensor, told: Told) -> Tensor:
        """x (B, T, D) and what it is told."""
        attn, mlp = self._modulations(told)
        x = attn.add(x, self.attn(attn.input(self.norm1(x)), told.mask))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), told.sequence)
        if self.caption is not None and told.tokens is not None and told.present is not None:
            x = x + self.caption(x, told.tokens, told.present)
        return mlp.add(x, self.mlp(mlp.input(self.norm2(x))))

    def _modulations(self, told: Told) -> list[Modulation]:
        """Of attention and of the MLP."""
        if self.scale_shift_table is not None and told.shared is not None:
            return split(told.shared + self.scale_shift_table, len(self.scale_shift_table) // 2)
        return self.adaLN_modulation(told.swished) if self.adaLN_modulation else [Modulation(), Modulation()]


class FinalLayer(nn.Module):
    """(B, T, D) -> (B, T, out): norm, modulated like the blocks' but never gated, and a linear layer, zero at first."""

    def __init__(self, width: int, out: int, design: Design) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, _EPS, elementwise_affine=not design.vectors)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = Modulator(width, 1, 2) if design.vectors else None

    def forward(self, x: Tensor, swished: Tensor) -> Tensor:
        (how,) = self.adaLN_modulation(swished) if self.adaLN_modulation else (Modulation(),)
        return self.linear(how.input(self.norm_final(x)))


class PatchEmbedding(nn.Module):
    """(B, C, I, I) -> (B, T, D): one linear map of each patch, in raster order."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedding(nn.Module):
    """(B,) timesteps -> (B, D): sinusoids, linear, SiLU, linear."""

    def __init__(self, width: int, numerics: Numerics) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.short = 1 if numerics == "diffusers" else 0

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(cossin_embedding(t, _FREQUENCIES, _FREQUENCIES // 2 - self.short))


class LabelEmbedding(nn.Module):
    """(B,) class numbers -> (B, D); the last row of the table, where there is one more than classes, is "no class"."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class DiT(nn.Module):
    """x (B, in_channels, I, I), t (B,), y (B,) -> (B, in_channels, I, I), or twice the channels with learn_sigma.

    The first in_channels answer what the model predicts, the rest place the log variance within its range.

    Args:
        input_size: I, divisible by patch_size.
        patch_size: side of the squares that become tokens, T = (I / patch_size)^2 of them.
        in_channels: of x.
        hidden_size: D, divisible by 4 and by num_heads.
        depth, num_heads, mlp_ratio: blocks, attention heads, width of the MLPs in units of D.
        class_dropout_prob: how often training hides the class (see `train.objective`); above 0 the label table has a
            row for "no class", number num_classes. The network itself drops nothing.
        num_classes: rows of the label table, apart from that one; without meaning where captions are told.
        cond_dim: width of the vectors of captions, which take the place of classes; None is classes.
        caption: how the tokens of a caption enter, besides its vector.
        learn_sigma: whether the variance is learned.
        conditioning: the design. `in-context` puts timestep and label before the picture's tokens, without a position
            code, and takes them away after the last block, as it does with a caption's.
        numerics: `diffusers` repeats what its DiTTransformer2DModel does otherwise than the code the weights were
            trained with (timestep frequencies over 127, eps 1e-5 before the MLP), for comparisons.
    """

    # What meets data, timesteps or labels rather than hidden channels; see `train.optim`.
    edges: ClassVar[tuple[str, ...]] = ("x_embedder", "t_embedder", "y_embedder", "caption_embedder", "final_layer")
    shards: ClassVar[tuple[type[nn.Module], ...]] = (Block,)  # see `train.parallel`

    def __init__(
        self,
        *,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        cond_dim: int | None = None,
        caption: CaptionTokens = "cross-attention",
        learn_sigma: bool = True,
        conditioning: Conditioning = "adaln-zero",
        numerics: Numerics = "official",
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(f"input_size {input_size} is not divisible by patch_size {patch_size}")
        self.shape, self.patch = (in_channels, input_size, input_size), patch_size
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.checkpointing = False  # recompute blocks in the backward pass, to save memory
        self.design = DESIGNS[conditioning]
        grid = input_size // patch_size
        self.x_embedder = PatchEmbedding(in_channels, patch_size, hidden_size)
        self.t_embedder = TimestepEmbedding(hidden_size, numerics)
        rows = num_classes + (class_dropout_prob > 0)
        self.y_embedder = LabelEmbedding(rows, hidden_size) if cond_dim is None else None
        self.caption_embedder = CaptionEmbedding(cond_dim, hidden_size) if cond_dim is not None else None
        self.captions_join = cond_dim is not None and caption == "in-context"
        self.register_buffer("pos_embed", torch.from_numpy(position_table(hidden_size, grid)).float().unsqueeze(0))
        self.pos_embed: Tensor
        mlp_eps = 1e-5 if numerics == "diffusers" else _EPS
        attends = cond_dim is not None and not self.captions_join
        self.shared = Modulator(hidden_size, 2, self.design.vectors) if self.design.shared else None
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, mlp_ratio, self.design, mlp_eps, attends) for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels, self.design)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Answer for noisy `x` (B, C, I, I) at timesteps `t` (B,) with class numbers `y` (B,) int64, or with captions
        `y` (B, 1 + L, cond_dim), see `nets.caption`.

        Raises ValueError on a wrong shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"this DiT takes inputs of shape {self.shape}, not {tuple(x.shape[1:])}")
        told, beside = self._told(t, y)
        tokens = torch.cat([*beside, self.x_embedder(x) + self.pos_embed], dim=1)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, told, use_reentrant=False)
            else:
                tokens = block(tokens, told)
        pictures = tokens[:, sum(part.shape[1] for part in beside) :]
        return self._unpatchify(self.final_layer(pictures, told.swished))

    def _told(self, t: Tensor, y: Tensor) -> tuple[Told, list[Tensor]]:
        """What blocks are told, and the tokens (B, n, D) that come before the picture's."""
        told_t = self.t_embedder(t)
        if self.caption_embedder is None:
            assert self.y_embedder is not None
            told_y, tokens, present = self.y_embedder(y), None, None
        else:
            told_y, tokens, present = self.caption_embedder(y)
        sequence = torch.stack([told_t, told_y], dim=1)  # (B, 2, D)
        swished = F.silu(sequence.sum(1))
        shared = None
        if self.shared is not None:
            shared = self.shared.linear(swished).unflatten(1, (2 * self.design.vectors, -1))
        beside = [sequence] if self.design.joins else []
        if tokens is None or present is None or not self.captions_join:
            return Told(swished, sequence, shared, tokens, present), beside
        before = present.new_ones(len(present), sum(part.shape[1] for part in beside))
        pictures = present.new_ones(len(present), self.pos_embed.shape[1])
        mask = torch.cat([before, present, pictures], dim=1)
        return Told(swished, sequence, shared, mask=mask[:, None, None]), [*beside, tokens]

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """(B, T, p p C) with the channel fastest -> (B, C, I, I)."""
        grid, p = self.shape[1] // self.patch, self.patch
        parts = tokens.unflatten(2, (p, p, self.out_channels)).unflatten(1, (grid, grid))  # (B, g, g, p, p, C)
        return parts.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), self.out_channels, grid * p, grid * p)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier uniform, but small normal embeddings, and zero where a block or the output begins with nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(len(self.x_embedder.proj.weight), -1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Modulator):
                nn.init.zeros_(module.linear.weight)
            if isinstance(module, CaptionAttention):
                nn.init.zeros_(module.proj.weight)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        if self.shared is not None:  # as PixArt-alpha: the blocks' own tables make a start
            nn.init.normal_(self.shared.linear.weight, std=0.02)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.final_layer.linear.weight)


def position_table(width: int, grid: int) -> np.ndarray:
    """(grid^2, width) float64: the frozen code of each token, in raster order; the column's half comes first.

    A position m has [sin(m w_j), cos(m w_j)] with w_j = 10000^(-j / (width / 4)), j = 0 .. width / 4 - 1.
    """
    rates = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    angles = np.arange(grid)[:, None] * rates
    code = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # (grid, width / 2)
    columns, rows = np.tile(code, (grid, 1)), np.repeat(code, grid, axis=0)
    return np.concatenate([columns, rows], axis=1)
