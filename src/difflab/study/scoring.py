"""Cells are scored against the reference, and compared with one another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from difflab.errors import DifflabError
from difflab.score.adm import Reference as AdmReference
from difflab.score.adm import Suite
from difflab.score.clipscore import clipscore
from difflab.score.extractors import Taps
from difflab.score.metrics import interval
from difflab.score.scores import Score as SuiteScore
from difflab.score.shares import paired_shares, wilson
from difflab.study.bench import Bench
from difflab.study.memory import nearest_training
from difflab.study.record import command
from difflab.study.result import Difference, Row, Score, Turn
from difflab.study.spec import TRUTH, VIEWS, Metric, Settings, View, key_of
from difflab.study.store import CellStore
from difflab.study.truth import UNSAID

_BYTES = 16  # for each feature of each sample: as they are, and doubled for a replicate

Against = dict[tuple[int | None, View | None], AdmReference]  # what samples are scored against, by length and view


@dataclass(frozen=True)
class ToScore:
    """A cell that was drawn: the number of its bench, its key, the bytes of memory that scoring takes, whether a GPU is
    of use: scores are mostly spectra, which CPUs do as well, but training samples may be looked through, too."""

    bench: int
    settings: Settings
    key: str
    memory: int
    gpu: bool

    @classmethod
    def of(cls, number: int, bench: Bench, settings: Settings, key: str) -> ToScore:
        """The cell of a bench with this number."""
        memory = _BYTES * settings.count * bench.extractor.dim
        return cls(number, settings, key, memory, gpu=settings == bench.beside_training)


@dataclass(frozen=True)
class Scored:
    """The row of a cell, what is recorded beside its chunks, and by metric what belongs together between two cells, if
    anything does: booleans of samples from one start noise, or of one reference sample; or replicates that drew the
    same rows."""

    row: Row
    timings: list[dict[str, Any]]
    paired: dict[Metric, np.ndarray]


def score(benches: Sequence[Bench], against: Sequence[Against], task: ToScore) -> Scored:
    """A cell, scored or read; `against` is that of each bench. Raises DifflabError where samples are missing."""
    bench = benches[task.bench]
    bench.measured.update(against[task.bench])
    cell = bench.store.at(task.key)
    timings = cell.timings()
    if (have := sum(chunk["samples"] for chunk in timings)) != task.settings.count:
        raise DifflabError(f"{cell.path}: holds {have} samples, not {task.settings.count}; run the study again.")
    record = _scores(bench, task.settings, cell)
    return Scored(_row(bench, task.settings, cell.key, record, timings), timings, _paired(record))


def _row(
    bench: Bench, settings: Settings, key: str, record: Mapping[str, Any], timings: Sequence[Mapping[str, Any]]
) -> Row:
    each = [seconds for chunk in timings for seconds in chunk["seconds per sample of a batch"]]
    return Row(
        key=key,
        settings=settings,
        varied=bench.study.varied(settings),
        scores=record["scores"],
        seconds=sum(chunk["seconds"] for chunk in timings),
        seconds_per_sample=float(np.median(each)),
        turns=[Turn(run=chunk["run"], seconds=chunk["seconds"] / chunk["samples"]) for chunk in timings],
        calls=bench.calls(settings),
        command=command(bench.study, settings, told=bool(bench.captions)),
    )


@dataclass(frozen=True)
class CellScores:
    """Scores by metric, and what pairs them between cells: replicates of distances, marks of samples."""

    scores: dict[Metric, Score]
    replicates: dict[Metric, list[float]]
    marks: dict[Metric, np.ndarray]


def measure(
    bench: Bench, frames: int | None, taps: Taps, more: Mapping[str, np.ndarray], metrics: Sequence[Metric]
) -> CellScores:
    """Scores of samples with these features, clips of so many frames.

    more: (N,) booleans for what the truth checker says, and (N, d) features of views of clips.
    """

    def suite(features: Taps, view: View | None = None) -> Suite:
        against, passport = bench.against_of(frames, view), bench.extractor_of(view).passport()
        return Suite(features, against, passport, bench.study.replicates, bench.shelf.device)

    def score(metric: Metric) -> SuiteScore:
        if metric in TRUTH:
            return _share(more[metric], metric)
        if metric == "clipscore":
            return clipscore(more[metric], bench.study.replicates)
        if (view := VIEWS.get(metric)) is not None:
            return suite(Taps(more[view]), view).score("fid" if view == "frames" else "fvd")
        return whole.score(metric)

    whole, found = suite(taps), CellScores({}, {}, {})
    for metric in metrics:
        said = score(metric)
        found.scores[metric] = Score(value=said.value, low=said.low, high=said.high, n=said.n)
        if said.replicates.size:
            found.replicates[metric] = said.replicates.tolist()
        if said.marks.size:
            found.marks[metric] = said.marks
    return found


def _share(said: np.ndarray, metric: Metric) -> SuiteScore:
    """The share of samples (N,) that the truth checker says yes of, among those that it can tell."""
    marks = said[said != UNSAID].astype(bool)
    low, high = wilson(int(marks.sum()), len(marks))
    return SuiteScore(float(marks.mean()), low, high, len(marks), metric, {}, marks=marks)


def measured_by(bench: Bench, frames: int | None) -> dict[str, Any]:
    """What decides a score, of clips of so many frames, besides the samples and the features."""
    against = bench.against_of(frames)
    seen = {
        view: [hashlib.sha256(m.tobytes()).hexdigest() for m in bench.against_of(frames, view).statistics.gaussian]
        for view in bench.views
    }
    return {
        "moments": [hashlib.sha256(m.tobytes()).hexdigest() for m in against.statistics.gaussian],
        "views": seen,
        "looks": {view: bench.looks(view) for view in bench.views},
        "points": None if (points := against.features) is None else hashlib.sha256(points.tobytes()).hexdigest(),
        "reference": against.statistics.passport,
        "metrics": bench.study.metrics,
        "nearest": bench.study.nearest,
        "replicates": bench.study.replicates,
    }


def _scores(bench: Bench, settings: Settings, cell: CellStore) -> dict[str, Any]:
    """The cell's record of scores: read, or measured and written last of all."""
    frames = bench.frames_of(settings)
    beside_training = settings == bench.beside_training
    key = key_of(measured_by(bench, frames) | {"beside training": beside_training})
    record = cell.get("result")
    if record is not None and record.get("measured_by") == key:
        return record
    of_each = (*TRUTH, "clipscore")
    asked: list[str] = [*(metric for metric in of_each if metric in bench.study.metrics), *bench.views]
    taps = Taps(**{name: cell.gather(name) for name in bench.taps()})
    more = {name: cell.gather(name) for name in asked}
    found = measure(bench, frames, taps, more, bench.study.metrics)
    if beside_training:
        features, reference = cell.gather("features")[: bench.study.nearest], bench.reference_of(frames).dataset
        near = nearest_training(bench.study, bench.model.card, bench.extractor, features, reference, frames)
        cell.put_arrays("nearest", vars(near))
    record = {
        "measured_by": key,
        "scores": {metric: score.model_dump() for metric, score in found.scores.items()},
        "replicates": found.replicates,
        "marks": {metric: [len(each), np.packbits(each).tobytes().hex()] for metric, each in found.marks.items()},
    }
    cell.put("result", record)
    return record


def differences(bench: Bench, cells: Sequence[Scored]) -> list[Difference]:
    """Paired differences between all cells that have seed and count in common."""
    found = []
    for metric in bench.study.metrics:
        for a, b in combinations(cells, 2):
            one, two = a.paired.get(metric), b.paired.get(metric)
            if one is None or two is None or _draws(a.row) != _draws(b.row):
                continue
            value = b.row.scores[metric].value - a.row.scores[metric].value
            low, high = paired_shares(one, two) if one.dtype == bool else interval(value, two - one)
            found.append(Difference(metric=metric, a=a.row.key, b=b.row.key, value=value, low=low, high=high))
    return found


def _draws(row: Row) -> tuple[int, int]:
    return row.settings.seed, row.settings.count


def _paired(record: Mapping[str, Any]) -> dict[Metric, np.ndarray]:
    """What a record of scores says of single samples and of replicates."""
    marks = {
        metric: np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=count).astype(bool)
        for metric, (count, packed) in record["marks"].items()
    }
    return {metric: np.array(values) for metric, values in record["replicates"].items()} | marks
