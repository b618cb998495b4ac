"""Noise that depends on (seed, sample index, draw) alone, whatever the batch, worker or restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from difflab.errors import DifflabError


class Noise(Protocol):
    """A source of standard normal tensors: draw 0 is the start, draw k the one that step k (from 1) may use."""

    def draw(self, k: int) -> Tensor: ...


@dataclass(frozen=True)
class SeededNoise:
    """One counter-based stream (Philox) per sample: key (seed, index), counter k.

    Args:
        seed: 0 <= seed < 2^64.
        indices: (B,) sample indices of this batch.
        shape: of one sample.
        device: where the tensors go; the numbers are made on the CPU, so that they are the same everywhere.
        block: another one is another stream of the same samples, for what is drawn after them.
    """

    seed: int
    indices: Sequence[int]
    shape: tuple[int, ...]
    device: torch.device | str = "cpu"
    block: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise DifflabError(f"seed is {self.seed}, but must lie between 0 and 2^64 - 1.")

    def draw(self, k: int) -> Tensor:
        """(B, *shape) float32."""
        out = np.empty((len(self.indices), *self.shape), np.float32)
        stream = np.random.Philox(key=np.array([self.seed, 0], np.uint64), counter=[0, self.block, 0, k])
        generator, fresh = np.random.Generator(stream), stream.state
        for row, index in zip(out, self.indices, strict=True):
            fresh["state"]["key"][1] = index  # begins the sample's stream; building a new one takes five times as long
            stream.state = fresh
            generator.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(out).to(self.device)


@dataclass(frozen=True)
class ClipNoise:
    """The noise of clips (B, C, F, H, W), drawn frame by frame: clips of another length begin with the same frames."""

    frames: SeededNoise  # of shape (F, C, H, W)

    def draw(self, k: int) -> Tensor:
        """(B, C, F, H, W) float32."""
        return self.frames.draw(k).transpose(1, 2).contiguous()


def seeded_classes(seed: int, indices: Sequence[int], classes: int) -> list[int]:
    """A class number, uniform over `classes`, for each sample; like its noise it depends on (seed, index) alone."""
    streams = (np.random.Philox(key=np.array([seed, i], np.uint64), counter=[0, 0, 1, 0]) for i in indices)
    return [int(np.random.Generator(stream).integers(classes)) for stream in streams]


@dataclass(frozen=True)
class GivenNoise:
    """Noise handed in by the caller: the start, and one tensor for each step in order.

    Raises DifflabError when a draw is asked for that was not given.
    """

    start: Tensor
    steps: Sequence[Tensor]

    def draw(self, k: int) -> Tensor:
        """(B, ..) float32 of the start's shape."""
        if k == 0:
            return self.start
        if k > len(self.steps):
            raise DifflabError(
                f"noise: step {k} draws noise, but only {len(self.steps)} arrays were given; give one a step."
            )
        return self.steps[k - 1]


@dataclass(frozen=True)
class StartedNoise:
    """A given start (B, ..); what steps draw comes from another source."""

    start: Tensor
    steps: Noise

    def draw(self, k: int) -> Tensor:
        """(B, ..) of the start's shape."""
        return self.start if k == 0 else self.steps.draw(k)


def slerp(z1: Tensor, z2: Tensor, share: float) -> Tensor:
    """Spherical interpolation between two latents: `z1` at share 0, `z2` at share 1 (Song, Meng and Ermon 2021, D.5).

    The angle is taken over the whole tensors, so they should be one latent each.
    """
    a, b = z1.double().flatten(), z2.double().flatten()
    theta = torch.arccos(torch.clamp(a @ b / (a.norm() * b.norm()), -1.0, 1.0))
    if theta < 1e-6:
        return torch.lerp(z1, z2, share)  # the limit; the formula would divide by zero
    weights = torch.sin((1 - share) * theta) / torch.sin(theta), torch.sin(share * theta) / torch.sin(theta)
    return (weights[0] * z1 + weights[1] * z2).to(z1.dtype)
