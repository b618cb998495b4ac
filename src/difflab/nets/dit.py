"""The diffusion transformer, DiT (Peebles and Xie 2023), in the four designs of conditioning that the paper compares.

Notable, because released weights depend on it:
- cos-first timestep embedding with half (not half - 1) in the denominator, on the original timesteps 0 .. 999;
- a frozen sin-cos position table whose column code comes first, kept in the state dict as `pos_embed`;
- layer norms with eps 1e-6, GELU by its tanh approximation, one fused qkv layer, patches read channel-fastest;
- module names are the official state-dict keys, so official weights load without renaming.

A design says where the condition enters: `adaln-zero` and `adaln` let it shift and scale what the branches of a block
see (and, with -zero, gate what they add, from zero); `cross-attention` lets the picture's tokens attend to it;
`in-context` lets it travel along as two more tokens. The paper never released the last three: what it leaves open is
decided here as said at `Block` and `DiT`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from difflab.nets.layers import cossin_embedding

Conditioning = Literal["adaln-zero", "adaln", "cross-attention", "in-context"]
Numerics = Literal["official", "diffusers"]

_FREQUENCIES = 256  # width of the timestep's sinusoids
_EPS = 1e-6


class Design(NamedTuple):
    """vectors: what each branch of a block takes from the condition: (shift, scale, gate), (shift, scale) or nothing;
    attends: whether tokens attend to the condition; joins: whether it is part of the sequence."""

    vectors: int = 0
    attends: bool = False
    joins: bool = False


DESIGNS: dict[Conditioning, Design] = {
    "adaln-zero": Design(vectors=3),
    "adaln": Design(vectors=2),
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
        parts = self.linear(swished).unsqueeze(1).chunk(self.branches * self.vectors, dim=2)
        return [Modulation(*parts[i : i + self.vectors]) for i in range(0, len(parts), self.vectors)]


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D): softmax self-attention; scores divided by sqrt(D / heads)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


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
    """Pre-norm attention and MLP, each a residual branch; with `cross-attention` a third branch between them.

    Norms have weights of their own where the condition does not provide them.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, design: Design, mlp_eps: float) -> None:
        super().__init__()
        affine = not design.vectors
        self.norm1 = nn.LayerNorm(width, _EPS, elementwise_affine=affine)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, mlp_eps, elementwise_affine=affine)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.adaLN_modulation = Modulator(width, 2, design.vectors) if design.vectors else None
        self.norm_cross = nn.LayerNorm(width, _EPS) if design.attends else None
        self.cross = CrossAttention(width, heads) if design.attends else None

    def forward(self, x: Tensor, swished: Tensor, context: Tensor) -> Tensor:
        """x (B, T, D); swished (B, D): SiLU of the condition; context (B, 2, D): timestep and label."""
        attn, mlp = self.adaLN_modulation(swished) if self.adaLN_modulation else (Modulation(), Modulation())
        x = attn.add(x, self.attn(attn.input(self.norm1(x))))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), context)
        return mlp.add(x, self.mlp(mlp.input(self.norm2(x))))


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
        num_classes: rows of the label table, apart from that one.
        learn_sigma: whether the variance is learned.
        conditioning: the design. `in-context` puts timestep and label before the picture's tokens, without a position
            code, and takes them away after the last block.
        numerics: `diffusers` repeats what its DiTTransformer2DModel does otherwise than the code the weights were
            trained with (timestep frequencies over 127, eps 1e-5 before the MLP), for comparisons.
    """

    # What meets data, timesteps or labels rather than hidden channels; see `train.optim`.
    edges: ClassVar[tuple[str, ...]] = ("x_embedder", "t_embedder", "y_embedder", "final_layer")

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
        self.y_embedder = LabelEmbedding(num_classes + (class_dropout_prob > 0), hidden_size)
        self.register_buffer("pos_embed", torch.from_numpy(position_table(hidden_size, grid)).float().unsqueeze(0))
        self.pos_embed: Tensor
        mlp_eps = 1e-5 if numerics == "diffusers" else _EPS
        blocks = [Block(hidden_size, num_heads, mlp_ratio, self.design, mlp_eps) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels, self.design)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Answer for noisy `x` (B, C, I, I) at timesteps `t` (B,) with class numbers `y` (B,) int64.

        Raises ValueError on a wrong shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"this DiT takes inputs of shape {self.shape}, not {tuple(x.shape[1:])}")
        tokens = self.x_embedder(x) + self.pos_embed
        told = torch.stack([self.t_embedder(t), self.y_embedder(y)], dim=1)  # (B, 2, D)
        swished = F.silu(told.sum(1))
        if self.design.joins:
            tokens = torch.cat([told, tokens], dim=1)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, swished, told, use_reentrant=False)
            else:
                tokens = block(tokens, swished, told)
        if self.design.joins:
            tokens = tokens[:, told.shape[1] :]
        return self._unpatchify(self.final_layer(tokens, swished))

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
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
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
