"""A forward pass of our DiT against diffusers' `DiTTransformer2DModel` with the same weights.

The weights are random, written once as a diffusers folder that both sides read. Timings take turns, so that a slow
minute slows all sides alike. The machine's own speed is that of a large matrix product, in the same turns.

    python benchmarks/dit.py [--size DiT-B/4] [--batch 8] [--repeats 10] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import difflab
from difflab.zoo.card import Card
from difflab.zoo.diffusers_dit import write_diffusers_dit
from difflab.zoo.families import FAMILIES, DiTConfig
from difflab.zoo.sizes import DIT_NAMES, dit_size

PRODUCT = 1536  # side of the matrices whose product stands for what the machine can do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=DIT_NAMES, default="DiT-B/4")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        sides = networks(Path(scratch), options.size, options.device)
        compare(sides, options.batch, options.repeats, options.device)


def networks(folder: Path, size: str, device: str) -> dict[str, Callable[..., torch.Tensor]]:
    """(x, t, y) -> output, by either side, from the same files."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    card = Card(name="benchmark", family="dit", network=DiTConfig(**dit_size(size)), variance="learned")
    state = {k: torch.randn_like(v) * 0.02 for k, v in FAMILIES["dit"].build(card.network).state_dict().items()}
    write_diffusers_dit(folder, card, state)
    theirs = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval().to(device)
    ours = difflab.load(folder, config={"numerics": "diffusers"}, device=device).network
    return {
        "difflab": ours,
        "diffusers": lambda x, t, y: theirs(x, timestep=t, class_labels=y).sample,
    }


def compare(sides: dict[str, Callable[..., torch.Tensor]], batch: int, repeats: int, device: str) -> None:
    """Print times, differences and shares."""
    x, t = torch.randn(batch, 4, 32, 32, device=device), torch.randint(0, 1000, (batch,), device=device)
    y = torch.randint(0, 1000, (batch,), device=device)
    with FlopCounterMode(display=False) as counter:
        answers = {name: network(x, t, y) for name, network in sides.items()}
    flops = counter.get_total_flops() / len(sides)
    gap = (answers["difflab"] - answers["diffusers"]).abs().max() / answers["diffusers"].abs().max()
    a, b = torch.randn(2, PRODUCT, PRODUCT, device=device)
    work = {
        **{name: (lambda n=network: n(x, t, y)) for name, network in sides.items()},
        "matrix product": lambda: a @ b,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            times[name].append(clock(run, device))
    peak = 2 * PRODUCT**3 / min(times["matrix product"]) / 1e9
    print(f"batch {batch}, {flops / batch / 1e9:.2f} GFLOP a forward, outputs differ by {gap:.1e} of their largest")
    for name, seconds in times.items():
        done = 2 * PRODUCT**3 if name == "matrix product" else flops
        speed = done / min(seconds) / 1e9
        print(
            f"{name:<15} best {min(seconds):.4f} s, median {statistics.median(seconds):.4f} s, {speed:.0f} GFLOP/s, "
            f"{100 * speed / peak:.0f} % of the matrix product"
        )


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
