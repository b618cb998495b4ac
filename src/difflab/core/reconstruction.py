"""Reconstruction guidance (Ho et al. 2022, section 3.1): completing samples of which a part is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from difflab.core.denoiser import Denoise, Estimate
from difflab.core.noise import Noise
from difflab.core.prediction import add_noise, to_eps
from difflab.core.schedule import Point
from difflab.errors import DifflabError

_APART = 1 << 32  # the draws for the known part, apart from those of the steps


@dataclass
class Reconstruction:
    """A denoiser for clips whose first frames are known.

    At every place the known frames are noised anew, and the estimate of the others is moved so that the estimate of the
    known ones comes out right: x0_b - weight alpha / 2 * d |a - x0_a|^2 / dz_b, a sum of squares for each sample. That
    follows, with weight 1, from E[b | z, a] if a is taken as normal around its estimate, with variance sigma^2 /
    alpha^2. That is more than it has where a and b hang together, so larger weights may follow the known frames better.
    The gradient goes through the network, which makes a step two to three times as costly.

    Args:
        denoise: of the whole clips.
        known: (B, C, n, H, W) the first frames, in model space.
        noise: of samples of the whole shape; see `core.noise`.
        weight: at least 0, which only puts the known frames in their place, and the others hardly follow them.
        clip: whether estimates are clamped to [-1, 1] after they are moved.
    """

    denoise: Denoise
    known: Tensor
    noise: Noise
    weight: float = 1.0
    clip: bool = False
    _places: int = field(default=0, init=False)
    _fresh: tuple[Point, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0.0):
            raise DifflabError(f"the weight of reconstruction guidance is {self.weight:g}, but must be 0 or more.")

    def __call__(self, x: Tensor, at: Point) -> Estimate:
        """Estimate for x (B, C, F, H, W) at a point that all samples share."""
        n = self.known.shape[2]
        if self._fresh is None or self._fresh[0] != at:  # a second call at one place sees what the first one saw
            self._fresh = at, self.noise.draw(_APART + self._places)[:, :, :n]
            self._places += 1
        fresh = self._fresh[1]
        z = torch.cat([add_noise(self.known, fresh, at), x[:, :, n:]], dim=2)
        if self.weight == 0.0:
            estimate = self.denoise(z, at)
            moved = estimate.x0[:, :, n:]
        else:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                estimate = self.denoise(z, at)
                error = (self.known - estimate.x0[:, :, :n]).square().sum()
                (gradient,) = torch.autograd.grad(error, z)
            moved = estimate.x0[:, :, n:].detach() - self.weight * at.alpha / 2 * gradient[:, :, n:]
            z = z.detach()
        x0 = torch.cat([self.known, moved.clamp(-1.0, 1.0) if self.clip else moved], dim=2)
        share = None if estimate.variance_share is None else estimate.variance_share.detach()
        return Estimate(x0, to_eps(x0, z, at, "x0"), share)
