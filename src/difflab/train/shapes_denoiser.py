"""The best denoiser of `shapes` there can be: E[x0 | x_t], summed over every scene of the world.

The world is finite and its prior is known. Given the background, a shape changes the log likelihood of a noisy picture
by its correlation with it less half its own energy (a matched filter); two shapes that do not overlap change it by the
sum. So a scene of two needs no picture of its own: what all shapes at one place have to say is summed first, and pairs
of places are what is left.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from difflab.core.denoiser import Estimate
from difflab.core.prediction import to_eps
from difflab.core.schedule import Places, Point
from difflab.data import shapes as world
from difflab.zoo.codec import encode

_PLACES = len(world.ROWS) * len(world.COLUMNS)


class ShapesDenoiser(nn.Module):
    """Exact E[x0 | x_t] for 32x32 pictures of `shapes` in model space, before they are rounded to grey levels.

    Letters in the code: B pictures, G backgrounds, C colours, S sizes (small, large), P places, K kinds.
    """

    def __init__(self) -> None:
        super().__init__()
        masks = torch.from_numpy(world.placed_masks()).double()  # (S, P, K, 1024)
        self._inner = masks.shape[:3]
        background, palette = (model_space(table) for table in (world.BACKGROUNDS, world.COLOURS))
        allowed = _allowed_pairs()
        each = 2 * len(world.KINDS) * len(palette)  # shapes that may lie at one place
        self._log_lone = math.log(0.5 / (_PLACES * each))
        self._log_pair = math.log(0.5 / (int(allowed.sum()) // 2 * each**2))
        self.masks: Tensor
        self.background: Tensor
        self.difference: Tensor
        self.allowed: Tensor
        self.register_buffer("masks", masks.flatten(0, 2))  # (M, 1024)
        self.register_buffer("background", background)  # (G, 3)
        self.register_buffer("difference", palette - background[:, None])  # (G, C, 3): what a shape adds to it
        self.register_buffer("allowed", allowed)  # (P, P)

    def forward(self, x: Tensor, at: Point | Places) -> Estimate:
        """Estimate for noisy pictures x (B, 3, 32, 32), each at its own place or all at one.

        Sums run in double precision: at little noise log likelihoods of a million are compared to a tenth.
        """
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64, device=x.device).reshape(-1, 1, 1) for v in at[1:])
        x0 = self._mean(x.flatten(2) * (alpha / sigma**2), (alpha / sigma) ** 2).to(x.dtype).view_as(x)
        return Estimate(x0, to_eps(x0, x, at, "x0"))

    def _mean(self, z: Tensor, snr: Tensor) -> Tensor:
        """Posterior mean (B, 3, 1024) from z = x alpha / sigma^2 and snr = alpha^2 / sigma^2 (B or 1, 1, 1)."""
        gain = self._gain(z, snr[..., None]).unflatten(-1, self._inner)  # (B, G, C, S, P, K)
        at_place = gain.transpose(2, 4).flatten(3).logsumexp(-1)  # (B, G, P)
        # What a scene's other shape has to say, for each place of one shape; nothing, where it is alone.
        pair = (at_place[..., None, :] + self._log_pair).masked_fill(~self.allowed, -math.inf).logsumexp(-1)
        rest = torch.logaddexp(pair, torch.full_like(pair, self._log_lone))  # (B, G, P)
        lone, both = at_place + self._log_lone, at_place + pair - math.log(2)  # a pair is met from both its places
        either = torch.logaddexp(lone.logsumexp(-1), both.logsumexp(-1))  # (B, G)
        background = (self._of_background(z, snr[..., 0]) + either).log_softmax(-1)
        scale = rest + (background - either)[..., None]
        share = (gain + scale[:, :, None, None, :, None]).exp()
        weights = torch.einsum("gcd,bgcm->bdm", self.difference, share.flatten(3))
        return weights @ self.masks + (background.exp() @ self.background)[..., None]

    def _gain(self, z: Tensor, snr: Tensor) -> Tensor:
        """(B, G, C, M) how much log likelihood each shape adds to the bare background."""
        d, energy, mass = self.difference, self.masks.square().sum(1), self.masks.sum(1)
        along = torch.einsum("gcd,bdm->bgcm", d, z @ self.masks.T)
        over = (d * self.background[:, None]).sum(-1)[..., None] * mass  # what the background has there already
        return along - snr * (over + 0.5 * d.square().sum(-1)[..., None] * energy)

    def _of_background(self, z: Tensor, snr: Tensor) -> Tensor:
        """(B, G) log likelihood of a bare background, up to a term that all of them share."""
        return z.sum(2) @ self.background.T - 0.5 * snr * z.shape[2] * self.background.square().sum(1)


def model_space(table: dict[str, tuple[int, int, int]]) -> Tensor:
    """A table of grey levels as (N, 3) in [-1, 1]."""
    return encode(np.array(list(table.values()), np.uint8)[:, None, None]).flatten(1).double()


def _allowed_pairs() -> Tensor:
    """(P, P) whether the world draws two shapes at these places, in either order."""
    allowed = torch.zeros(_PLACES, _PLACES, dtype=torch.bool)
    allowed[tuple(torch.from_numpy(world.place_pairs()).T)] = True
    return allowed | allowed.T
