"""Running studies: references are looked at, cells are drawn in chunks, then scored, and compared on common seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import zip_longest

import yaml

from difflab import files
from difflab.data.sources import is_place
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.study.bench import Bench
from difflab.study.chunks import Chunk, chunks_in_turn, longest_first
from difflab.study.engine import Done, Engine, Failure, Local, make_engine
from difflab.study.floors import Real, ToRead, look_at_reference
from difflab.study.opening import open_benches
from difflab.study.outline import sketch
from difflab.study.plan import OPERATIONS, Plan, plan_of
from difflab.study.record import CAPTIONS_FILE, command, metric_names, notes, passport, where
from difflab.study.result import Result, Row, read_result
from difflab.study.scoring import Scored, ToScore, differences
from difflab.study.spec import Settings, Study, read_study
from difflab.study.store import Store
from difflab.study.todo import Task, Todo, work

STUDY_FILE = "study.yaml"


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
    cells = _draw_and_score(benches, real, worker, tell)
    results = []
    for bench, folder, of_study, known in zip(benches, folders, cells, real, strict=True):
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


def _result(bench: Bench, cells: list[Scored], real: Real) -> Result:
    of_length, rows = real.floors.of_length, [cell.row for cell in cells]
    timings = [cell.timings for cell in cells]
    return Result(
        study=bench.study,
        metric_names=metric_names(bench),
        rows=[row.model_copy(update={"floors": of_length.get(bench.frames_of(row.settings), {})}) for row in rows],
        differences=differences(bench, cells),
        passport=passport(bench),
        floors=real.floors.common,
        machine=where(bench, timings),
        notes=notes(bench, timings),
        captions=list(bench.captions[: bench.study.keep]),
        root=bench.store.root,
    )


def _look_at_references(benches: Sequence[Bench], engine: Engine) -> list[Real]:
    """What real samples say, for each study; its benches know it from now on."""
    found: dict[int, Real] = {}
    of_reference: dict[str, list[ToRead]] = {}
    for number, bench in enumerate(benches):
        of_reference.setdefault(bench.study.reference, []).append(ToRead(number))
    # Of studies with one reference the first measures it and the others read what it kept.
    for turn in zip_longest(*of_reference.values()):
        for answer in engine.map(look_at_reference, [task for task in turn if task is not None], benches):
            if isinstance(answer, Failure):
                raise DifflabError(f"{benches[answer.task.bench].study.name}: its reference failed: {answer.message}.")
            found[answer.task.bench] = deepcopy(answer.answer)  # Ray's lies in shared memory that cannot be written to
            benches[answer.task.bench].measured.update(found[answer.task.bench].against)
    return [found[number] for number in range(len(benches))]


def _draw_and_score(benches: Sequence[Bench], real: Sequence[Real], engine: Engine, tell: Watch) -> list[list[Scored]]:
    """Draw what is missing of all cells and score them: those of each study, in their order.

    What is there already is never done again. Where many work, cells are scored while others are drawn; one worker
    draws in turn first, so that its times compare.
    """
    chunks = chunks_in_turn(benches) if engine.alone else longest_first(benches, _planned(benches))
    todo = Todo(benches, chunks, at_once=not engine.alone)
    found: dict[tuple[int, Settings], Scored] = {}

    def told(task: Task, scored: bool) -> None:
        tell(Progress(benches[task.bench].study, task.settings, todo.samples[todo.cell(task)], scored))

    for cell in todo.cells:
        if todo.samples[todo.cell(cell)]:
            told(cell, scored=False)
    answers: Iterator[Done[Task, Scored | None] | Failure[Task]]
    answers = engine.map(work, todo.tasks(), benches, [known.against for known in real])
    for done in answers:
        task = done.task
        if isinstance(done, Failure):
            if isinstance(task, Chunk):
                todo.fail(task, done.message)
            else:
                found[task.bench, task.settings] = _failed(benches, task, done.message)
                todo.scored(task)
        elif isinstance(task, Chunk):
            todo.drawn(task)
            told(task, scored=False)
        else:
            assert done.answer is not None
            found[task.bench, task.settings] = done.answer
            todo.scored(task)
            told(task, scored=True)
    for cell in todo.cells:
        if (message := todo.failed.get(todo.cell(cell))) is not None:
            found[cell.bench, cell.settings] = _failed(benches, cell, message)
    return [[found[number, settings] for settings in bench.study.cells()] for number, bench in enumerate(benches)]


def _planned(benches: Sequence[Bench]) -> list[Plan]:
    """What cells cost beside one another, and need of memory."""
    return [plan_of(sketch(bench.study, bench.batch), OPERATIONS) for bench in benches]


def _failed(benches: Sequence[Bench], cell: ToScore, message: str) -> Scored:
    study, told = benches[cell.bench].study, bool(benches[cell.bench].captions)
    row = Row(
        key=cell.key,
        settings=cell.settings,
        varied=study.varied(cell.settings),
        command=command(study, cell.settings, told=told),
        error=message,
    )
    return Scored(row, [], {})
