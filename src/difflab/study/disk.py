"""What a study writes, counted from what `study.run` puts into its store, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from difflab.data.sources import SHAPES
from difflab.score.adm import POINTWISE, REFERENCE_POINTS
from difflab.study.bench import Bench
from difflab.study.record import machine
from difflab.study.spec import TRUTH, Settings
from difflab.study.store import packed
from difflab.study.truth import checked

_DECIDES = 1_500  # bytes of decides.json
_NUMBER = 27  # of a number in JSON, with its indent
_DOUBLE = 8
_SPATIAL = 2023  # features of sFID


@dataclass(frozen=True)
class Kept:
    """What is kept of each sample: name -> shape and type of an array's row; pictures: bytes of one that is shown."""

    rows: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    pictures: int

    @cached_property
    def _headers(self) -> int:
        empty = {name: np.zeros((0, *shape), kind) for name, (shape, kind) in self.rows.items()}
        return len(packed({**empty, "pictures": np.zeros((0, 1, 1, 3), np.uint8)}))

    def chunk_bytes(self, rows: range, keep: int, batch: int) -> int:
        """Bytes of the chunk of these samples, with its timings, of a study that keeps the first `keep` as pictures."""
        row = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in self.rows.values())
        shown = min(len(rows), max(0, keep - rows.start))
        timing = {"run": "0" * 32, "batch": batch, "machine": machine("cpu"), "samples": 0, "seconds": 0.0,
                  "seconds per sample of a batch": []}  # fmt: skip
        batches = -(-len(rows) // batch)
        beside = len(json.dumps(timing, indent=2)) + _NUMBER * (batches + 1)
        return self._headers + len(rows) * row + shown * self.pictures + beside


def kept_of(bench: Bench, settings: Settings) -> Kept:
    """What is kept of the samples of a cell."""
    shape = picture_of(bench, settings)
    rows: dict[str, Any] = {"features": ((bench.extractor.dim,), np.dtype(np.float32))}
    if "logits" in bench.taps():
        rows["logits"] = ((logits_of(bench, shape),), np.dtype(np.float32))
    rows |= {view: ((bench.extractor_of(view).dim,), np.dtype(np.float32)) for view in bench.views}
    if "clipscore" in bench.study.metrics:
        rows["clipscore"] = ((), np.dtype(np.float64))
    if bench.truth_known:
        asked = np.zeros(1, int) if bench.model.classes is not None else None
        said = checked(np.zeros((1, *shape), np.uint8), asked, bench.captions[:1] or None)
        rows |= {name: ((), marks.dtype) for name, marks in said.items()}
    return Kept(rows, int(np.prod(shape)))


def logits_of(bench: Bench, shape: tuple[int, ...]) -> int:
    """Classes that the feature network tells samples of this shape apart by."""
    network: Any = bench.extractor.network  # type: ignore[attr-defined]
    if bench.extractor.spatial:
        return int(network.fc.out_features)
    _, logits = network.classified(torch.zeros(1, *shape, dtype=torch.uint8, device="meta").movedim(-1, 1))
    return int(logits.shape[1])


def result_bytes(bench: Bench, settings: Settings) -> int:
    """About the bytes beside a cell's chunks: what decides it, and its scores with what pairs them."""
    metrics = bench.study.metrics
    marked = [metric for metric in metrics if metric in (*TRUTH, "precision")]
    resampled = [metric for metric in metrics if metric == "is" or metric.startswith(("fid", "fvd"))]
    numbers = len(resampled) * bench.study.replicates + 1000 * ("clipscore" in metrics)
    return _DECIDES + _NUMBER * numbers + len(marked) * settings.count // 4 + 200 * len(metrics)


def reference_bytes(bench: Bench) -> int:
    """Statistics and single points of the reference, as far as they are computed and kept: those of `shapes` ship, and
    a file of statistics has its own."""
    study = bench.study
    computed = study.reference != SHAPES and not study.reference.endswith(".npz")
    lengths, total = dict.fromkeys(map(bench.frames_of, study.cells())), 0
    for view in (None, *bench.views):
        extractor = bench.extractor_of(view)
        each = _DOUBLE * (extractor.dim**2 + extractor.spatial * _SPATIAL**2)
        total += computed * each * (1 if view == "window" else len(lengths))
    if set(POINTWISE) & set(study.metrics):
        total += 4 * bench.extractor.dim * REFERENCE_POINTS * len(lengths)
    return total


def picture_of(bench: Bench, settings: Settings) -> tuple[int, ...]:
    frames, side = bench.frames_of(settings), bench.model.card.side
    return (*(() if frames is None else (frames,)), side, side, 3)
