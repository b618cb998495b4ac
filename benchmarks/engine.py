"""What the engine on Ray costs and gains: one cell of a study here, by one worker and by two; one thread each.

    python benchmarks/engine.py

Starting Ray and opening models in its workers is stated for itself; the rates are of the chunks that come after each
worker has drawn one. The local engine draws the same cell in this process, also with one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from difflab.study.cluster import Ray
from difflab.study.engine import Engine, Local
from difflab.study.run import Progress, run_study
from difflab.study.spec import Study


@dataclass(frozen=True)
class Nothing:
    """A task without work."""

    number: int
    memory: int = 0
    gpu: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-unet2d")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    study = Study(
        name="engine", model=options.model, reference="shapes", base={"count": options.chunks * options.chunk},
        axes={"steps": [options.steps]}, chunk=options.chunk, keep=0,
    )  # fmt: skip
    for number in range(options.rounds):
        _round(study, options.chunk, number)


def _round(study: Study, batch: int, number: int) -> None:
    rates = {}
    for workers in (0, 1, 2):
        began = time.perf_counter()
        engine: Engine = Ray(workers=workers) if workers else Local()
        with engine:
            started = time.perf_counter() - began
            first, rate = _rate(study, engine, batch, max(1, workers))
            rates[workers] = rate
            name = f"ray, {workers} worker{'s' if workers > 1 else ''}" if workers else "local"
            told = f"engine up after {started:4.1f} s, first chunk {first:4.1f} s later, then " if workers else ""
            print(f"{name:15s} {told}{1 / rate:6.3f} s a chunk", flush=True)
            if workers == 2:
                print(f"{'':15s} empty tasks: {1e3 * _empty(engine):.2f} ms each, with two workers")
    print(
        f"round {number}: two workers are {rates[2] / rates[1]:.3f} times one; one worker takes "
        f"{1e3 * (1 / rates[1] - 1 / rates[0]):+.0f} ms a chunk beside the local engine"
    )


def _rate(study: Study, engine: Engine, batch: int, workers: int) -> tuple[float, float]:
    """Seconds to the first chunk, and chunks a second once each worker has drawn one."""
    stamps: list[float] = []

    def watch(progress: Progress) -> None:
        if not progress.scored:
            stamps.append(time.perf_counter())

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_study(study, Path(folder), batch=batch, device="cpu", engine=engine, watch=watch)
    warm = 2 * workers
    return stamps[0] - began, (len(stamps) - 1 - warm) / (stamps[-1] - stamps[warm])


def _empty(engine: Engine) -> float:
    """Seconds of a task that does nothing."""
    list(engine.map(_nothing, map(Nothing, range(20))))
    began = time.perf_counter()
    done = len(list(engine.map(_nothing, map(Nothing, range(500)))))
    return (time.perf_counter() - began) / done


def _nothing(task: Nothing) -> None:
    pass


if __name__ == "__main__":
    main()
