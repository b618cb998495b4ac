"""How far a model of `shapes`, scenes, their latents, or clips, is from the best there can be, at each noise level.

Printed are mean squared errors of the clean picture, or latent or clip of the class that it has, in model space: of the
exact posterior mean E[x0 | x_t], which no denoiser can beat, and of each model its error and its distance to it.
The distance says where a model loses: at large t in where and what the shapes are, at small t in their edges. Latents
are the means of their posteriors; a model that was trained on draws from these keeps their spread at small t.

    python benchmarks/bayes.py MODEL [MODEL ..] [--count 256]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import difflab
from difflab.core.denoiser import Denoiser, Estimate, Told
from difflab.core.schedule import Point
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.train.latents_denoiser import LatentsDenoiser
from difflab.train.motions_denoiser import MotionsDenoiser
from difflab.train.shapes_denoiser import ShapesDenoiser
from difflab.zoo.codec import LatentCodec, encode, encode_moments
from difflab.zoo.model import Model

TIMESTEPS = (150, 300, 400, 500, 600, 700, 800, 900, 950)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args()
    models = [difflab.load(model) for model in options.models]
    schedule = models[0].schedule
    if any(m.card.schedule != models[0].card.schedule for m in models):
        raise SystemExit("these models have different noise schedules; compare models of one schedule")
    if len({m.frames for m in models}) > 1:
        raise SystemExit("these models draw clips of different lengths; compare models of one")
    x0, labels, best = clean(models[0], options.count)
    told = models[0].card.network.classes is not None
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    print(f"{'t':>5}{'exact':>10}" + "".join(f"{name[-24:]:>26}{'to exact':>10}" for name in options.models))
    for t in TIMESTEPS:
        at = schedule.point(t)
        x = at.alpha * x0 + at.sigma * eps
        with torch.no_grad():
            exact = best(x, at).x0
            found = [estimate(m, (labels,) if told else (), x, at) for m in models]
        columns = "".join(f"{(f - x0).square().mean():>26.5f}{(f - exact).square().mean():>10.5f}" for f in found)
        print(f"{t:>5}{(exact - x0).square().mean():>10.5f}{columns}", flush=True)


def estimate(model: Model, told: tuple[Tensor, ...], x: Tensor, at: Point) -> Tensor:
    """The model's guess of the clean sample."""
    network = Told(model.network, told)
    return Denoiser(network, model.card.prediction, model.card.variance == "learned")(x, at).x0


def clean(model: Model, count: int) -> tuple[Tensor, Tensor, Callable[..., Estimate]]:
    """Clean samples of the model's world (N, ..), their classes (N,), and its exact denoiser."""
    if model.frames is not None:
        clips, classes = ShapesClips(frames=model.frames, seed=7).batch(np.arange(count))
        labels = torch.from_numpy(classes)
        return encode(clips), labels, partial(MotionsDenoiser(model.frames), labels=labels)
    pictures, classes = Shapes(seed=7).batch(np.arange(count))
    labels = torch.from_numpy(classes)
    if not isinstance(model.codec, LatentCodec):
        return encode(pictures), labels, ShapesDenoiser()
    cpu, autoencoder = torch.device("cpu"), model.codec.autoencoder
    latents = encode_moments(autoencoder, pictures, cpu).mean * model.codec.scale
    return latents, labels, partial(LatentsDenoiser.of_shapes(autoencoder, cpu), labels=labels)


if __name__ == "__main__":
    main()
