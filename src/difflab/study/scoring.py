"""Cells are scored: against the reference, beside as many fresh real samples, and compared with one another."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from scipy.special import stdtrit

from difflab import files
from difflab.data.captions import clip_captions, scene_captions
from difflab.data.dataset import Dataset
from difflab.data.shapes import sample_scenes
from difflab.data.shapes_clips import sample_motions
from difflab.errors import DifflabError
from difflab.score.adm import Reference as AdmReference
from difflab.score.adm import Suite
from difflab.score.clipscore import clipscore
from difflab.score.extractors import Taps, joined
from difflab.score.metrics import interval
from difflab.score.shares import paired_shares, wilson
from difflab.study.bench import Bench
from difflab.study.chunks import gathered
from difflab.study.memory import nearest_training
from difflab.study.record import command
from difflab.study.reference import FRESH_SEED, picture_batches
from difflab.study.result import Difference, Row, Score, Turn
from difflab.study.spec import SAID, TRUTH, VIEWS, Metric, Settings, View, key_of
from difflab.study.store import CellStore, read_json
from difflab.study.truth import UNSAID, checked

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
class ToRead:
    """A reference that is still to be looked at: the number of its bench."""

    bench: int
    memory: ClassVar[int] = 0
    gpu: ClassVar[bool] = True


@dataclass(frozen=True)
class Floors:
    """What fresh real samples score: common to all cells, and what differs with their length, by frames."""

    common: dict[Metric, Score]
    of_length: dict[int | None, dict[Metric, Score]]


@dataclass(frozen=True)
class Real:
    """What real samples say: the reference, and fresh ones besides."""

    against: Against
    floors: Floors


def look_at_reference(benches: Sequence[Bench], task: ToRead) -> Real:
    """Measure a study's reference and as many fresh samples as a cell has, or read what was kept of that."""
    bench = benches[task.bench]
    floors = _all_floors(bench)
    for frames in dict.fromkeys(map(bench.frames_of, bench.study.cells())):
        for view in (None, *bench.views):
            bench.against_of(frames, view)
    return Real(dict(bench.measured), floors)


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


def _all_floors(bench: Bench) -> Floors:
    """The floors of a study. Of clips of several lengths only those by the same first frames are common to all."""
    bench.statistics  # noqa: B018 (read here, whether or not a floor can be had)
    lengths = dict.fromkeys(bench.frames_of(settings) for settings in bench.study.cells())
    # Real scenes are all that their own captions say.
    metrics = tuple(metric for metric in bench.study.metrics if metric != "clipscore" and metric not in SAID)
    if len(lengths) == 1:
        return Floors(_floors(bench, next(iter(lengths)), metrics), {})
    same = tuple(m for m in metrics if m == "fvd-window")
    others = tuple(m for m in metrics if m not in same and m not in TRUTH)
    common = _floors(bench, bench.study.window, same) if same else {}
    return Floors(common, {frames: _floors(bench, frames, others) for frames in lengths} if others else {})


def _floors(bench: Bench, frames: int | None, metrics: tuple[Metric, ...]) -> dict[Metric, Score]:
    """What fresh real samples of so many frames score, sets of as many as a cell has; kept in the store."""
    counts = {settings.count for settings in bench.study.cells()}
    classes = {settings.classes for settings in bench.study.cells()}
    balanced = classes == {"balanced"} and bench.model.card.network.classes is not None
    reference = bench.reference_of(frames)
    fresh = reference.fresh(counts.pop(), balanced) if len(counts) == 1 and metrics else None
    if fresh is None:
        return {}
    dataset, order = fresh
    samples = {
        "samples": dataset.description, "fingerprint": reference.fingerprint, "count": order.shape,
        "balanced": balanced, "of": metrics,
    }  # fmt: skip
    made_by = _measured_by(bench, reference.frames) | samples | {"extractor": bench.extractor.passport()}
    path = bench.store.root / "reference" / f"floors-{key_of(made_by)}.json"
    if not files.exists(path):
        sets = [_scores_of_real(bench, reference.frames, dataset, rows, metrics) for rows in order]
        files.write_json(path, {m: _over_sets([scores[m] for scores in sets]).model_dump() for m in metrics})
    found = read_json(path)
    return {metric: Score(**found[metric]) for metric in metrics}


