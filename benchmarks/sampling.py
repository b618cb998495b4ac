"""What the sampling loop costs beyond the network: whole trajectories against as many bare forwards, in turns.

python benchmarks/sampling.py [--batch 8] [--steps 10] [--repeats 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from difflab.core.sampler import final
from difflab.core.schedule import path
from difflab.zoo.card import Card
from difflab.zoo.draw import Draw
from difflab.zoo.families import FAMILIES, UNet2DConfig
from difflab.zoo.model import Model, build_model
from difflab.zoo.sampling import seeded_noise, walk

NETWORK = UNet2DConfig(
    image_size=32, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(8,), patch=2, groups=8
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    card = Card(name="benchmark", network=NETWORK, prediction="v")  # random weights read as v stay in range
    model = build_model(card, FAMILIES["unet2d"].build(NETWORK).state_dict())
    work: dict[str, Callable[[], object]] = {
        "bare forwards": lambda: bare(model, options.steps, options.batch),
        "eta 0": lambda: sampled(model, Draw(steps=options.steps), options.batch),
        "eta 1": lambda: sampled(model, Draw(steps=options.steps, eta=1.0), options.batch),
    }
    times = in_turns(work, options.repeats)
    print(f"{options.steps} steps, batch {options.batch}, {options.threads} threads, {options.repeats} repeats")
    print(f"{'':<16}{'median s':>10}{'min s':>10}{'overhead':>10}")
    for name, seconds in times.items():
        ratio = statistics.median(s / b for s, b in zip(seconds, times["bare forwards"], strict=True))
        print(f"{name:<16}{statistics.median(seconds):>10.4f}{min(seconds):>10.4f}{100 * (ratio - 1):>9.1f}%")


def bare(model: Model, steps: int, batch: int) -> torch.Tensor:
    """The network calls of a trajectory and nothing else."""
    x = torch.zeros(batch, *model.shape)
    with torch.no_grad():
        for point in path(model.schedule, steps)[:-1]:
            answer = model.network(x, torch.full((batch,), point.t))
    return answer


def sampled(model: Model, draw: Draw, batch: int) -> torch.Tensor:
    """A trajectory to its end, noise included."""
    return final(walk(model, draw, seeded_noise(model, 0, range(batch))))


def in_turns(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, after one untimed round; the order turns around every round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name in reversed(work) if repeat % 2 else work:
            start = time.perf_counter()
            work[name]()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
