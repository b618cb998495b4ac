"""Running studies: cells are drawn in chunks, then scored, and compared with their neighbours on common seeds.

Chunks are drawn in turn, the first one of every cell of every study, then the second ones, each turn in an order of its
own (a randomised block design): a machine that slows down for a while then slows no cell more than another.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest
from typing import Any

import numpy as np
import yaml
from scipy.special import stdtrit

from difflab import files
from difflab.data.captions import clip_captions, scene_captions
from difflab.data.dataset import Dataset
from difflab.data.shapes import sample_scenes
from difflab.data.shapes_clips import sample_motions
from difflab.data.sources import is_place
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.score.adm import Suite
from difflab.score.clipscore import clipscore
from difflab.score.extractors import Taps, joined
from difflab.score.metrics import interval
from difflab.score.shares import paired_shares, wilson
from difflab.study.bench import Bench, open_benches
from difflab.study.engine import Engine, Failure, engine
from difflab.study.measure import FRESH_SEED, picture_batches
from difflab.study.memory import nearest_training
from difflab.study.record import CAPTIONS_FILE, command, machine, metric_names, notes, passport, where
from difflab.study.result import Difference, Result, Row, Score, Turn, read_result
from difflab.study.spec import SAID, TRUTH, VIEWS, Metric, Settings, Study, View, key_of, read_study
from difflab.study.store import CellStore, Store, read_json
from difflab.study.truth import UNSAID, checked
from difflab.zoo.sampling import labels_of

STUDY_FILE = "study.yaml"

Failed = dict[str, str]  # by key of the cell: what was raised, in one sentence


@dataclass(frozen=True)
class Chunk:
    """A part of a cell, drawn and stored as one: the cell's key, the chunk's number, the indices of its samples."""

    bench: Bench
    settings: Settings
    key: str
    number: int
    rows: range


@dataclass(frozen=True)
class Progress:
    """What a run tells its watcher: the study and the cell, how many of its samples are there, and whether it has its
    scores."""

    study: Study
    settings: Settings
    done: int
    scored: bool = False


Watch = Callable[[Progress], None]


def run_study(
    study: Study | str | Place,
    out: str | Place | None = None,
    *,
    store: Store | None = None,
    batch: int = 64,
    device: str | None = None,
    engine_name: str = "local",
    watch: Watch | None = None,
) -> Result:
    """Run a study, or go on with one that was killed, and return its numbers.

    Args:
        study: a `Study`, or the path of its YAML file.
        out: its folder, on this machine or in an object store (`s3://bucket/run`); runs/<name> when left out.
        store: where cells are kept, when several studies share them; `out` when left out.
        batch: samples drawn at a time; decides speed and memory, and the numbers only in their last digits.
        device: `cpu`, `cuda`, ..; None takes a GPU where there is one.
        engine_name: who runs the cells.
        watch: is told after every chunk.

    Raises DifflabError for whatever is missing or wrong, before any work starts.
    """
    study = study if isinstance(study, Study) else read_study(place(study))
    folder = place(out if out is not None else f"runs/{study.name}")
    benches = open_benches([(study, store or Store(folder))], batch=batch, device=device)
    return run_benches(benches, [folder], engine_name=engine_name, watch=watch)[0]


def run_benches(
    benches: Sequence[Bench], folders: Sequence[Place], *, engine_name: str = "local", watch: Watch | None = None
) -> list[Result]:
    """Run the studies of benches that were checked, each with a folder for its record; see `run_study`."""
    tell, worker = watch or (lambda progress: None), engine(engine_name)
    for bench, folder in zip(benches, folders, strict=True):
        if is_place(bench.study.reference, folder):
            raise DifflabError(f"{folder}: this is the study's reference; choose another folder for the results.")
        if files.exists(folder / STUDY_FILE) and (other := read_study(folder / STUDY_FILE).name) != bench.study.name:
            raise DifflabError(f"{folder}: holds the study {other}, not {bench.study.name}; choose another folder.")
        files.check_writable(folder / STUDY_FILE)
    floors = [_all_floors(bench) for bench in benches]  # a broken reference should be known before anything is drawn
    for bench, folder in zip(benches, folders, strict=True):
        fields = bench.study.model_dump(mode="json", exclude_none=True)
        files.write_text(folder / STUDY_FILE, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
        if bench.captions:
            files.write_text(folder / CAPTIONS_FILE, "\n".join(bench.captions) + "\n")
    failed = _draw_cells(benches, worker, tell)
    results = []
    for bench, folder, real in zip(benches, folders, floors, strict=True):
        result = _result(bench, _score_cells(bench, failed, worker, tell), real)
        result.save(folder)
        results.append(read_result(folder, bench.store.root))  # what a report made later will see
    return results


def _result(bench: Bench, rows: list[Row], real: _Floors) -> Result:
    return Result(
        study=bench.study,
        metric_names=metric_names(bench),
        rows=[row.model_copy(update={"floors": real.of_length.get(bench.frames_of(row.settings), {})}) for row in rows],
        differences=_differences(bench, rows),
        passport=passport(bench),
        floors=real.common,
        machine=where(bench, rows),
        notes=notes(bench, rows),
        captions=list(bench.captions[: bench.study.keep]),
        root=bench.store.root,
    )


def _draw_cells(benches: Sequence[Bench], engine: Engine, tell: Watch) -> Failed:
    """Draw what is missing of all cells; what is there already is never done again. Returns the cells that failed."""
    failed: Failed = {}
    for answer in engine.map(_drawn, (chunk for chunk in _in_turn(benches) if chunk.key not in failed)):
        if isinstance(answer, Failure):
            failed[answer.task.key] = answer.message
        else:
            tell(answer)
    return failed


def _score_cells(bench: Bench, failed: Failed, engine: Engine, tell: Watch) -> list[Row]:
    """A row for each cell of a study, in their order."""
    cells = bench.study.cells()
    keys = {settings: key_of(bench.decides(settings)) for settings in cells}
    rows = {s: _failed_row(bench, s, failed[key]) for s, key in keys.items() if key in failed}
    sound = (settings for settings in cells if settings not in rows)
    for answer in engine.map(lambda settings: _scored_row(bench, settings), sound):
        row = _failed_row(bench, answer.task, answer.message) if isinstance(answer, Failure) else answer
        rows[row.settings] = row
        tell(Progress(bench.study, row.settings, row.settings.count, scored=True))
    return [rows[settings] for settings in cells]


def _in_turn(benches: Sequence[Bench]) -> Iterator[Chunk]:
    """The chunks of all cells of all studies, one of each cell in turn, shuffled within a turn."""
    of_each = (_chunks(bench, settings) for bench in benches for settings in bench.study.cells())
    for number, chunks in enumerate(zip_longest(*of_each)):
        turn = [chunk for chunk in chunks if chunk is not None]
        yield from random.Random(number).sample(turn, len(turn))


def _chunks(bench: Bench, settings: Settings) -> Iterator[Chunk]:
    size, key = bench.study.chunk, key_of(bench.decides(settings))
    for number, begin in enumerate(range(0, settings.count, size)):
        yield Chunk(bench, settings, key, number, range(begin, min(begin + size, settings.count)))


def _drawn(chunk: Chunk) -> Progress:
    """Draw a chunk if it is not there, after what decides its numbers was recorded."""
    bench, settings = chunk.bench, chunk.settings
    decides = bench.decides(settings)
    cell = bench.store.cell(decides)
    cell.begin(decides)
    if not cell.has_chunk(chunk.number):
        cell.put_chunk(chunk.number, *_draw_chunk(bench, settings, chunk.rows))
    return Progress(bench.study, settings, chunk.rows.stop)


def _scored_row(bench: Bench, settings: Settings) -> Row:
    cell = bench.store.cell(bench.decides(settings))
    record, timings = _scores(bench, settings, cell), cell.timings()
    each = [seconds for chunk in timings for seconds in chunk["seconds per sample of a batch"]]
    return Row(
        key=cell.key,
        settings=settings,
        varied=bench.study.varied(settings),
        scores=record["scores"],
        seconds=sum(chunk["seconds"] for chunk in timings),
        seconds_per_sample=float(np.median(each)),
        turns=[Turn(run=chunk["run"], seconds=chunk["seconds"] / chunk["samples"]) for chunk in timings],
        calls=bench.calls(settings),
        command=command(bench.study, settings, told=bool(bench.captions)),
    )


def _draw_chunk(bench: Bench, settings: Settings, rows: range) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Features, kept pictures and truth of the samples with indices `rows`, and what drawing them cost."""
    bench.warm(settings)
    model = bench.model_of(settings)
    labels = labels_of(model, bench.draw(settings), settings.seed, rows)
    taps, views, truth, fits, pictures, seconds, sizes = [], [], [], [], [], [], []
    batches = bench.batches(settings, rows)
    have = rows.start
    while True:
        clock = time.perf_counter()
        images = next(batches, None)  # pixels on the CPU: the device has finished
        if images is None:
            break
        seconds.append(time.perf_counter() - clock)
        sizes.append(len(images))
        taps.append(bench.extractor.taps(images, bench.taps()))
        views.append(bench.viewed(images, have))
        pictures.append(images[: max(0, bench.study.keep - have)])
        told = bench.captions[have : have + len(images)]
        if bench.clip is not None:
            fits.append({"clipscore": bench.clip.cosines(images, told)})
        if bench.truth_known:
            begin = have - rows.start
            asked = None if labels is None else labels[begin : begin + len(images)].cpu().numpy()
            truth.append(checked(images, asked, told or None))
        have += len(images)
    arrays = {name: np.concatenate([getattr(part, name) for part in taps]) for name in sorted(bench.taps())}
    arrays["pictures"] = np.concatenate(pictures)
    arrays |= _gathered(truth) | _gathered(views) | _gathered(fits)
    where = {
        "run": bench.shelf.run,
        "batch": min(bench.batch, bench.study.chunk),
        "machine": machine(bench.shelf.device),
    }
    each = [spent / size for spent, size in zip(seconds, sizes, strict=True)]
    return arrays, {"seconds": sum(seconds), "seconds per sample of a batch": each, "samples": len(rows), **where}