def _scores_of_real(
    bench: Bench, frames: int | None, dataset: Dataset, order: np.ndarray, metrics: Sequence[Metric]
) -> dict[Metric, Score]:
    """Scores of the real samples with the indices `order` (N,), as if they were a cell's."""
    taps, views, truth, seen = [], [], [], 0
    for pictures, _ in picture_batches(dataset, bench.study.skip_broken, order):
        taps.append(bench.extractor.taps(pictures, bench.taps()))
        views.append(bench.viewed(pictures, seen))
        if bench.truth_known and set(TRUTH) & set(metrics):
            rows = order[seen : seen + len(pictures)]
            truth.append(_truth_of_real(pictures, rows, bool(bench.captions)))
        seen += len(pictures)
    return _measure(bench, frames, joined(taps), gathered(truth) | gathered(views), metrics).scores


def _truth_of_real(pictures: np.ndarray, rows: np.ndarray, told: bool) -> dict[str, np.ndarray]:
    """What the checker says of fresh scenes or clips, as if they had been drawn by their captions, or their classes."""
    clips = pictures.ndim == 5
    if told:
        return checked(pictures, captions=(clip_captions if clips else scene_captions)(FRESH_SEED, rows))
    return checked(pictures, (sample_motions if clips else sample_scenes)(FRESH_SEED, rows).labels)


def _over_sets(scores: Sequence[Score]) -> Score:
    """The mean over sets of samples, and where another set's score would lie (prediction interval by Student's t)."""
    values, sets = np.array([score.value for score in scores]), len(scores)
    if sets == 1:
        return scores[0]
    half = stdtrit(sets - 1, 0.975) * values.std(ddof=1) * math.sqrt(1 + 1 / sets)
    mean = float(values.mean())
    return Score(value=mean, low=mean - half, high=mean + half, n=scores[0].n, sets=sets)


@dataclass(frozen=True)
class _Measured:
    """Scores by metric, and what pairs them between cells: replicates of distances, marks of samples."""

    scores: dict[Metric, Score]
    replicates: dict[Metric, list[float]]
    marks: dict[Metric, np.ndarray]


def _measure(
    bench: Bench, frames: int | None, taps: Taps, more: Mapping[str, np.ndarray], metrics: Sequence[Metric]
) -> _Measured:
    """Scores of samples with these features, clips of so many frames.

    more: (N,) booleans for what the truth checker says, and (N, d) features of views of clips.
    """

    def suite(features: Taps, view: View | None = None) -> Suite:
        against, passport = bench.against_of(frames, view), bench.extractor_of(view).passport()
        return Suite(features, against, passport, bench.study.replicates, bench.shelf.device)

    whole, found = suite(taps), _Measured({}, {}, {})
    for metric in metrics:
        if metric in TRUTH:
            marks = more[metric][more[metric] != UNSAID].astype(bool)
            low, high = wilson(int(marks.sum()), len(marks))
            found.scores[metric] = Score(value=float(marks.mean()), low=low, high=high, n=len(marks))
            found.marks[metric] = marks
            continue
        if metric == "clipscore":
            fit = clipscore(more[metric], bench.study.replicates)
            found.scores[metric] = Score(value=fit.value, low=fit.low, high=fit.high, n=fit.n)
            found.replicates[metric] = fit.replicates.tolist()
            continue
        if (view := VIEWS.get(metric)) is not None:
            said = suite(Taps(more[view]), view).score("fid" if view == "frames" else "fvd")
        else:
            said = whole.score(metric)
        found.scores[metric] = Score(value=said.value, low=said.low, high=said.high, n=said.n)
        if said.replicates.size:
            found.replicates[metric] = said.replicates.tolist()
        if said.marks.size:
            found.marks[metric] = said.marks
    return found


def _measured_by(bench: Bench, frames: int | None) -> dict[str, Any]:
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
    measured_by = key_of(_measured_by(bench, frames) | {"beside training": beside_training})
    record = cell.get("result")
    if record is not None and record.get("measured_by") == measured_by:
        return record
    of_each = (*TRUTH, "clipscore")
    asked: list[str] = [*(metric for metric in of_each if metric in bench.study.metrics), *bench.views]
    taps = Taps(**{name: cell.gather(name) for name in bench.taps()})
    more = {name: cell.gather(name) for name in asked}
    found = _measure(bench, frames, taps, more, bench.study.metrics)
    if beside_training:
        features, reference = cell.gather("features")[: bench.study.nearest], bench.reference_of(frames).dataset
        near = nearest_training(bench.study, bench.model.card, bench.extractor, features, reference, frames)
        cell.put_arrays("nearest", vars(near))
    record = {
        "measured_by": measured_by,
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
