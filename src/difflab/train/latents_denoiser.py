"""The best denoiser of latents of `shapes` there can be: E[x0 | x_t, class], summed over every scene of the world.

An autoencoder mixes what shapes at different places say, so that the sum does not come apart as that of pixels does
(see `shapes_denoiser`). But latents are short, and the world has 77,880 scenes: they are weighed one by one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from difflab.core.denoiser import Estimate
from difflab.core.prediction import to_eps
from difflab.core.schedule import Places, Point
from difflab.data import shapes as world
from difflab.zoo.autoencoder import Autoencoder
from difflab.zoo.codec import encode_moments

_AT_ONCE = 512  # scenes encoded at a time


class LatentsDenoiser(nn.Module):
    """Exact E[x0 | x_t, class] where x0 is one of N latents with known probabilities.

    Weights are summed in single precision, which tells latents apart that lie well over 1 from one another; those of
    `shapes-vae` lie 4 apart and more.

    Args:
        latents: (N, C, H, W) float32.
        probability: (N,) of each, together 1.
        labels: (N,) int64 classes, 0 to the largest.
    """

    def __init__(self, latents: Tensor, probability: Tensor, labels: Tensor) -> None:
        super().__init__()
        order = labels.argsort(stable=True)  # so that a class is a slice
        flat = latents.flatten(1)[order]
        self._ends = labels.bincount().cumsum(0).tolist()
        self.latents: Tensor
        self.energy: Tensor
        self.log_prior: Tensor
        self.register_buffer("latents", flat)
        self.register_buffer("energy", flat.square().sum(1))
        self.register_buffer("log_prior", probability[order].double().log().float())

    @classmethod
    def of_shapes(cls, autoencoder: Autoencoder, device: torch.device) -> LatentsDenoiser:
        """That of the means of the autoencoder's posteriors, scaled as networks see them. Takes a minute on a CPU."""
        scenes, probability = world.every_scene()
        means = [
            encode_moments(autoencoder, world.draw(scenes[slice(i, i + _AT_ONCE)]), device).mean
            for i in range(0, len(scenes), _AT_ONCE)
        ]
        latents = torch.cat(means).float() * autoencoder.scale
        labels = torch.from_numpy(scenes.labels).to(device)
        return cls(latents, torch.from_numpy(probability).to(device), labels)

    @torch.no_grad()
    def forward(self, x: Tensor, at: Point | Places, labels: Tensor | None = None) -> Estimate:
        """Estimate for noisy latents x (B, C, H, W), each at its own place or all at one.

        labels: (B,) what is told of each; a number that is no class tells nothing, as None does of all.
        """
        alpha, sigma = (torch.as_tensor(v, dtype=x.dtype, device=x.device).reshape(-1, 1) for v in at[1:])
        z, snr = x.flatten(1) * (alpha / sigma**2), (alpha / sigma) ** 2
        snr = snr.expand(len(x), 1)
        told = np.full(len(x), len(self._ends)) if labels is None else labels.cpu().numpy()
        mean = torch.empty_like(z)
        for label in np.unique(told):
            rows = torch.from_numpy(np.flatnonzero(told == label)).to(x.device)
            mean[rows] = self._mean(z[rows], snr[rows], self._scenes_of(int(label)))
        x0 = mean.view_as(x)
        return Estimate(x0, to_eps(x0, x, at, "x0"))

    def _scenes_of(self, label: int) -> slice:
        """The scenes of a class, or all."""
        if not 0 <= label < len(self._ends):
            return slice(None)
        return slice(self._ends[label - 1] if label else 0, self._ends[label])

    def _mean(self, z: Tensor, snr: Tensor, scenes: slice) -> Tensor:
        """Posterior mean (b, D) over these scenes; z = x alpha / sigma^2 (b, D), snr = (alpha / sigma)^2 (b, 1)."""
        latents = self.latents[scenes]
        log_weights = z @ latents.T - 0.5 * snr * self.energy[scenes] + self.log_prior[scenes]
        return log_weights.softmax(1) @ latents
