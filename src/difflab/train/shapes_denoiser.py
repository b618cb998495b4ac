"""The best denoiser of `shapes` there can be: E[x0 | x_t], summed over every scene of the world.

The world is finite and its prior is known. Given the background, a shape changes the log likelihood of a noisy picture
by its correlation with it less half its own energy (a matched filter); two shapes that do not overlap change it by the
sum. So a scene of two needs no picture of its own: what the kinds of a shape have to say is summed first, and then all
pairs of colour and place fit into one small array.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from difflab.core.denoiser import Estimate
from difflab.core.prediction import to_eps
from difflab.core.schedule import Places, Point
from difflab.data import shapes as world

_PLACES = len(world.ROWS) * len(world.COLUMNS)


class ShapesDenoiser(nn.Module):
    """Exact E[x0 | x_t] for 32x32 pictures of `shapes` in model space, before they are rounded to grey levels.

    Letters in the code: B pictures, G backgrounds, C colours, S sizes (small, large), P places, K kinds.
    """

    def __init__(self) -> None:
        super().__init__()
        masks = torch.from_numpy(world.placed_masks())  # (S, P, K, 1024)
        self._inner = masks.shape[:3]
        background, palette = (_model_space(table) for table in (world.BACKGROUNDS, world.COLOURS))
        allowed = _allowed_pairs(len(palette))
        self._log_lone = math.log(0.5 / (2 * _PLACES * len(world.KINDS) * len(palette)))
        self._log_pair = math.log(0.5 / (int(allowed.sum()) * len(world.KINDS) ** 2))
        self.masks: Tensor
        self.background: Tensor
        self.difference: Tensor
        self.allowed: Tensor
        self.register_buffer("masks", masks.flatten(0, 2))  # (M, 1024)
        self.register_buffer("background", background)  # (G, 3)
        self.register_buffer("difference", palette - background[:, None])  # (G, C, 3): what a shape adds to it
        self.register_buffer("allowed", allowed)  # (P C, P C)

    def forward(self, x: Tensor, at: Point | Places) -> Estimate:
        """Estimate for noisy pictures x (B, 3, 32, 32), each at its own place or all at one."""
        x0 = self._mean(x.flatten(2) / _column(at.alpha, x), (_column(at.alpha, x) / _column(at.sigma, x)) ** 2)
        return Estimate(x0.view_as(x), to_eps(x0.view_as(x), x, at, "x0"))

    def _mean(self, z: Tensor, precision: Tensor) -> Tensor:
        """Posterior mean (B, 3, 1024) from z = x / alpha, the picture and noise of that precision (B, 1, 1)."""
        gain = self._gain(z) * precision[..., None]  # (B, G, C, M)
        gain = gain.unflatten(-1, self._inner)  # (B, G, C, S, P, K)
        lone = gain + self._log_lone
        small, large = (_by_pair(gain[:, :, :, size].logsumexp(-1)) for size in (0, 1))  # (B, G, P C)
        pair = (large[..., :, None] + small[..., None, :] + self._log_pair).masked_fill(~self.allowed, -math.inf)
        background = self._background_likelihood(z) * precision[..., 0]  # (B, G)
        either = torch.logaddexp(lone.flatten(2).logsumexp(-1), pair.flatten(2).logsumexp(-1))
        log_background = (background + either).log_softmax(-1)
        # The share of each shape: alone, or as one of two, where its partner's share is already summed.
        scale = (log_background - either)[..., None, None, None]
        share = (lone + scale[..., None]).exp()
        for size, both, own in ((0, pair.logsumexp(-2), small), (1, pair.logsumexp(-1), large)):
            partner = _from_pair(both - own, gain.shape[2])  # (B, G, C, P)
            share[:, :, :, size] += (gain[:, :, :, size] + partner[..., None] + scale).exp()
        weights = torch.einsum("gcd,bgcm->bdm", self.difference, share.flatten(3))
        return weights @ self.masks + (log_background.exp() @ self.background)[..., None]

    def _gain(self, z: Tensor) -> Tensor:
        """(B, G, C, M) how much log likelihood at precision 1 each shape adds to the bare background."""
        d, energy, mass = self.difference, self.masks.square().sum(1), self.masks.sum(1)
        along = torch.einsum("gcd,bdm->bgcm", d, z @ self.masks.T)
        along = along - (d * self.background[:, None]).sum(-1)[..., None] * mass
        return along - 0.5 * d.square().sum(-1)[..., None] * energy

    def _background_likelihood(self, z: Tensor) -> Tensor:
        """(B, G) log likelihood at precision 1 of a bare background, up to a term that all of them share."""
        return z.sum(2) @ self.background.T - 0.5 * z.shape[2] * self.background.square().sum(1)


def _model_space(table: dict[str, tuple[int, int, int]]) -> Tensor:
    """A table of grey levels as (N, 3) in [-1, 1]."""
    return torch.tensor(list(table.values()), dtype=torch.float32) / 127.5 - 1.0


def _column(value: float | Tensor, x: Tensor) -> Tensor:
    """A scale as (B or 1, 1, 1)."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)


def _by_pair(v: Tensor) -> Tensor:
    """(B, G, C, P) -> (B, G, P C)."""
    return v.transpose(2, 3).flatten(2)


def _from_pair(v: Tensor, colours: int) -> Tensor:
    """(B, G, P C) -> (B, G, C, P)."""
    return v.unflatten(2, (_PLACES, colours)).transpose(2, 3)


def _allowed_pairs(colours: int) -> Tensor:
    """(P C, P C) whether the world draws a large shape (row) and a small one (column) of these places and colours."""
    places = torch.zeros(_PLACES, _PLACES, dtype=torch.bool)
    places[tuple(torch.from_numpy(world.place_pairs()).T)] = True
    return torch.kron(places, ~torch.eye(colours, dtype=torch.bool))
