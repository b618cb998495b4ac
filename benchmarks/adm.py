"""The ADM suite on 10,000 pictures whose features are given: seconds of each score, peak memory, share of the machine.

Features stand for Inception's: 2,048 of them, 2,023 spatial ones, 1,008 logits. The work of the distances is counted as
that of their matrix products; the machine's own speed is that of a large matrix product.

    python benchmarks/adm.py [--n 10000] [--threads 2]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from difflab.score.adm import ADM, Reference, Suite, reference_of
from difflab.score.extractors import Taps

PRODUCT = 3072
BESIDE = ("kid", "density", "coverage")  # FD-infinity of 2,048 features takes 23,000 samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    samples, reference = taps(options.n, 0), taps(options.n, 1)
    held = sum(part.nbytes for side in (samples, reference) for part in side if part is not None) / 2**30
    passport = {"name": "random", "sha256": "", "resize": "none"}
    against: Reference = reference_of(reference, passport)
    before = peak()
    suite, took = Suite(samples, against, passport), dict[str, float]()
    for metric in (*ADM, *BESIDE):
        began = time.perf_counter()
        score = suite.score(metric)
        seconds = time.perf_counter() - began
        took[metric] = seconds
        print(f"{metric:<12} {seconds:7.1f} s   {score.value:.4g} [{score.low:.4g}, {score.high:.4g}]")
    five = sum(took[metric] for metric in ADM)
    print(
        f"ADM's five: {five:.1f} s; the arrays take {held:.2f} GiB, the peak is {peak():.2f} GiB ({before:.2f} before)"
    )
    a = torch.randn(PRODUCT, PRODUCT)
    best = min(timed(lambda: a @ a) for _ in range(5))
    product = 2 * PRODUCT**3 / best / 1e9
    done = 3 * 2 * options.n**2 * 2048 / took["precision"] / 1e9  # within each side, and between them
    print(f"distances: {done:.0f} GFLOP/s of {product:.0f} of a matrix product, {100 * done / product:.0f} %")


def taps(n: int, seed: int) -> Taps:
    """Features with correlations and a mean, as networks have them."""
    rng = np.random.default_rng(seed)

    def part(d: int) -> np.ndarray:
        mixed = rng.standard_normal((n, 256), np.float32) @ np.random.default_rng(9).standard_normal(
            (256, d), np.float32
        )
        return (mixed / 16 + 0.3 * rng.standard_normal((n, d), np.float32)).clip(min=0)

    return Taps(part(2048), part(2023), part(1008))


def timed(run) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak() -> float:
    """Peak memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
