"""What `difflab study plan` predicts on the machine at hand beside what drawing samples takes.

Each row is a cell: the predicted seconds of some samples, and those measured right after: on the clock and, which other
programs do not lengthen, on the processor. The features of the samples are timed apart.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--samples 64] [--gpu cpu]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from difflab.study.opening import open_benches
from difflab.study.plan import CellPlan, plan
from difflab.study.presets import shipped_study
from difflab.study.spec import Study
from difflab.study.store import Store

# A study, and which of its cells: few and many steps, with and without guidance, of pictures and clips.
CELLS = (
    ("ddim-steps", 3), ("ddim-steps", 4), ("ddim-eta", 7), ("ddim-eta", 15), ("samplers", 8), ("dit-steps", 2),
    ("dit-cfg", 0), ("dit-cfg", 3), ("dit-text-coco", 3), ("vdm-steps", 2), ("vdm-frames", 0), ("vdm-frames", 2),
    ("vdm-extend", 1), ("vdm-text-ssv2", 1),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--gpu", default="cpu", choices=["cpu", "here"])
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {options.samples} samples a cell; seconds")
    head = ("cell", "calls", "predicted", "processor", "clock", "to processor", "features", "predicted")
    print(f"{head[0]:<46}{head[1]:>7}" + "".join(f"{word:>13}" for word in head[2:]))
    for name, index in CELLS:
        study = shipped_study(name, "demo")
        count = min(options.samples, study.chunk)
        cell = plan(study, options.gpu, count).cells[index]
        show(study, cell, count, "cuda" if options.gpu == "here" and torch.cuda.is_available() else "cpu")


def show(study: Study, cell: CellPlan, count: int, device: str) -> None:
    """Print one row."""
    share = count / cell.settings.count
    processor, clock, features = measured(study, cell, count, device)
    what = f"{study.name} " + ", ".join(f"{key} {value}" for key, value in cell.varied.items())
    predicted = share * cell.sampling
    figures = (predicted, processor, clock, predicted / processor, features, share * cell.features)
    print(f"{what:<46}{cell.calls:>7}" + "".join(f"{value:>13.2f}" for value in figures), flush=True)


def measured(study: Study, cell: CellPlan, count: int, device: str) -> tuple[float, float, float]:
    """Seconds of sampling on the processor and the clock, and of features on the processor."""
    with tempfile.TemporaryDirectory() as scratch:
        (bench,) = open_benches([(study, Store(Path(scratch)))], batch=count, device=device)
        bench.warm(cell.settings)
        began, started = time.process_time(), time.perf_counter()
        pictures = np.concatenate(list(bench.batches(cell.settings, range(count))))
        drawn, ended = time.process_time(), time.perf_counter()
        bench.extractor.taps(pictures, bench.taps())
        bench.viewed(pictures, 0)
        return drawn - began, ended - started, time.process_time() - drawn


if __name__ == "__main__":
    main()
