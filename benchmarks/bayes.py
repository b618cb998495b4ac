"""How far a model of `shapes` is from the best there can be, at each noise level.

The world is finite and its prior is known, so the exact posterior mean E[x0 | x_t] can be summed: shapes never overlap,
so the likelihood of a scene of two is the product of its parts', and all pairs fit into one array. Printed are mean
so the likelihood of a scene of two is the product of its parts, and all pairs fit into one array. Printed are mean
The excess says where a model loses: at large t in where and what the shapes are, at small t in their edges.

    python benchmarks/bayes.py MODEL [MODEL ..] [--count 16]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import difflab
from difflab.core.schedule import Point
from difflab.data import shapes as world
from difflab.zoo.codec import encode

TIMESTEPS = (150, 300, 400, 500, 600, 700, 800, 900, 950)
MASKS, PARTS = world._templates()  # (M, 1024) and (M, 4): kind, size, y, x
BACKGROUNDS, PALETTE = (table / 127.5 - 1 for table in (world._BACKGROUND, world._PALETTE))
ANCHORS = np.array(world._ANCHORS) * world._PHASES
ROW, COLUMN = (np.abs(PARTS[:, i][:, None] - ANCHORS).argmin(1) for i in (2, 3))
LARGE, SMALL = (np.flatnonzero(PARTS[:, 1] == size) for size in (1, 0))
KINDS, COLOURS = len(world.KINDS), len(PALETTE)
JITTERS = len(world._JITTERS) ** 2


def log_priors() -> tuple[float, np.ndarray]:
    """Log prior of one scene of a lone shape, and of each scene of two (colour, large, colour, small)."""
    lone = np.log(0.5 / len(BACKGROUNDS) / (KINDS * COLOURS * 2 * 9 * JITTERS))
    of_two = KINDS * COLOURS * KINDS * (COLOURS - 1) * len(world._place_pairs()) * JITTERS**2
    apart = [np.abs(place[LARGE][:, None] - place[SMALL][None]) == 2 for place in (ROW, COLUMN)]
    allowed = (apart[0] | apart[1])[None, :, None, :] & ~np.eye(COLOURS, dtype=bool)[:, None, :, None]
    return lone, np.where(allowed, np.log(0.5 / len(BACKGROUNDS) / of_two), -np.inf).astype(np.float32)


def posterior_mean(x: np.ndarray, at: Point, lone: float, pairs: np.ndarray) -> np.ndarray:
    """E[x0 | x] (1024, 3) for one noisy picture `x` (1024, 3) in model space."""
    variance = (at.sigma / at.alpha) ** 2
    logs = []
    for background in BACKGROUNDS:
        rest, difference = x / at.alpha - background, PALETTE - background
        along = (rest @ difference.T).T @ MASKS.T  # (COLOURS, M)
        gain = (along - 0.5 * (MASKS**2).sum(1) * (difference**2).sum(1)[:, None]) / variance
        base = -0.5 * (rest**2).sum() / variance
        two = gain[:, LARGE][:, :, None, None] + gain[:, SMALL][None, None] + pairs + base
        logs.append((gain + lone + base, two))
    top = max(log.max() for both in logs for log in both)
    total, mean = 0.0, np.zeros((MASKS.shape[1], 3))
    for background, (one, two) in zip(BACKGROUNDS, logs, strict=True):
        share, of_two = np.exp(one - top), np.exp(two - top)
        weight = share.sum() + of_two.sum()
        share[:, LARGE] += of_two.sum((2, 3))
        share[:, SMALL] += of_two.sum((0, 1))
        total += weight
        mean += weight * background + MASKS.T @ share.T @ (PALETTE - background)
    return mean / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    models = [difflab.load(model) for model in options.models]
    x0 = encode(world.Shapes(seed=7).batch(np.arange(options.count))[0])
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    lone, pairs = log_priors()
    print(f"{'t':>5}{'exact':>10}" + "".join(f"{name[-24:]:>26}{'to exact':>10}" for name in options.models))
    for t in TIMESTEPS:
        at = models[0].schedule.point(t)
        x = at.alpha * x0 + at.sigma * eps
        flat = x.permute(0, 2, 3, 1).reshape(len(x), -1, 3).numpy()
        exact = np.stack([posterior_mean(one, at, lone, pairs) for one in flat]).reshape(len(x), 32, 32, 3)
        best = torch.from_numpy(exact.astype(np.float32)).permute(0, 3, 1, 2)
        line = f"{t:>5}{(best - x0).square().mean():>10.5f}"
        for model in models:
            with torch.no_grad():
                found = at.alpha * x - at.sigma * model.network(x, torch.full((len(x),), float(t)))
            line += f"{(found - x0).square().mean():>26.5f}{(found - best).square().mean():>10.5f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
