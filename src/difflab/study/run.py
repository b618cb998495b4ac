"""Running a study: each cell is drawn in chunks, scored, and compared with its neighbours on common seeds."""

from __future__ import annotations

import hashlib
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from difflab import __version__, files
from difflab.core.sampler import final
from difflab.core.schedule import path as sampling_path
from difflab.data.shapes import recognise
from difflab.errors import DifflabError
from difflab.score.extractors import Extractor, metric_name
from difflab.score.fid import fd_score
from difflab.score.metrics import interval
from difflab.score.statistics import Statistics
from difflab.study.engine import Failure, engine
from difflab.study.measure import SHAPES, Reference, choose_features, open_extractor, wilson
from difflab.study.result import Difference, Result, Row, Score, read_result
from difflab.study.spec import Metric, Scalar, Settings, Study, key_of, read_study
from difflab.study.store import CellStore, Store
from difflab.zoo.codec import decode
from difflab.zoo.load import load
from difflab.zoo.model import Draw, Model, seeded_noise, walk

STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class Progress:
    """What a run tells its watcher: the cell, how many of its samples are there, and how many it will have."""

    settings: Settings
    done: int
    count: int


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Bench:
    """Everything that the cells of a study share: the model, the features, the reference, the store."""

    study: Study
    store: Store
    batch: int
    device: str

    @cached_property
    def model(self) -> Model:
        """The model, loaded once."""
        return load(self.study.model, config=self.study.config, device=self.device)

    @cached_property
    def reference(self) -> Reference:
        """What samples are scored against, brought to the size of the samples."""
        return Reference(self.study.reference, self.study.split, self.model.shape[-1])

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network."""
        name = self.study.features or choose_features(self.study.reference, self.model.shape[-1])
        return open_extractor(name, self.device)

    @cached_property
    def statistics(self) -> Statistics:
        """The reference's statistics, kept in the store."""
        return self.reference.statistics(self.extractor, self.store.root / "reference")

    @cached_property
    def truth_known(self) -> bool:
        """Whether the truth checker looks at the samples."""
        if "valid" in self.study.metrics and self.study.reference != SHAPES:
            raise DifflabError(
                f"{self.study.name}: the metric 'valid' needs scenes of known truth; use it with the reference shapes."
            )
        return "valid" in self.study.metrics

    def problems(self) -> list[str]:
        """Everything that can be found missing or wrong before any work starts."""
        found = []
        for part in (self._model_is_there, self._reference_is_there, self._features_are_there, self._truth_is_known):
            try:
                part()
            except DifflabError as error:
                found.append(str(error))
        return found

    def _model_is_there(self) -> None:
        most = self.model.schedule.timesteps
        for settings in self.study.cells():
            if settings.steps > most:
                raise DifflabError(
                    f"{self.study.name}: steps is {settings.steps}, but must lie between 1 and the model's {most} "
                    "training timesteps."
                )

    def _reference_is_there(self) -> None:
        # The size follows from the model; without one the data can still be looked for.
        Reference(self.study.reference, self.study.split).dataset  # noqa: B018

    def _features_are_there(self) -> None:
        self.extractor  # noqa: B018

    def _truth_is_known(self) -> None:
        self.truth_known  # noqa: B018

    def decides(self, settings: Settings) -> dict[str, Any]:
        """Everything that decides the numbers and the files of one cell; its hash is the cell's key."""
        card = self.model.card
        return {
            "weights": self.model.weights_hash,
            "network": card.network.model_dump(mode="json"),
            "schedule": card.schedule.model_dump(mode="json"),
            "output": [card.prediction, card.variance, card.rounding],
            "settings": settings.model_dump(mode="json") | {"spacing": settings.spacing or self.model.family.spacing},
            "features": self.extractor.passport(),
            "truth": self.truth_known,
            "keep": self.study.keep,
            "chunk": self.study.chunk,
            "dtype": "float32",
        }

    @cached_property
    def warm(self) -> bool:
        """Makes the first forward pass, which costs extra, before any clock runs."""
        noise = seeded_noise(self.model, 0, range(min(self.batch, self.study.chunk)))
        next(walk(self.model, Draw(steps=1), noise))
        return True


