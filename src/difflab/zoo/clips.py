"""What is done with clips beyond drawing them: mixing two, completing one whose beginning is known, and going on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.core.noise import Noise, StartedNoise
from difflab.core.prediction import add_noise
from difflab.core.reconstruction import Reconstruction
from difflab.core.sampler import final, trajectory
from difflab.core.schedule import CLEAN
from difflab.errors import DifflabError
from difflab.zoo.draw import Draw, clamps, corrector_of, plan, told_of
from difflab.zoo.model import Model
from difflab.zoo.sampling import denoiser_of, sample_batches, sample_raw, seeded_noise


def interpolate(
    model: Model, first: Tensor, second: Tensor, noises: tuple[Tensor, Tensor], t: int, share: float, steps: Noise
) -> Tensor:
    """What lies between two clips: both are noised to timestep t, mixed there, and cleaned again.

    Args:
        model: an unconditional model.
        first, second: (B, C, F, H, W) in model space.
        noises: of the two, each of their shape.
        t: 1 .. T - 1; more noise leaves less of either.
        share: of the second, 0 to 1.
        steps: what the ancestral steps draw, from 1.

    Returns the mixture (B, C, F, H, W). The first of its t steps is told t - 1, as in video-diffusion-pytorch. Raises
    DifflabError for a t or share out of range.
    """
    if not 1 <= t < model.schedule.timesteps:
        raise DifflabError(f"t is {t}, but must lie between 1 and {model.schedule.timesteps - 1}.")
    if not 0.0 <= share <= 1.0:
        raise DifflabError(f"share is {share:g}, but must lie between 0 (the first clip) and 1 (the second).")
    draw = Draw("ddpm", model.schedule.timesteps)
    sampler, _ = plan(model, draw)
    at = model.schedule.point(t)
    noised = [add_noise(x, z, at) for x, z in zip((first, second), noises, strict=True)]
    points = [model.schedule.point(k) for k in range(t - 1, CLEAN - 1, -1)]
    source = StartedNoise(torch.lerp(noised[0], noised[1], share), steps)
    return final(trajectory(denoiser_of(model, draw, None), sampler, points, source))


def complete(
    model: Model, draw: Draw, known: Tensor, indices: range, *, seed: int = 0, weight: float = 1.0, block: int = 0
) -> Tensor:
    """Clips that begin with given frames, by reconstruction guidance.

    Args:
        model: of clips; its length is that of the result.
        draw: the sampler's settings.
        known: (B, C, n, H, W) the first frames, in model space.
        indices: of the samples, which with the seed decide their noise.
        seed: of the noise, and of random classes.
        weight: see `core.reconstruction`.
        block: of a clip that is drawn in several, counted from 0; each has noise of its own, and all one class.

    Returns (B, C, F, H, W) in model space, whose first n frames are `known`. Raises DifflabError unless 0 < n < F.
    """
    _check_given(model, known)
    given = known.shape[2]
    sampler, points = plan(model, draw)
    noise = seeded_noise(model, seed, indices, block)
    plain = denoiser_of(model, replace(draw, clip=False), told_of(model, draw, seed, indices))
    guided = Reconstruction(plain, known.to(model.device), noise, weight, clamps(model, draw))
    x = final(trajectory(guided, sampler, points, noise, corrector_of(draw)))
    return torch.cat([known.to(x), x[:, :, given:]], dim=2)


def _check_given(model: Model, known: Tensor) -> None:
    given, frames = known.shape[2], model.frames
    if frames is None:
        raise DifflabError(f"{model.card.name}: is a model of pictures, which have no beginning to complete.")
    if not 0 < given < frames:
        raise DifflabError(
            f"{model.card.name}: {given} frames were given, but it draws clips of {frames}, of which at least one must "
            "be left to draw; give fewer, or ask for more frames."
        )
    if tuple(known.shape[1:2] + known.shape[3:]) != model.shape[:1] + model.shape[2:]:
        raise DifflabError(
            f"{model.card.name}: the given frames have shape {tuple(known.shape[1:])}, but it draws {model.shape}."
        )


def extend(
    model: Model, draw: Draw, begun: Tensor, length: int, overlap: int, indices: range, *, seed: int = 0,
    weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Clips of `length` frames that go on from the frames `begun` (B, C, n, H, W), block by block.

    Each block is drawn so that its beginning agrees with the last `overlap` frames before it. Where more frames than
    `length` have begun, the first ones are left. See `complete` for the rest.
    """
    blocks_of(model, length, overlap)
    if begun.shape[2] < overlap:
        raise DifflabError(f"overlap is {overlap}, but only {begun.shape[2]} frames are there to go on from.")
    block = 1
    while begun.shape[2] < length:
        fresh = complete(model, draw, begun[:, :, -overlap:], indices, seed=seed, weight=weight, block=block)
        begun, block = torch.cat([begun, fresh[:, :, overlap:]], dim=2), block + 1
    return begun[:, :, :length]


def blocks_of(model: Model, length: int, overlap: int) -> int:
    """How many blocks a clip of `length` frames is drawn in, the first one from noise alone.

    Raises DifflabError for a model of pictures, or an overlap that is not shorter than a clip.
    """
    frames = model.frames
    if frames is None:
        raise DifflabError(f"{model.card.name}: is a model of pictures, which cannot be extended; leave it out.")
    if not 0 < overlap < frames:
        raise DifflabError(
            f"overlap is {overlap}, but must lie between 1 and {frames - 1}, one less than the model's clips have."
        )
    return 1 + max(0, -(-(length - frames) // (frames - overlap)))


@dataclass(frozen=True)
class Extension:
    """How clips go on.

    length: frames they are extended to, None is not; overlap: frames that a block begins with; weight: see
    `core.reconstruction`; known: (1, C, n, H, W) frames that all of them begin with, None for ones drawn.
    """

    length: int | None
    overlap: int
    weight: float = 1.0
    known: Tensor | None = None

    def check(self, model: Model) -> None:
        """Raise DifflabError where clips of `model` cannot begin or go on so."""
        if self.length is not None:
            blocks_of(model, self.length, self.overlap)
        if self.known is not None:
            _check_given(model, self.known)

    def record(self) -> dict[str, Any]:
        """What decides the clips."""
        known = None if self.known is None else hashlib.sha256(self.known.cpu().numpy().tobytes()).hexdigest()
        return {"length": self.length, "overlap": self.overlap, "weight": self.weight, "known": known}


def batches_of(
    model: Model, draw: Draw, seed: int, indices: range, batch: int, how: Extension | None
) -> Iterator[np.ndarray]:
    """Samples with the given indices, at most `batch` at a time, as `sampling.sample_batches` has them; clips may be
    completed or go on: uint8 (b, F, H, W, C).

    Raises DifflabError, before anything is drawn, for an extension that does not fit the model.
    """
    if how is None:
        yield from sample_batches(model, draw, seed, indices, batch)
        return
    how.check(model)
    for begin in range(0, len(indices), batch):
        rows = indices[begin : begin + batch]
        if how.known is None:
            x = sample_raw(model, draw, seed, rows)
        else:
            x = complete(model, draw, how.known.expand(len(rows), -1, -1, -1, -1), rows, seed=seed, weight=how.weight)
        if how.length is not None:
            x = extend(model, draw, x, how.length, how.overlap, rows, seed=seed, weight=how.weight)
        yield model.codec.decode(x)