def _gathered(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of batches, by name, as arrays of all."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


@dataclass(frozen=True)
class _Floors:
    """What fresh real samples score: common to all cells, and what differs with their length, by frames."""

    common: dict[Metric, Score]
    of_length: dict[int | None, dict[Metric, Score]]


def _all_floors(bench: Bench) -> _Floors:
    """The floors of a study. Of clips of several lengths only those by the same first frames are common to all."""
    bench.statistics  # noqa: B018 (read here, whether or not a floor can be had)
    lengths = dict.fromkeys(bench.frames_of(settings) for settings in bench.study.cells())
    # Real scenes are all that their own captions say.
    metrics = tuple(metric for metric in bench.study.metrics if metric != "clipscore" and metric not in SAID)
    if len(lengths) == 1:
        return _Floors(_floors(bench, next(iter(lengths)), metrics), {})
    same = tuple(m for m in metrics if m == "fvd-window")
    others = tuple(m for m in metrics if m not in same and m not in TRUTH)
    common = _floors(bench, bench.study.window, same) if same else {}
    return _Floors(common, {frames: _floors(bench, frames, others) for frames in lengths} if others else {})


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
    return _measure(bench, frames, joined(taps), _gathered(truth) | _gathered(views), metrics).scores


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


def _differences(bench: Bench, rows: Sequence[Row]) -> list[Difference]:
    """Paired differences between all cells that have seed and count in common."""
    sound = [row for row in rows if not row.error]
    cells = {row.key: CellStore(bench.store.root / "cells" / row.key) for row in sound}
    found = []
    for metric in bench.study.metrics:
        paired = {key: _paired(cell, metric) for key, cell in cells.items()}
        for a, b in combinations(sound, 2):
            if (a.settings.seed, a.settings.count) != (b.settings.seed, b.settings.count):
                continue
            value = b.scores[metric].value - a.scores[metric].value
            one, two = paired[a.key], paired[b.key]
            if one is None or two is None:
                continue
            low, high = paired_shares(one, two) if one.dtype == bool else interval(value, two - one)
            found.append(Difference(metric=metric, a=a.key, b=b.key, value=value, low=low, high=high))
    return found


def _paired(cell: CellStore, metric: Metric) -> np.ndarray | None:
    """What belongs together between two cells, if anything does: booleans of samples from one start noise, or of one
    reference sample; or replicates that drew the same rows."""
    record = cell.get("result") or {}
    if metric in record["marks"]:
        count, packed = record["marks"][metric]
        return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=count).astype(bool)
    return np.array(record["replicates"][metric]) if metric in record["replicates"] else None


def _failed_row(bench: Bench, settings: Settings, message: str) -> Row:
    return Row(
        key=key_of(bench.decides(settings)),
        settings=settings,
        varied=bench.study.varied(settings),
        command=command(bench.study, settings, told=bool(bench.captions)),
        error=message,
    )