def run_study(
    study: Study | str | Path,
    out: str | Path | None = None,
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
        out: its folder; runs/<name> when left out.
        store: where cells are kept, when several studies share them; `out` when left out.
        batch: samples drawn at a time; decides speed and memory, not the numbers.
        device: `cpu`, `cuda`, ..; None takes a GPU where there is one.
        engine_name: who runs the cells.
        watch: is told after every chunk.

    Raises DifflabError for whatever is missing or wrong, before any work starts.
    """
    study = study if isinstance(study, Study) else read_study(Path(study))
    folder = Path(out) if out is not None else Path("runs") / study.name
    bench = Bench(study, store or Store(folder), batch, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _refuse(bench.problems())
    _record_study(study, folder)
    run = lambda settings: run_cell(bench, settings, watch)  # noqa: E731
    answers = list(engine(engine_name).map(run, study.cells()))
    rows = [_failed_row(bench, a) if isinstance(a, Failure) else a for a in answers]
    result = Result(
        study=study,
        metric_names=_metric_names(bench),
        rows=rows,
        differences=_differences(bench, rows),
        passport=_passport(bench),
        machine=machine(bench.device),
        notes=_notes(bench),
        root=bench.store.root,
    )
    result.save(folder)
    return read_result(folder, bench.store.root)  # what a report made later will see


def run_cell(bench: Bench, settings: Settings, watch: Watch | None = None) -> Row:
    """Draw what is missing of a cell, then score it. What is there already is never done again."""
    decides = bench.decides(settings)
    cell = bench.store.cell(decides)
    cell.begin(decides)
    size = bench.study.chunk
    for index, begin in enumerate(range(0, settings.count, size)):
        rows = range(begin, min(begin + size, settings.count))
        if not cell.has_chunk(index):
            cell.put_chunk(index, *_draw_chunk(bench, settings, rows))
            if index == 0:
                cell.put("machine", machine(bench.device))
        if watch:
            watch(Progress(settings, rows.stop, settings.count))
    record = _scores(bench, settings, cell)
    return Row(
        key=cell.key,
        settings=settings,
        varied=bench.study.varied(settings),
        scores=record["scores"],
        seconds=cell.timing()["seconds"],
        calls=_calls(bench.model, settings),
        command=command(bench.study, settings),
    )


def _draw_chunk(bench: Bench, settings: Settings, rows: range) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Features, kept pictures and truth of the samples with indices `rows`, and what drawing them cost."""
    assert bench.warm
    features, valid, pictures, seconds = [], [], [], 0.0
    for begin in range(rows.start, rows.stop, bench.batch):
        part = range(begin, min(begin + bench.batch, rows.stop))
        clock = time.perf_counter()
        x = final(walk(bench.model, draw_of(settings), seeded_noise(bench.model, settings.seed, part)))
        images = decode(x, bench.model.card.rounding)  # waits for the device
        seconds += time.perf_counter() - clock
        features.append(bench.extractor(images))
        pictures.append(images[: max(0, bench.study.keep - begin)])
        if bench.truth_known:
            valid.append(recognise(images).valid)
    arrays = {"features": np.concatenate(features), "pictures": np.concatenate(pictures)}
    if valid:
        arrays["valid"] = np.concatenate(valid)
    timing = {"seconds": seconds, "samples": len(rows), "batch": bench.batch, "device": bench.device}
    return arrays, timing


def draw_of(settings: Settings) -> Draw:
    """The sampler's part of a setting."""
    s = settings
    return Draw(s.sampler, s.steps, s.eta, s.spacing, s.official_grid, s.clip)


def _calls(model: Model, settings: Settings) -> int:
    spacing = settings.spacing or model.family.spacing
    return len(sampling_path(model.schedule, settings.steps, spacing, official_grid=settings.official_grid)) - 1


def _scores(bench: Bench, settings: Settings, cell: CellStore) -> dict[str, Any]:
    """The cell's record of scores: read, or measured and written last of all."""
    measured_by = key_of(
        {
            "moments": [hashlib.sha256(m.tobytes()).hexdigest() for m in bench.statistics.gaussian],
            "reference": bench.statistics.passport,
            "metrics": bench.study.metrics,
            "replicates": bench.study.replicates,
        }
    )
    record = cell.get("result")
    if record is not None and record["measured_by"] == measured_by:
        return record
    scores: dict[str, Any] = {}
    replicates: list[float] = []
    if "fid" in bench.study.metrics:
        fd = fd_score(
            cell.gather("features"), bench.statistics, bench.extractor.passport(), replicates=bench.study.replicates
        )
        scores["fid"] = Score(value=fd.value, low=fd.low, high=fd.high, n=fd.n).model_dump()
        replicates = [float(r) for r in fd.replicates]
    if "valid" in bench.study.metrics:
        valid = cell.gather("valid")
        scores["valid"] = wilson(int(valid.sum()), len(valid)).model_dump()
    cell.put("result", {"measured_by": measured_by, "scores": scores, "replicates": replicates})
    record = cell.get("result")
    assert record is not None
    return record


def _differences(bench: Bench, rows: Sequence[Row]) -> list[Difference]:
    """Paired differences between neighbours along each axis, and between each axis's first value and the others."""
    sound = [row for row in rows if not row.error]
    found = []
    for axis, values in bench.study.axes.items():
        pairs = dict.fromkeys([*pairwise(values), *((values[0], v) for v in values[1:])])
        for row in sound:
            for before, after in pairs:
                if row.varied[axis] == before and (other := _neighbour(sound, row, axis, after)) is not None:
                    found += [_difference(bench, metric, row, other) for metric in bench.study.metrics]
    return found


def _neighbour(rows: Sequence[Row], row: Row, axis: str, value: Scalar) -> Row | None:
    wanted = {**row.varied, axis: value}
    return next((r for r in rows if r.varied == wanted and r.settings.seed == row.settings.seed), None)


def _difference(bench: Bench, metric: Metric, a: Row, b: Row) -> Difference:
    """Both cells started from the same noise and were resampled alike, so what they share cancels."""
    value = b.scores[metric].value - a.scores[metric].value
    cells = [CellStore(bench.store.root / "cells" / row.key) for row in (a, b)]
    if metric == "valid":
        gap = cells[1].gather("valid").astype(float) - cells[0].gather("valid")
        half = 1.959964 * float(gap.std(ddof=1)) / len(gap) ** 0.5
        return Difference(metric=metric, a=a.key, b=b.key, value=value, low=value - half, high=value + half)
    first, second = (np.array((cell.get("result") or {})["replicates"]) for cell in cells)
    low, high = interval(value, second - first)
    return Difference(metric=metric, a=a.key, b=b.key, value=value, low=low, high=high)


def _failed_row(bench: Bench, failure: Failure) -> Row:
    s = failure.settings
    return Row(
        key=key_of(bench.decides(s)),
        settings=s,
        varied=bench.study.varied(s),
        command=command(bench.study, s),
        error=failure.message,
    )


def _metric_names(bench: Bench) -> dict[Metric, str]:
    names: dict[Metric, str] = {"fid": metric_name(bench.extractor.passport()), "valid": "valid scenes"}
    return {metric: names[metric] for metric in bench.study.metrics}


def _passport(bench: Bench) -> dict[str, Any]:
    card = bench.model.card
    return {
        "model": card.model_dump(mode="json", exclude={"training"}) | {"weights sha256": bench.model.weights_hash},
        "features": bench.extractor.passport(),
        "reference": {"source": bench.study.reference, "n": bench.statistics.n, "made by": bench.statistics.passport},
        "base": bench.study.base.model_dump(mode="json"),
        "interval": f"95 %, bootstrap over samples, {bench.study.replicates} replicates, centred on the plain estimate",
        "noise": "Philox, keyed by (seed, sample), counter by step: the same for every cell and batch size",
        "difflab": __version__,
    }


def _notes(bench: Bench) -> list[str]:
    notes = [bench.model.card.summary()]
    counts = {s.count for s in bench.study.cells()}
    if min(counts) < bench.extractor.dim + 1:
        notes.append(
            f"The {min(counts)} samples of a cell are fewer than the {bench.extractor.dim} features need for a "
            "covariance of full rank: "
            "the level of FD is mostly bias here, and only its differences at equal n mean something."
        )
    if len(counts) > 1:
        notes.append(
            "Cells differ in their count of samples; FD falls with the count, so compare only cells of one count."
        )
    for s in bench.study.cells():
        if s.official_grid and _calls(bench.model, s) != s.steps:
            notes.append(f"The official grid for {s.steps} steps makes {_calls(bench.model, s)} network calls.")
    skipped = (bench.statistics.passport or {}).get("skipped")
    if skipped:
        notes.append(f"{skipped} broken images of the reference were passed over.")
    return list(dict.fromkeys(notes))


def _record_study(study: Study, folder: Path) -> None:
    text = yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    files.write_text(folder / STUDY_FILE, text)


def command(study: Study, settings: Settings) -> str:
    """The command line that draws the samples of one cell again."""
    words = ["difflab", "sample", study.model]
    if study.config:
        words += ["--config", study.config]
    words += ["--sampler", settings.sampler, "--steps", str(settings.steps)]
    if settings.sampler == "ddim":
        words += ["--eta", f"{settings.eta:g}"]
    if settings.spacing:
        words += ["--spacing", settings.spacing]
    if settings.official_grid:
        words += ["--official-grid"]
    words += ["-n", str(settings.count), "--seed", str(settings.seed), "--out", "samples.npz"]
    return shlex.join(words)


def machine(device: str) -> dict[str, Any]:
    """Where and with what the numbers are made."""
    return {
        "device": torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else f"{_cpu()}, {torch.get_num_threads()} threads",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "difflab": __version__,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def check_all(studies: Sequence[Study], store: Store, device: str) -> None:
    """Everything that several studies miss, in one message, before any work starts."""
    _refuse([problem for study in studies for problem in Bench(study, store, 1, device).problems()])


def _refuse(problems: Sequence[str]) -> None:
    different = list(dict.fromkeys(problems))
    if len(different) > 1:
        raise DifflabError(
            "\n".join([f"{len(different)} things are missing or wrong:", *(f"- {p}" for p in different)])
        )
    if different:
        raise DifflabError(different[0])
