"""What scoring one cell of a paper-scale study costs: 2,048 features of 50,000 samples against 10,000 points.

Features stand for Inception's. A bootstrap of 200 replicates is timed by a few of them. `difflab study plan` counts
with these seconds (see `difflab.study.scoring_cost`).

    OMP_NUM_THREADS=1 python benchmarks/scoring.py [--n 50000] [--points 10000] [--replicates 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from difflab.score.kernel import kid, mmd_error
from difflab.score.manifold import manifolds, reaches
from difflab.score.metrics import bootstrap_frechet, frechet_to_reference
from difflab.score.moments import Moments

DIM = 2048
PRODUCT = 3072


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--replicates", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT))
    say("product of 3,072 rows, float64, GFLOP/s", 2 * PRODUCT**3 / best(lambda: a @ a) / 1e9)
    b = torch.randn(PRODUCT, PRODUCT)
    say("the same in float32", 2 * PRODUCT**3 / best(lambda: b @ b) / 1e9)
    square = a[:DIM, :DIM] @ a[:DIM, :DIM].T
    say("eigenvalues of 2,048 rows, s", best(lambda: np.linalg.eigvalsh(square), 2))
    real, fake = features(options.points, 1), features(options.n, 0)
    reference = Moments.of(real).gaussian()
    say("FD's value, s", best(lambda: frechet_to_reference(fake, reference), 1))
    few, more = (best(lambda r=r: bootstrap_frechet(fake, reference, r), 1) for r in (1, 1 + options.replicates))
    each = (more - few) / options.replicates
    say("a bootstrap replicate, s", each)
    say("200 of them, s", 200 * each)
    say("the balls of the reference's points, once a study, s", best(lambda: reaches(real, 3), 1))
    reach = reaches(real, 3)
    say("precision and recall, s", best(lambda: manifolds(real, fake, 3, reach=reach), 1))
    say("KID's value, 100 subsets of 1,000, s", 10 * best(lambda: kid_value(fake, real), 1))
    say("KID's error of all rows, s", best(lambda: mmd_error(fake, real), 1))


def kid_value(fake: np.ndarray, real: np.ndarray) -> None:
    """A tenth of the subsets; the error is of so few rows that it takes no time."""
    kid(fake[:1000], real[:1000], subsets=10)


def features(n: int, seed: int) -> np.ndarray:
    """(n, 2048) float32 with correlations and a mean, as networks have them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((256, DIM), np.float32)
    mixed = rng.standard_normal((n, 256), np.float32) @ mixing / 16
    return (mixed + 0.3 * rng.standard_normal((n, DIM), np.float32)).clip(min=0)


def best(run: Callable[[], object], times: int = 3) -> float:
    """Seconds of the processor in the fastest of some runs."""
    taken = []
    for _ in range(times):
        began = time.process_time()  # others may use the machine meanwhile
        run()
        taken.append(time.process_time() - began)
    return min(taken)


def say(what: str, value: float) -> None:
    print(f"{what:<58} {value:9.2f}", flush=True)


if __name__ == "__main__":
    main()
