"""The reference is looked at, and fresh real samples are scored as a cell is: what a perfect model would get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import stdtrit

from difflab import files
from difflab.data.captions import clip_captions, scene_captions
from difflab.data.dataset import Dataset
from difflab.data.shapes import sample_scenes
from difflab.data.shapes_clips import sample_motions
from difflab.score.extractors import joined
from difflab.study.bench import Bench
from difflab.study.chunks import gathered
from difflab.study.reference import FRESH_SEED, picture_batches
from difflab.study.result import Score
from difflab.study.scoring import Against, measure, measured_by
from difflab.study.spec import SAID, TRUTH, Metric, key_of
from difflab.study.store import read_json
from difflab.study.truth import checked


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
    made_by = measured_by(bench, reference.frames) | samples | {"extractor": bench.extractor.passport()}
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
    return measure(bench, frames, joined(taps), gathered(truth) | gathered(views), metrics).scores


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
