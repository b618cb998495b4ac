"""Time and error of the Frechet distance at Inception's 2048 dimensions, against `scipy.linalg.sqrtm`.

Two pairs of covariances whose distance is known exactly, up to rounding the matrices themselves:
  commuting      S1 = Q D1 Q', S2 = Q D2 Q':  tr (S1 S2)^(1/2) = sum sqrt(d1 d2)
  non-commuting  S2 = T S1 T with T = T' positive definite:  tr (S1 S2)^(1/2) = tr(S1 T), since (S1 T)^2 = S1 S2
and the first again with half of its spectrum zero. Error is the difference to the truth over the sum of both traces.

    python benchmarks/frechet.py [--dim 2048] [--threads 1]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the linear algebra library")
    parser.add_argument("--samples", type=int, default=500, help="samples of the bootstrap timed at the end")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(
        options.threads
    )  # read at the import below
    compare(options.dim)
    time_bootstrap(options.samples, options.dim)


def compare(dim: int) -> None:
    """Print one row for each pair and method."""
    import numpy as np
    from scipy.linalg import sqrtm

    from difflab.score.metrics import frechet

    def by_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real)

    def by_difflab(a: np.ndarray, b: np.ndarray) -> float:
        return frechet((np.zeros(dim), a), (np.zeros(dim), b))

    print(f"{'pair':<18}{'method':<10}{'seconds':>9}{'relative error':>17}")
    for pair, (a, b, truth) in pairs(dim).items():
        for method, distance in (("difflab", by_difflab), ("sqrtm", by_sqrtm)):
            seconds, found = timed(lambda distance=distance, a=a, b=b: distance(a, b))
            print(f"{pair:<18}{method:<10}{seconds:>9.2f}{abs(found - truth) / (np.trace(a) + np.trace(b)):>17.1e}")


def pairs(dim: int) -> dict[str, tuple]:
    """Name -> (S1, S2, exact distance), with spectra that fall over six decades like those of image features."""
    import numpy as np

    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    turned = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    d1, d2 = (rng.permutation(np.logspace(0, -6, dim)) for _ in range(2))
    half1, half2 = np.where(np.arange(dim) < dim // 2, (d1, d2), 0)
    s1, transport = (q * d1) @ q.T, (turned * rng.uniform(0.5, 2, dim)) @ turned.T
    s2 = transport @ s1 @ transport
    transported = np.trace(s1) + np.trace(s2) - 2 * np.vdot(s1, transport)
    return {
        "commuting": ((q * d1) @ q.T, (q * d2) @ q.T, ((d1**0.5 - d2**0.5) ** 2).sum()),
        "non-commuting": (s1, (s2 + s2.T) / 2, transported),
        "half rank": ((q * half1) @ q.T, (q * half2) @ q.T, ((half1**0.5 - half2**0.5) ** 2).sum()),
    }


def time_bootstrap(samples: int, dim: int) -> None:
    """Print the time of an estimate from features and of 200 bootstrap replicates."""
    import numpy as np

    from difflab.score.metrics import bootstrap_frechet, frechet_to_reference

    for n, width in ((samples, 64), (samples, dim)):
        features, reference = np.random.default_rng(0).normal(1, 1, (n, width)), (np.zeros(width), np.eye(width))
        estimate, _ = timed(lambda f=features, r=reference: frechet_to_reference(f, r))
        bootstrap, _ = timed(lambda f=features, r=reference: bootstrap_frechet(f, r, replicates=200))
        print(f"{n} samples, {width} features: estimate {estimate:.2f} s, 200 bootstrap replicates {bootstrap:.2f} s")


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Seconds on the clock, and the result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
