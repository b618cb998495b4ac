"""The best denoiser of clips of `shapes` there can be: E[x0 | x_t, what is known], summed over every clip of the world.

A clip has one shape, so a frame's matched filter (see `train.shapes_denoiser`) is asked once for each place, and what a
way through the clip has to say is the sum over the places that it passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from difflab.core.denoiser import Estimate
from difflab.core.prediction import to_eps
from difflab.core.schedule import Places, Point
from difflab.data import shapes_clips as world
from difflab.data.captions import read
from difflab.data.shapes import BACKGROUNDS, COLOURS
from difflab.train.shapes_denoiser import model_space

KNOWN = ("background", "kind", "colour", "size", "direction", "speed")  # what may be known of a clip beforehand
_OF_WAYS = ("kind", "size", "direction", "speed")


def known_of_classes(labels: Tensor) -> Tensor:
    """What classes (B,) say of clips (B, 6), in the order of `KNOWN`; -1 is not known, as is all of one past the
    last."""
    kind, direction = labels // len(world.DIRECTIONS), labels % len(world.DIRECTIONS)
    silent = torch.full_like(labels, -1)
    told = torch.stack([silent, kind, silent, silent, direction, silent], dim=1)
    return torch.where((labels < len(world.CLASSES))[:, None], told, -1)


def known_of_captions(captions: Sequence[str]) -> Tensor:
    """What sentences say of clips (B, 6), in the order of `KNOWN`; an empty one says nothing, and -1 is not known."""
    rows = []
    for caption in captions:
        said: dict[str, int | None] = {}
        if caption:
            claim = read(caption)
            said = {**vars(claim.things[0]), **vars(claim)}
        rows.append([-1 if said.get(name) is None else said[name] for name in KNOWN])
    return torch.tensor(rows)


class MotionsDenoiser(nn.Module):
    """Exact E[x0 | x_t, what is known] for 32x32 clips of `shapes` in model space, before rounding to grey levels.

    Letters in the code: B clips, F frames, G backgrounds, C colours, W ways (of a shape of some kind and size), M masks
    of one frame, each of which several ways pass.

    Args:
        frames: of each clip.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        ways, probability = world.every_way()
        masks, passed = world.masks_of(ways, frames)  # (M, 32, 32), (W, F)
        at_once = passed.T + len(masks) * np.arange(frames)[:, None]
        background, palette = model_space(BACKGROUNDS), model_space(COLOURS)
        self.frames = frames
        self.masks: Tensor
        self.passed: Tensor
        self.log_prior: Tensor
        self.background: Tensor
        self.difference: Tensor
        self.register_buffer("masks", torch.from_numpy(masks).double().flatten(1))  # (M, 1024)
        self.register_buffer("passed", torch.from_numpy(at_once))  # (F, W) indices into (F, M), flattened
        self.register_buffer("log_prior", torch.from_numpy(np.log(probability)))  # (W,)
        for name in _OF_WAYS:
            self.register_buffer(name, torch.from_numpy(getattr(ways, name)))  # (W,)
        self.register_buffer("background", background)  # (G, 3)
        self.register_buffer("difference", palette - background[:, None])  # (G, C, 3): what a shape adds to it

    @torch.no_grad()
    def forward(self, x: Tensor, at: Point | Places, known: Tensor | None = None) -> Estimate:
        """Estimate for noisy clips x (B, 3, F, 32, 32), each at its own place or all at one.

        Sums run in double precision: at little noise log likelihoods of a million are compared to a tenth.

        Args:
            known: (B, 6) what is known of each clip, in the order of `KNOWN`, -1 is not; None is nothing of any.
        """
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64, device=x.device).reshape(-1, 1, 1, 1) for v in at[1:])
        prior = self.log_prior if known is None else self._given(known) + self.log_prior
        x0 = self._mean(x.flatten(3) * (alpha / sigma**2), (alpha / sigma) ** 2, prior).to(x.dtype).view_as(x)
        return Estimate(x0, to_eps(x0, x, at, "x0"))

    def _given(self, known: Tensor) -> Tensor:
        """(B, G, C, W) log of 1 where a clip agrees with what is known, else of 0."""
        told = dict(zip(KNOWN, known.T, strict=True))

        def agrees(name: str, values: Tensor) -> Tensor:
            """(B, n) whether each of the values (n,) may be."""
            return (told[name][:, None] == values) | (told[name] < 0)[:, None]

        grounds = agrees("background", torch.arange(len(self.background), device=known.device))
        colours = agrees("colour", torch.arange(self.difference.shape[1], device=known.device))
        ways = torch.stack([agrees(name, getattr(self, name)) for name in _OF_WAYS]).all(0)
        possible = grounds[:, :, None, None] & colours[:, None, :, None] & ways[:, None, None, :]
        return torch.zeros_like(possible, dtype=torch.float64).masked_fill(~possible, -math.inf)

    def _mean(self, z: Tensor, snr: Tensor, prior: Tensor) -> Tensor:
        """Posterior mean (B, 3, F, 1024) from z = x alpha / sigma^2, snr = alpha^2 / sigma^2 and the prior's logits."""
        logits = prior + self._gain(z, snr) + self._of_background(z, snr[..., 0, 0])[..., None, None]  # (B, G, C, W)
        share = logits.flatten(1).softmax(1).view_as(logits)
        along = torch.einsum("gcd,bgcw->bdw", self.difference, share)
        at_masks = along.new_zeros(*along.shape[:2], self.frames * len(self.masks))
        at_masks.index_add_(2, self.passed.flatten(), along.repeat(1, 1, self.frames))
        background = share.sum((2, 3)) @ self.background
        return at_masks.unflatten(2, (self.frames, -1)) @ self.masks + background[..., None, None]

    def _gain(self, z: Tensor, snr: Tensor) -> Tensor:
        """(B, G, C, W) how much log likelihood a shape on its way adds to the bare background."""
        d, energy, mass = (
            self.difference,
            self._over_ways(self.masks.square().sum(1)),
            self._over_ways(self.masks.sum(1)),
        )
        seen = (z @ self.masks.T).flatten(2)[..., self.passed].sum(2)  # (B, 3, W)
        over = (d * self.background[:, None]).sum(-1)[..., None] * mass  # what the background has there already
        return torch.einsum("gcd,bdw->bgcw", d, seen) - snr * (over + 0.5 * d.square().sum(-1)[..., None] * energy)

    def _over_ways(self, of_masks: Tensor) -> Tensor:
        """(W,) sums over the masks that each way passes, of (M,)."""
        return of_masks.repeat(self.frames)[self.passed].sum(0)

    def _of_background(self, z: Tensor, snr: Tensor) -> Tensor:
        """(B, G) log likelihood of a bare background, up to a term that all of them share."""
        pixels = z.shape[2] * z.shape[3]
        return z.sum((2, 3)) @ self.background.T - 0.5 * snr * pixels * self.background.square().sum(1)
