"""What is random in a training: it depends on the recipe's seed, the step and the place in the whole batch alone,
however many processes and parts a batch is shared out to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor


@unique
class Of(IntEnum):
    """What is drawn; each has streams of its own."""

    BESIDE = 1  # single frames beside clips
    CAPTIONS = 2
    TIMESTEPS = 3
    NOISE = 4
    HIDDEN = 5  # classes and captions
    SHARES = 6  # of noise
    LATENTS = 7
    GREYS = 8  # within a grey level
    WINDOWS = 9  # of films
    BESIDE_WINDOWS = 10  # of films that single frames are of


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for what is random in one step on one device."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream(seed: int, step: int, of: Of, *place: int) -> list[int]:
    """What seeds numpy's generator for a step, or for one place in it."""
    return [seed, step, 0, of, *place]  # the 0 is where `step_seed` has the rank


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step for a process's own samples.

    What is one number a sample is drawn for the whole batch, so that timesteps can come in pairs. Tensors are drawn for
    the own samples only, each from a stream of its own: seeding torch's generator anew costs a third more time than one
    stream for all, a counter-based one of numpy (`core.noise`) three times as much. torch takes 32 bits of a seed, so
    that a few samples among hundreds of thousands share their noise with one of another step.

    Args:
        seed, step: of the recipe, and from 0.
        whole: samples of the whole batch.
        own: which of them are this process's.
    """

    seed: int
    step: int
    whole: int
    own: slice = field(default_factory=lambda: slice(None))

    def generator(self, of: Of) -> torch.Generator:
        """The stream of what is drawn for the whole batch."""
        return torch.Generator().manual_seed(int(self._seeds(of, 1)[0]))

    def normal(self, of: Of, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32, standard normal."""
        out = self._empty(shape)
        for row, generator in self._rows(out, of):
            row.normal_(generator=generator)
        return out

    def uniform(self, of: Of, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        out = self._empty(shape)
        for row, generator in self._rows(out, of):
            row.uniform_(generator=generator)
        return out

    def _empty(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(len(range(self.whole)[self.own]), *shape)

    def _rows(self, out: Tensor, of: Of) -> zip[tuple[Tensor, torch.Generator]]:
        generator, seeds = torch.Generator(), self._seeds(of, self.whole)[self.own].tolist()
        return zip(out, (generator.manual_seed(seed) for seed in seeds), strict=True)

    def _seeds(self, of: Of, count: int) -> np.ndarray:
        return np.random.SeedSequence(stream(self.seed, self.step, of)).generate_state(count, np.uint64)
