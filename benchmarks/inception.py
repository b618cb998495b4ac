"""Images a second through FID's Inception, and what share of the machine's arithmetic that is.

The machine's own speed comes from a large matrix product and a large convolution in the same run, best of several, so
that a slow minute slows all three alike. Weights are random: speed does not depend on them.

    python benchmarks/inception.py [--batch 16] [--size 32] [--device cpu] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from difflab.precision import full_precision
from difflab.score.inception import InceptionFID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="side of the images before the resize")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    network = InceptionFID.with_weights(InceptionFID().state_dict()).to(options.device)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)
    a = torch.randn(4096, 4096, device=options.device)
    x = torch.randn(options.batch, 256, 35, 35, device=options.device).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=options.device).to(memory_format=torch.channels_last)
    rows = {
        "matrix product 4096": lambda: a @ a,
        "convolution 3x3, 256 channels": lambda: F.conv2d(x, kernel, padding=1),
        "resize and range": lambda: network.prepare(images),
        "Inception to 2048 features": lambda: network(images),
    }
    print(f"{options.batch} images of {options.size}x{options.size}, {options.device}, {options.threads} threads")
    print(f"{'':<32}{'seconds':>9}{'GFLOP':>9}{'GFLOP/s':>10}{'images/s':>10}")
    with torch.no_grad(), full_precision():
        for name, work in rows.items():
            gflop, seconds = flops(work) / 1e9, best_time(work, options.repeats, options.device)
            rate = f"{options.batch / seconds:>10.1f}" if "Inception" in name else ""
            print(f"{name:<32}{seconds:>9.3f}{gflop:>9.1f}{gflop / seconds:>10.1f}{rate}")


def flops(work: Callable[[], object]) -> int:
    """Operations of products and convolutions, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def best_time(work: Callable[[], object], repeats: int, device: str) -> float:
    """Shortest of `repeats` runs, in seconds, the device's queue emptied before the clock is read."""
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronise()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
