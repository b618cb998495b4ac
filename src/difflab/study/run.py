"""Running studies: references are looked at, cells are drawn in chunks, then scored, and compared on common seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import yaml

from difflab import files
from difflab.data.sources import is_place
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.study.bench import Bench, open_benches
from difflab.study.chunks import Chunk, chunks_in_turn, draw, longest_first
from difflab.study.engine import Engine, Failure, Local, make_engine
from difflab.study.outline import sketch
from difflab.study.plan import OPERATIONS, Plan, plan_of
from difflab.study.record import CAPTIONS_FILE, command, metric_names, notes, passport, where
from difflab.study.result import Result, Row, read_result
from difflab.study.scoring import Real, ToRead, ToScore, differences, look_at_reference, score
from difflab.study.spec import Settings, Study, key_of, read_study
from difflab.study.store import Store

STUDY_FILE = "study.yaml"

Failed = dict[str, str]  # by key of the cell: what was raised, in one sentence


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
    engine: Engine | str = "local",
    watch: Watch | None = None,
) -> Result:
    """Run a study, or go on with one that was killed, and return its numbers.

    Args:
        study: a `Study`, or the path of its YAML file.
        out: its folder, on this machine or in an object store (`s3://bucket/run`); runs/<name> when left out.
        store: where cells are kept, when several studies share them; `out` when left out.
        batch: samples drawn at a time; decides speed and memory, and the numbers only in their last digits.
        device: `cpu`, `cuda`, ..; None takes a GPU where there is one. With another engine than the local one, whose
            workers have their own, models are opened on the CPU here.
        engine: who does the work, by name, or one of `engine.make_engine`, which goes on to be of use.
        watch: is told after every chunk.

    Raises DifflabError for whatever is missing or wrong, before any work starts.
    """
    study = study if isinstance(study, Study) else read_study(place(study))
    folder = place(out if out is not None else f"runs/{study.name}")
    with make_engine(engine) if isinstance(engine, str) else nullcontext(engine) as worker:
        benches = open_benches([(study, store or Store(folder))], batch=batch, device=device if worker.alone else "cpu")
        return run_benches(benches, [folder], engine=worker, watch=watch)[0]


def run_benches(
    benches: Sequence[Bench], folders: Sequence[Place], *, engine: Engine | None = None, watch: Watch | None = None
) -> list[Result]:
    """Run the studies of benches that were checked, each with a folder for its record; see `run_study`."""
    tell, worker = watch or (lambda progress: None), engine or Local()
    for bench, folder in zip(benches, folders, strict=True):
        _check_folder(bench.study, folder)
    real = _look_at_references(benches, worker)  # a broken reference should be known before anything is drawn
    for bench, folder in zip(benches, folders, strict=True):
        fields = bench.study.model_dump(mode="json", exclude_none=True)
        files.write_text(folder / STUDY_FILE, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
        if bench.captions:
            files.write_text(folder / CAPTIONS_FILE, "\n".join(bench.captions) + "\n")
    failed = _draw_cells(benches, worker, tell)
    rows = _score_cells(benches, real, failed, worker, tell)
    results = []
    for bench, folder, of_study, known in zip(benches, folders, rows, real, strict=True):
        result = _result(bench, of_study, known)
        result.save(folder)
        results.append(read_result(folder, bench.store.root))  # what a report made later will see
    return results


def _check_folder(study: Study, folder: Place) -> None:
    """Raise DifflabError where results must not go."""
    if is_place(study.reference, folder):
        raise DifflabError(f"{folder}: this is the study's reference; choose another folder for the results.")
    if files.exists(folder / STUDY_FILE) and (other := read_study(folder / STUDY_FILE).name) != study.name:
        raise DifflabError(f"{folder}: holds the study {other}, not {study.name}; choose another folder.")
    files.check_writable(folder / STUDY_FILE)


def _result(bench: Bench, rows: list[Row], real: Real) -> Result:
    of_length = real.floors.of_length
    return Result(
        study=bench.study,
        metric_names=metric_names(bench),
        rows=[row.model_copy(update={"floors": of_length.get(bench.frames_of(row.settings), {})}) for row in rows],
        differences=differences(bench, rows),
        passport=passport(bench),
        floors=real.floors.common,
        machine=where(bench, rows),
        notes=notes(bench, rows),
        captions=list(bench.captions[: bench.study.keep]),
        root=bench.store.root,
    )


def _look_at_references(benches: Sequence[Bench], engine: Engine) -> list[Real]:
    """What real samples say, for each study; its benches know it from now on."""
    found: dict[int, Real] = {}
    for answer in engine.map(look_at_reference, [ToRead(number) for number in range(len(benches))], benches):
        if isinstance(answer, Failure):
            raise DifflabError(f"{benches[answer.task.bench].study.name}: its reference failed: {answer.message}.")
        found[answer.task.bench] = answer.answer
        benches[answer.task.bench].measured.update(answer.answer.against)
    return [found[number] for number in range(len(benches))]


def _draw_cells(benches: Sequence[Bench], engine: Engine, tell: Watch) -> Failed:
    """Draw what is missing of all cells; what is there already is never done again. Returns the cells that failed."""
    failed: Failed = {}
    done: Counter[str] = Counter()

    def drawn(chunk: Chunk) -> None:
        done[chunk.key] += len(chunk.rows)
        tell(Progress(benches[chunk.bench].study, chunk.settings, done[chunk.key]))

    def missing() -> Iterator[Chunk]:
        there = _begin_cells(benches)
        for chunk in chunks_in_turn(benches) if engine.alone else longest_first(benches, _planned(benches)):
            if chunk.number in there[chunk.key]:
                drawn(chunk)
            elif chunk.key not in failed:
                yield chunk

    for answer in engine.map(draw, missing(), benches):
        if isinstance(answer, Failure):
            failed[answer.task.key] = answer.message
        else:
            drawn(answer.task)
    return failed


def _planned(benches: Sequence[Bench]) -> list[Plan]:
    """What cells cost beside one another, and need of memory."""
    return [plan_of(sketch(bench.study, bench.batch), OPERATIONS) for bench in benches]


def _begin_cells(benches: Sequence[Bench]) -> dict[str, set[int]]:
    """Record what decides the numbers of every cell, and find the chunks that are there, by key."""
    there = {}
    for bench in benches:
        for settings in bench.study.cells():
            decides = bench.decides(settings)
            cell = bench.store.cell(decides)
            cell.begin(decides)
            there[cell.key] = cell.drawn()
    return there


def _score_cells(
    benches: Sequence[Bench], real: Sequence[Real], failed: Failed, engine: Engine, tell: Watch
) -> list[list[Row]]:
    """A row for each cell of each study, in their order."""
    cells = [
        ToScore(number, settings, key_of(bench.decides(settings)))
        for number, bench in enumerate(benches)
        for settings in bench.study.cells()
    ]
    rows = {(c.bench, c.settings): _failed_row(benches, c, failed[c.key]) for c in cells if c.key in failed}
    sound = [cell for cell in cells if cell.key not in failed]
    for answer in engine.map(score, sound, benches, [known.against for known in real]):
        task = answer.task
        row = _failed_row(benches, task, answer.message) if isinstance(answer, Failure) else answer.answer
        rows[task.bench, task.settings] = row
        tell(Progress(benches[task.bench].study, task.settings, task.settings.count, scored=True))
    return [[rows[number, settings] for settings in bench.study.cells()] for number, bench in enumerate(benches)]


def _failed_row(benches: Sequence[Bench], cell: ToScore, message: str) -> Row:
    study, told = benches[cell.bench].study, bool(benches[cell.bench].captions)
    return Row(
        key=cell.key,
        settings=cell.settings,
        varied=study.varied(cell.settings),
        command=command(study, cell.settings, told=told),
        error=message,
    )
