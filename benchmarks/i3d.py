"""I3D's features of clips: clips a second, and its share of what a large matrix product reaches. Weights are random.

python benchmarks/i3d.py [--frames 16] [--clips 2] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from difflab.score.i3d import I3D


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = I3D.with_weights(I3D().state_dict())
    clips = torch.randint(0, 256, (options.clips, options.frames, 64, 64, 3), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        network(clips)
    best, peak, square = float("inf"), 0.0, torch.randn(2048, 2048)
    for _ in range(options.repeats):
        began = time.perf_counter()
        network(clips)
        best = min(best, time.perf_counter() - began)
        began = time.perf_counter()
        square @ square
        peak = max(peak, 2 * 2048**3 / (time.perf_counter() - began))
    flop = counter.get_total_flops()
    print(
        f"{options.frames} frames: {flop / options.clips / 1e9:.0f} GFLOP a clip, {options.clips / best:.2f} clips/s, "
        f"{flop / best / 1e9:.0f} GFLOP/s, {flop / best / peak:.0%} of a large matrix product"
    )


if __name__ == "__main__":
    main()
