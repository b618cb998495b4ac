"""Whole pictures, from noise to 8 bits, by difflab and by diffusers' `DDIMPipeline`, from the same files.

The U-Net is that of the CIFAR-10 checkpoint of ermongroup/ddim (35.7 M parameters) with random weights, written once as
a diffusers folder that both sides read. Both run as they come: DDIM at eta 0 on the grid `leading`. Runs take turns, so
that a slow minute slows both alike. Last, both begin with the same noise, and the pictures are compared.

    python benchmarks/pipelines.py [--steps 20] [--batch 8] [--repeats 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from unet2d import NETWORKS, write

import difflab
from difflab.zoo.model import Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, NETWORKS["cifar10"])
        ours, theirs = difflab.load(folder), pipeline(folder)
        compare(ours, theirs, options)


def pipeline(folder: Path) -> DDIMPipeline:
    """Diffusers' own, with the schedule that the model was trained on."""
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)  # as ermongroup/ddim does it
    made = DDIMPipeline(unet=UNet2DModel.from_pretrained(folder).eval(), scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def compare(ours: Model, theirs: DDIMPipeline, options: argparse.Namespace) -> None:
    """Print times of interleaved runs, and how far pictures of common noise are apart."""
    n, steps = options.batch, options.steps
    sides: dict[str, Callable[[], object]] = {
        "difflab": lambda: difflab.sample(ours, n=n, sampler="ddim", steps=steps, spacing="leading", batch=n),
        "diffusers": lambda: theirs(batch_size=n, num_inference_steps=steps, output_type="numpy").images,
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for side in sides.values():  # the first costs extra
        side()
    for _ in range(options.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    print(f"{steps} steps of DDIM, batch {n}, {options.threads} threads, {options.repeats} repeats")
    print(f"{'':<12}{'median s':>10}{'min s':>10}")
    for name, seconds in times.items():
        print(f"{name:<12}{statistics.median(seconds):>10.3f}{min(seconds):>10.3f}")
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    print(f"diffusers takes {ratio:.2f} times as long (median over the turns)")
    x_T = torch.randn(n, *ours.shape, generator=torch.Generator().manual_seed(1))
    mine = difflab.sample(ours, n=n, sampler="ddim", steps=steps, spacing="leading", x_T=x_T)
    gap = np.abs(mine.astype(int) - by_hand(theirs, x_T, steps).astype(int))
    print(f"of common noise: {100 * (gap > 0).mean():.2g} % of all values differ, by at most {gap.max()} grey levels")


def by_hand(theirs: DDIMPipeline, x: torch.Tensor, steps: int) -> np.ndarray:
    """What the pipeline makes of `x`, for it takes no noise: uint8 (n, H, W, 3)."""
    theirs.scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in theirs.scheduler.timesteps:
            x = theirs.scheduler.step(theirs.unet(x, t).sample, t, x).prev_sample
    pixels = ((x / 2 + 0.5).clamp(0, 1) * 255).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
