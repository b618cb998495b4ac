"""What a clip costs: time and peak memory of one forward pass of the 3D U-Net, against frames and against resolution.

Each pass runs in a process of its own, so that peaks do not mix.

    python benchmarks/clip_cost.py [--dim 64] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

FRAMES, SIDES = (5, 10, 20, 40), (16, 32, 64, 128)
USUAL_FRAMES, USUAL_SIDE = 10, 64

# torch is imported inside functions: a child process counts its parent's memory at the fork towards its own peak.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=2, type=int, help=argparse.SUPPRESS)  # a child process: frames and side
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(cost(options, *options.alone)))
        return
    print(f"dim {options.dim}, {options.threads} threads, best of {options.repeats}")
    print(f"{'frames':>6} {'side':>5} {'seconds':>8} {'peak MiB':>9}")
    for frames, side in [*((f, USUAL_SIDE) for f in FRAMES), *((USUAL_FRAMES, s) for s in SIDES)]:
        found = in_child(frames, side)
        print(f"{frames:>6} {side:>5} {found['seconds']:>8.2f} {found['MiB']:>9.0f}")


def in_child(frames: int, side: int) -> dict[str, float]:
    """The cost, measured by a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--alone", str(frames), str(side)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cost(options: argparse.Namespace, frames: int, side: int) -> dict[str, float]:
    """Best seconds of a forward pass, and by how much it raised the peak memory of the process."""
    import torch

    from difflab.nets.unet3d import UNet3D

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    network = UNet3D(image_size=side, dim=options.dim).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, t = torch.randn(1, 3, frames, side, side), torch.tensor([500.0])
    before = peak()
    times = [timed(lambda: network(x, t)) for _ in range(options.repeats)]
    return {"seconds": min(times), "MiB": peak() - before}


def timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak() -> float:
    """Most memory this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
