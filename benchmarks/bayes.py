"""How far a model of `shapes` is from the best there can be, at each noise level.

Printed are mean squared errors of the clean picture in model space: of the exact posterior mean E[x0 | x_t], which no
denoiser can beat, and for each model its error and its distance to that mean. The distance says where a model loses: at
large t in where and what the shapes are, at small t in their edges.

    python benchmarks/bayes.py MODEL [MODEL ..] [--count 256]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import difflab
from difflab.core.denoiser import Denoiser, Told
from difflab.data.shapes import Shapes
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
    x0 = encode(Shapes(seed=7).batch(np.arange(options.count))[0])
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    best = ShapesDenoiser()
    print(f"{'t':>5}{'exact':>10}" + "".join(f"{name[-24:]:>26}{'to exact':>10}" for name in options.models))
    for t in TIMESTEPS:
        at = schedule.point(t)
        x = at.alpha * x0 + at.sigma * eps
        with torch.no_grad():
            exact = best(x, at).x0
            found = [Denoiser(Told(m.network), m.card.prediction)(x, at).x0 for m in models]
        columns = "".join(f"{(f - x0).square().mean():>26.5f}{(f - exact).square().mean():>10.5f}" for f in found)
        print(f"{t:>5}{(exact - x0).square().mean():>10.5f}{columns}", flush=True)


if __name__ == "__main__":
    main()
