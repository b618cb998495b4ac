"""What guidance costs a sample, and what limiting it to an interval of noise levels saves, with FD beside it.

Every setting draws the same samples of `shapes-dit` from the same noise, in turn; the last column is the paired
difference of FD from guidance everywhere.

    python benchmarks/guidance.py [--n 1000] [--scale 2] [--steps 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import difflab
from difflab.core.guidance import Guidance
from difflab.data.shapes import recognise
from difflab.score.adm import REFERENCE_POINTS, Suite
from difflab.score.adm import Reference as Against
from difflab.score.metrics import interval
from difflab.score.scores import Score
from difflab.study.features import open_extractor
from difflab.study.reference import Reference
from difflab.zoo.draw import Draw, calls_of, labels_of
from difflab.zoo.sampling import sample_batches

INTERVALS = ((0.0, None), (0.0, 10.0), (0.0, 5.0), (0.0, 2.0), (0.3, 10.0), (0.3, 5.0), (0.3, 2.0), (1.0, 5.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, extractor, reference = difflab.load("shapes-dit"), open_extractor("shapes-image"), Reference("shapes")
    against = Against(reference.statistics(extractor), reference.points(extractor, REFERENCE_POINTS))
    print(
        "guided where        calls  ms a sample     FD                    precision  recall  accuracy  FD - everywhere"
    )
    everywhere = None
    for guidance in (Guidance(), *(Guidance(options.scale, low=low, high=high) for low, high in INTERVALS)):
        draw = Draw("ddpm", options.steps, classes="balanced", guidance=guidance)
        began = time.perf_counter()
        pictures = np.concatenate(list(sample_batches(model, draw, 0, range(options.n), 64)))
        spent = (time.perf_counter() - began) / options.n
        suite = Suite(extractor.taps(pictures, {"features"}), against, extractor.passport())
        fd, seen = suite.score("fid"), recognise(pictures)
        right = seen.valid & (seen.scenes.labels == labels_of(model, draw, 0, range(options.n)).numpy())
        where = "nowhere" if guidance.scale == 1 else f"{guidance.low:g} to {guidance.high or float('inf'):g}"
        if guidance == Guidance(options.scale):
            everywhere = fd
        shares = (suite.score("precision").value, suite.score("recall").value, right.mean())
        print(
            f"{where:<18} {calls_of(model, draw):>6}  {1e3 * spent:>11.2f}     "
            f"{fd.value:.3f} [{fd.low:.3f}, {fd.high:.3f}]  "
            + "".join(f"{share:>9.3f}" for share in shares)
            + ("" if everywhere is None or everywhere is fd else _difference(everywhere, fd)),
            flush=True,
        )


def _difference(a: Score, b: Score) -> str:
    change = b.value - a.value
    low, high = interval(change, b.replicates - a.replicates)
    return f"  {change:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
