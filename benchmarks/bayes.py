"""How far a model of `shapes`, scenes or clips, is from the best there can be, at each noise level.

Printed are mean squared errors of the clean picture, or clip of the class that it has, in model space: of the exact
posterior mean E[x0 | x_t], which no denoiser can beat, and for each model its error and its distance to that mean. The
distance says where a model loses: at large t in where and what the shapes are, at small t in their edges.

    python benchmarks/bayes.py MODEL [MODEL ..] [--count 256]
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

import difflab
from difflab.core.denoiser import Denoiser, Told
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.train.motions_denoiser import MotionsDenoiser
from difflab.train.shapes_denoiser import ShapesDenoiser
from difflab.zoo.codec import encode

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
    frames = models[0].frames
    world = Shapes(seed=7) if frames is None else ShapesClips(frames=frames, seed=7)
    pictures, classes = world.batch(np.arange(options.count))
    x0, labels = encode(pictures), torch.from_numpy(classes)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    best = ShapesDenoiser() if frames is None else partial(MotionsDenoiser(frames), labels=labels)
    print(f"{'t':>5}{'exact':>10}" + "".join(f"{name[-24:]:>26}{'to exact':>10}" for name in options.models))
    for t in TIMESTEPS:
        at = schedule.point(t)
        x = at.alpha * x0 + at.sigma * eps
        with torch.no_grad():
            exact = best(x, at).x0
            found = [
                Denoiser(Told(m.network, (labels,) if frames else ()), m.card.prediction)(x, at).x0 for m in models
            ]
        columns = "".join(f"{(f - x0).square().mean():>26.5f}{(f - exact).square().mean():>10.5f}" for f in found)
        print(f"{t:>5}{(exact - x0).square().mean():>10.5f}{columns}", flush=True)


if __name__ == "__main__":
    main()
