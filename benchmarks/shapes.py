"""Scenes a second: drawn with their labels, as training reads them, and recognised, as a study grades them.

python benchmarks/shapes.py [--count 20000] [--size 32]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from difflab.data.shapes import Shapes, recognise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="scenes to draw; a twentieth of them is recognised")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()

    world = Shapes(options.size)
    world.batch(np.arange(options.batch))  # builds the table of masks
    start = time.perf_counter()
    for begin in range(0, options.count, options.batch):
        world.batch(np.arange(begin, min(begin + options.batch, options.count)))
    print(f"drawn at {options.size}x{options.size}: {options.count / (time.perf_counter() - start):,.0f} scenes/s")

    pictures = Shapes().batch(np.arange(max(options.count // 20, 1)))[0]
    recognise(pictures[:1])  # builds the table of templates
    start = time.perf_counter()
    recognise(pictures)
    print(f"recognised at 32x32: {len(pictures) / (time.perf_counter() - start):,.0f} scenes/s")


if __name__ == "__main__":
    main()
