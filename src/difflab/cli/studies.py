"""`difflab study`, `difflab reproduce`, `difflab report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difflab.cli import planning
from difflab.cli.options import Batch, Config, Device, Features, Out, Split, pick_device
from difflab.cli.terminal import print_table

if TYPE_CHECKING:
    from difflab.study.engine import Engine
    from difflab.study.learning import LearningStudy
    from difflab.study.result import Result
    from difflab.study.run import Progress, Watch
    from difflab.study.spec import Settings, Study

app = typer.Typer(help="Run a study, see how far it is, or have it explained.", no_args_is_help=True)
StudyFile = Annotated[Path, typer.Argument(help="STUDY.yaml, or a shipped study: dit-cfg, lab/dit-cfg.")]
app.command("plan")(planning.plan)
EngineName = Annotated[
    str, typer.Option("--engine", help="Who does the work: local, this process; ray, as many as there are.")
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster: auto, host:6379; RAY_ADDRESS, or one started here, when left out.")
]
Workers = Annotated[int | None, typer.Option(help="Of a Ray started here; one for each processor when left out.")]
Gpus = Annotated[
    float | None, typer.Option(help="GPUs of each Ray task, such as 0.5; 1 when left out, 0 where there are none.")
]


@app.command("run")
def run(
    file: StudyFile,
    out: Out = None,
    batch: Batch = 64,
    device: Device = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
) -> None:
    """Run a study, or go on with one that was stopped, and write its report."""
    from difflab.errors import DifflabError
    from difflab.places import local, place
    from difflab.report.page import build_report
    from difflab.study.engine import make_engine
    from difflab.study.learning import LearningStudy
    from difflab.study.presets import find_study
    from difflab.study.run import run_study

    study = find_study(file)
    folder = place(f"runs/{study.name}" if out is None else out)
    if isinstance(study, LearningStudy):
        if (engine, address, workers, gpus) != ("local", None, None, None):
            raise DifflabError(f"{study.name}: compares trainings, which run in this process; leave --engine out.")
        _learn(study, local(folder, "trainings"), batch, pick_device(device))
        return
    with (
        make_engine(engine, address=address, workers=workers, gpus=gpus) as doing,
        _watching(study.name, [study]) as watch,
    ):
        result = run_study(study, folder, batch=batch, device=_here(device, doing), engine=doing, watch=watch)
    _print_table(result)
    print(f"report: {build_report([result], folder / 'report', problem_set=None)}")
    _fail_if_cells_failed([result])


@app.command("status")
def status(file: StudyFile, out: Out = None) -> None:
    """Which cells of a study are done, begun or missing. --out is the folder it was run in, where `cells` lies."""
    from difflab.places import place
    from difflab.study.opening import open_benches
    from difflab.study.store import Store

    study = _of_samples(file)
    store = Store(place(f"runs/{study.name}" if out is None else out))
    (bench,) = open_benches([(study, store)], device="cpu")
    rows = []
    for settings in study.cells():
        cell, chunks = bench.store.cell(bench.decides(settings)), -(-settings.count // study.chunk)
        drawn = cell.chunks()
        state = "done" if cell.get("result") else ("begun" if drawn else "missing")
        rows.append([*map(str, study.varied(settings).values()), f"{drawn}/{chunks}", state, cell.key])
    print_table([*study.axes, "chunks", "state", "key"], rows)


@app.command("explain")
def explain(file: StudyFile) -> None:
    """What a study would do: what it varies and what not, its cells or trainings, and what they cost."""
    from difflab.study.learning import LearningStudy
    from difflab.study.presets import find_study

    study = find_study(file)
    print(f"{study.name}: {study.question}")
    if study.remark:
        print(f"note: {study.remark}")
    if isinstance(study, LearningStudy):
        _explain_trainings(study)
        return
    fixed = {k: v for k, v in study.base.model_dump(exclude_unset=True).items() if k not in study.axes}
    print(f"model {study.model}, reference {study.reference}, metrics {', '.join(study.metrics)}")
    print(
        f"held fixed: {', '.join(f'{name} {value}' for name, value in fixed.items()) or 'nothing'}; all else as usual"
    )
    cells = study.cells()
    calls = [[f"{_calls(c) // c.count:,}", f"{_calls(c):,}"] for c in cells]
    rows = [[*map(str, study.varied(c).values()), *cost] for c, cost in zip(cells, calls, strict=True)]
    print_table([*study.axes, "network calls a sample", "of the cell"], rows)
    print(f"{len(cells)} cells, about {sum(map(_calls, cells)):,} network calls in all; a guided step makes two")


def _explain_trainings(study: LearningStudy) -> None:
    """The variants of a study of trainings, what they change, and how much is trained and drawn."""
    from difflab.study.learn import recipe_of, variant_of

    recipe = recipe_of(study, next(iter(study.variants)), study.seeds[0])
    print(f"trained on {recipe.data.source}, measured against {study.reference} by {', '.join(study.metrics)}")
    rows = []
    for name, changes in study.variants.items():
        size = variant_of(study, name)
        told = ", ".join(f"{key}={value}" for key, value in changes.items()) or "nothing"
        rows.append([name, told, f"{size.parameters:,}", f"{size.macs:,}"])
    print_table(["variant", "changes", "parameters", "MACs a forward"], rows)
    trainings, steps = len(study.variants) * len(study.seeds), study.snapshots[-1]
    print(
        f"{trainings} trainings of {steps:,} steps of {recipe.batch}, each measured after {', '.join(map(str, study.snapshots))} "
        f"steps by {study.draw.count} samples of about {_calls(study.draw) // study.draw.count} network calls"
    )


def _of_samples(file: Path) -> Study:
    from difflab.errors import DifflabError
    from difflab.study.learning import LearningStudy
    from difflab.study.presets import find_study

    study = find_study(file)
    if isinstance(study, LearningStudy):
        raise DifflabError(f"{file}: compares trainings, of which only `difflab study run` knows.")
    return study


def _learn(study: LearningStudy, folder: Path, batch: int, device: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from difflab.report.page import Chapter, build_book
    from difflab.study.learn import run_learning

    total = len(study.variants) * len(study.seeds) * study.snapshots[-1]
    with Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task, done = bar.add_task(study.name, total=total), dict.fromkeys([""], 0)

        def watch(name: str, progress: Any) -> None:
            done[name] = progress.step if progress else study.snapshots[-1]
            bar.update(task, completed=sum(done.values()), description=name if progress else f"{name}, measuring")

        learning = run_learning(study, folder, batch=batch, device=device, watch=watch)
    print(f"report: {build_book([Chapter(None, [], [learning])], folder / 'report')}")


def reproduce(
    problem_set: Annotated[str, typer.Argument(help="ddim, dit, vdm; of the bonuses samplers, imagenet, coco, ssv2; or all.")],
    scale: Annotated[str, typer.Option(help="demo (what ships), lab (models you trained), paper (official checkpoints).")] = "demo",
    out: Out = None,
    model: Annotated[str | None, typer.Option(help="Another model than the scale's.")] = None,
    config: Config = None,
    reference: Annotated[str | None, typer.Option(help="Another reference than the scale's.")] = None,
    split: Split = None,
    features: Features = None,
    count: Annotated[int | None, typer.Option(min=2, help="Another number of samples a cell.")] = None,
    batch: Batch = 64,
    device: Device = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
) -> None:  # fmt: skip
    """Run a problem set, or all of them, with their studies and written questions, and leave one report."""
    from difflab.places import place
    from difflab.report.page import Chapter, build_book
    from difflab.study.engine import make_engine
    from difflab.study.opening import open_benches
    from difflab.study.presets import problem_sets, recorded, studies_of
    from difflab.study.run import run_benches
    from difflab.study.store import Store

    names = problem_sets(problem_set, scale)
    changes = {"model": model, "config": config, "reference": reference, "split": split, "features": features}
    told = {name: value for name, value in changes.items() if value is not None}
    usual = f"runs/{problem_set if scale == 'demo' else f'{problem_set}-{scale}'}"
    root = place(usual if out is None else out)
    folders = {name: root if len(names) == 1 else root / name for name in names}
    studies = {name: studies_of(name, scale, told, count) for name in names}
    pairs = [(study, Store(folders[name])) for name in names for study in studies[name]]
    chapters = []
    with make_engine(engine, address=address, workers=workers, gpus=gpus) as doing:
        benches = iter(open_benches(pairs, batch=batch, device=_here(device, doing)))
        for name in names:
            here = [next(benches) for _ in studies[name]]
            with _watching(name, studies[name]) as watch:
                places = [folders[name] / study.name for study in studies[name]]
                results = run_benches(here, places, engine=doing, watch=watch)
            learnings = recorded(name) if scale == "demo" else []
            for learning in learnings:  # beside the other results, so that a report made later has them
                learning.save(folders[name] / learning.study.name)
            chapters.append(Chapter(name, results, learnings))
    print(f"report: {build_book(chapters, root / 'report')}")
    _fail_if_cells_failed([result for chapter in chapters for result in chapter.results])


def report(
    folder: Annotated[str, typer.Argument(help="Folder of a finished study, problem set, or several problem sets.")],
    problem_set: Annotated[str | None, typer.Option(help="Add the written answers of this problem set, such as ddim.")] = None,
) -> None:  # fmt: skip
    """Write the report of results that are there, again."""
    from difflab.places import place
    from difflab.report.page import Chapter, build_book, load_chapters, load_results

    root = place(folder)
    chapters = load_chapters(root)
    if problem_set is not None:
        chapters = [Chapter(problem_set, load_results(root), chapters[0].learnings)]
    print(f"report: {build_book(chapters, root / 'report')}")


def _here(device: str | None, engine: Engine) -> str:
    """Where this process opens models. Raises DifflabError for a device, where workers of another engine have theirs."""
    from difflab.errors import DifflabError

    if engine.alone:
        return pick_device(device)
    if device is not None:
        raise DifflabError(f"device is {device}, but Ray's workers have their own; leave --device out, or tell --gpus.")
    return "cpu"


@contextmanager
def _watching(name: str, studies: Sequence[Study]) -> Iterator[Watch]:
    """A progress bar over all cells of studies, and the watcher that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    # A cell costs steps x samples; the bar counts cells, but moves by cost.
    cost = {(study.name, cell): _calls(cell) for study in studies for cell in study.cells()}
    spent = dict.fromkeys(cost, 0)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"), TimeRemainingColumn()]  # fmt: skip
    with Bar(*columns) as bar:
        task = bar.add_task(name, total=len(cost))

        def watch(progress: Progress) -> None:
            spent[progress.study.name, progress.settings] = (
                progress.done * _calls(progress.settings) // progress.settings.count
            )
            done = round(len(cost) * sum(spent.values()) / sum(cost.values()), 1)
            bar.update(task, completed=done, description=f"{name}, scoring" if progress.scored else name)

        yield watch


def _calls(settings: Settings) -> int:
    """About how many network calls a cell makes: where it is guided, each time two."""
    from difflab.core.names import calls_a_step

    each = calls_a_step(settings.sampler) + bool(settings.corrector)
    return settings.steps * settings.count * each * (1 if settings.guidance == 1.0 else 2)


def _print_table(result: Result) -> None:
    rows = []
    for row in result.rows:
        scores = [
            f"{s.value:.4g} [{s.low:.4g}, {s.high:.4g}]" if (s := row.scores.get(m)) else "failed"
            for m in result.metric_names
        ]
        rows.append([*map(str, row.varied.values()), *scores, f"{row.seconds:.1f}"])
    print_table([*result.study.axes, *result.metric_names.values(), "seconds"], rows)


def _fail_if_cells_failed(results: list[Result]) -> None:
    failed = [row for result in results for row in result.rows if row.error]
    if failed:
        print(f"{len(failed)} cells failed; the first said: {failed[0].error}")
        raise typer.Exit(1)
