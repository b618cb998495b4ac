"""How well `shapes-clip` tells motion: real clips of `shapes` against others of them, as they are and spoilt.

python benchmarks/motion_seen.py [--count 300] [--draws 10]
"""

from __future__ import annotations

import argparse

import numpy as np

from difflab.data.clips import Window
from difflab.data.shapes_clips import ShapesClips
from difflab.score.fvd import frozen, shuffled
from difflab.score.metrics import frechet_to_reference
from difflab.study.features import open_extractor
from difflab.study.reference import FRESH_SEED, Reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="clips of a draw")
    parser.add_argument("--draws", type=int, default=10)
    asked = parser.parse_args()
    extractor = open_extractor("shapes-clip")
    reference = Reference("shapes", size=32, window=Window(8)).statistics(extractor)
    found: dict[str, list[float]] = {"as they are": [], "frames shuffled": [], "frames frozen": []}
    for draw in range(asked.draws):
        first = draw * asked.count
        clips = ShapesClips(seed=FRESH_SEED).batch(np.arange(first, first + asked.count))[0]
        for (_, values), seen in zip(found.items(), (clips, shuffled(clips, 0, first), frozen(clips)), strict=True):
            values.append(frechet_to_reference(extractor(seen), reference.gaussian))
    for name, values in found.items():
        low, high = min(values), max(values)
        print(f"{name:<16} {np.mean(values):6.2f} (from {low:.2f} to {high:.2f} over {asked.draws} draws)")


if __name__ == "__main__":
    main()
