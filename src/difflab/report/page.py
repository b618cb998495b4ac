"""Results -> `index.html`, and the same as `report.md` with the pictures in `figures/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from difflab import files
from difflab.errors import DifflabError, suggest
from difflab.places import Place, place
from difflab.report import figures, words
from difflab.report.curves import curves, first_axis, scored
from difflab.report.findings import findings, headline, knee
from difflab.report.learning import LearningTable, build_learning_table, learning_findings, learning_headline
from difflab.report.nearest import near_training
from difflab.report.palette import COLOURS, Palette
from difflab.report.paper import beside_paper
from difflab.report.table import Table, build_table
from difflab.report.timing import linear_fit
from difflab.study.learning import LEARNING_FILE, Learning, read_learning
from difflab.study.presets import PROBLEM_SETS
from difflab.study.result import RESULT_FILE, Result, read_result
from difflab.study.spec import SAID, Metric

if TYPE_CHECKING:
    import jinja2

_ANSWERS = Path(__file__).parent / "answers"
_TITLES = {
    "ddim": "DDIM: what steps and noise cost, and what they buy",
    "dit": "DiT: a transformer on latents, and what guidance trades",
    "vdm": "VDM: clips, and what steps and frames buy and cost",
    "samplers": "Bonus: how few network calls are enough",
    "imagenet": "Bonus: ImageNet, with and without a classifier that guides",
    "coco": "Bonus: pictures by captions, and what guidance trades",
    "ssv2": "Bonus: clips by captions",
}
_QUIET = (  # settings that are told only where they are not as usual
    "classes",
    "guidance",
    "guidance_channels",
    "guidance_low",
    "guidance_high",
    "guidance_rescale",
    "guidance_course",
)
_BESIDE = " Beside each row: the class asked for."
_BOOK = "Diffusion models, one knob at a time"


@dataclass(frozen=True)
class FigureView:
    """One numbered figure. kind: quality, time, cost, strip, headline, ...; svg: for a file of its own."""

    number: int
    kind: str
    file: str
    svg: str
    caption: str
    alt: str
    wide: bool = False

    @property
    def anchor(self) -> str:
        """Where links to it lead."""
        return f"fig-{self.number}"

    @property
    def inline(self) -> str:
        """The SVG for the HTML page, in its colours."""
        return figures.themed(self.svg, self.anchor)


@dataclass(frozen=True)
class Section:
    """One study of the report."""

    result: Result
    anchor: str
    number: int
    table: Table
    findings: list[str]
    figures: list[FigureView]
    setting: dict[str, str]
    made: dict[str, str]
    machine: dict[str, str]


@dataclass(frozen=True)
class LearningSection:
    """One study of trainings."""

    learning: Learning
    anchor: str
    number: int
    table: LearningTable
    findings: list[str]
    figure: FigureView
    setting: dict[str, str]


@dataclass
class _Numbering:
    """Figures and tables in order of appearance, and where each kind of figure of each study is."""

    seen: list[tuple[str, FigureView]] = field(default_factory=list)
    tables: int = 0

    def table(self) -> int:
        """The number of the next table."""
        self.tables += 1
        return self.tables

    def add(self, study: str, kind: str, svg: str, caption: str, alt: str, wide: bool = False) -> FigureView:
        number = len(self.seen) + 1
        view = FigureView(number, kind, f"figures/{number:02d}-{_slug(study)}-{kind}.svg", svg, caption, alt, wide)
        self.seen.append((study, view))
        return view

    def reference(self, study: str, kind: str) -> str:
        """A Markdown link to the figure, empty if there is none; `study` may be the end of a name."""
        for name, view in self.seen:
            if name.endswith(study) and view.kind == kind:
                return f"[Figure {view.number}](#{view.anchor})"
        return ""


@dataclass(frozen=True)
class Chapter:
    """The studies of a problem set, whose written questions the report answers; None for studies of one's own.

    learnings: its studies of trainings.
    """

    problem_set: str | None
    results: Sequence[Result]
    learnings: Sequence[Learning] = ()


def build_report(
    results: Sequence[Result], out: Place | str, *, problem_set: str | None = "ddim", title: str | None = None
) -> Place:
    """The report of one problem set, or of studies of one's own; see `build_book`."""
    return build_book([Chapter(problem_set, results)], out, title=title)


def build_book(chapters: Sequence[Chapter], out: Place | str, *, title: str | None = None) -> Place:
    """Write the report of some problem sets to `out`: index.html, report.md, figures/*.svg; returns index.html's path.

    title: by default that of the only chapter. Raises DifflabError for no results, for an unknown problem set, and
    where `out` cannot be written to.
    """
    if not chapters or not all(chapter.results or chapter.learnings for chapter in chapters):
        raise DifflabError("The report has no results, but needs those of at least one study; run a study first.")
    known = [path.name.removesuffix(".md.j2") for path in _ANSWERS.glob("*.md.j2")]
    for chapter in chapters:
        if chapter.problem_set is not None and chapter.problem_set not in known:
            wrong = chapter.problem_set
            raise DifflabError(f"The problem set {wrong!r} has no written answers.{suggest(wrong, known)}")
    numbering, environment = _Numbering(), _environment()
    parts = [_part(chapter, numbering, environment) for chapter in chapters]
    results = [result for chapter in chapters for result in chapter.results]
    context: dict[str, Any] = {
        "title": title or (parts[0].title if len(parts) == 1 else _BOOK),
        "chapters": parts,
        "colours": COLOURS,
    }
    context["reading"] = environment.get_template("reading.md.j2").render(
        results=results, floor=any(result.floors for result in results), chapters=chapters, unlike=_unlike(results)
    )
    out = place(out)
    for _, view in numbering.seen:
        files.write_text(out / view.file, view.svg)
    files.write_text(out / "report.md", environment.get_template("report.md.j2").render(context))
    files.write_text(out / "index.html", environment.get_template("page.html.j2").render(context))
    return out / "index.html"


@dataclass(frozen=True)
class _Part:
    """A chapter as the templates see it."""

    title: str
    anchor: str
    abstract: str
    headline: FigureView | None
    sections: list[Section]
    learnings: list[LearningSection]
    paper: Any
    paper_number: int
    answers: str


def _part(chapter: Chapter, numbering: _Numbering, environment: jinja2.Environment) -> _Part:
    results, name = chapter.results, chapter.problem_set
    first = (results or chapter.learnings)[0].study
    palette = Palette(results)
    simplest = min(results, key=lambda result: len(result.study.axes), default=None)
    head = _headline_figure(simplest, palette, numbering) if simplest else None
    sections = [_section(result, palette, numbering) for result in results]
    learnings = [_learning_section(learning, numbering) for learning in chapter.learnings]
    paper = beside_paper(results) if name == "ddim" else None
    return _Part(
        title=_TITLES.get(name or "") or first.question or first.name,
        anchor=f"set-{_slug(name or first.name)}",
        abstract=_abstract(results, chapter.learnings),
        headline=head,
        sections=sections,
        learnings=learnings,
        paper=paper,
        paper_number=numbering.table() if paper else 0,
        answers=_answers(environment, chapter, numbering),
    )


def load_chapters(root: Place | str) -> list[Chapter]:
    """The chapters below a folder of several problem sets, or the one that a study or a problem set makes.

    Raises DifflabError as `load_results` does.
    """
    root = place(root)
    if files.exists(root / LEARNING_FILE):
        return [Chapter(None, [], [read_learning(root / LEARNING_FILE)])]
    sets = [name for name in PROBLEM_SETS if _one_below(root / name, RESULT_FILE)]
    if sets:
        return [Chapter(name, load_results(root / name), _load_learnings(root / name)) for name in sets]
    results = load_results(root)
    names = {result.study.name for result in results}
    of = next((name for name, studies in PROBLEM_SETS.items() if set(studies[:2]) <= names), None)
    return [Chapter(of, results, _load_learnings(root))]


def _load_learnings(root: Place) -> list[Learning]:
    return [read_learning(path) for path in _one_below(root, LEARNING_FILE)]


def _one_below(root: Place, name: str) -> list[Place]:
    """The files of that name in the folders of `root`, in the order of these."""
    return [path for inner in sorted(files.names(root)) if files.exists(path := root / inner / name)]


def load_results(root: Place | str) -> list[Result]:
    """The results of a study's folder, or of a problem set's, which has one folder a study.

    Shipped studies come in the order of their problem set, others after them, those with fewest axes first.

    Raises DifflabError when there is none, or one cannot be read.
    """
    root = place(root)
    here = [root / RESULT_FILE] if files.exists(root / RESULT_FILE) else []
    folders = [path.parent for path in (*here, *_one_below(root, RESULT_FILE))]
    if not folders:
        raise DifflabError(
            f"{root}: no {RESULT_FILE} here or one folder below; give the folder of a study that was run to its end."
        )
    order = [name for studies in PROBLEM_SETS.values() for name in studies]
    rank = {name: i for i, name in enumerate(order)}
    results = (_load(folder, root) for folder in folders)
    return sorted(results, key=lambda r: (rank.get(r.study.name, len(order)), len(r.study.axes)))


def _load(folder: Place, root: Place) -> Result:
    try:
        return read_result(folder, root if files.exists(root / "cells") else folder)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DifflabError(
            f"{folder / RESULT_FILE}: this is no record of a study ({reason}); run the study again to write it anew."
        ) from error


def _section(result: Result, palette: Palette, numbering: _Numbering) -> Section:
    return Section(
        result=result,
        anchor=_slug(result.study.name),
        number=numbering.table(),
        table=build_table(result),
        findings=findings(result),
        figures=list(_figures(result, palette, numbering)),
        setting=_setting(result),
        made=_alike(result),
        machine=dict(_flat(result.machine)),
    )


def _learning_section(learning: Learning, numbering: _Numbering) -> LearningSection:
    study, seeds = learning.study, len(learning.study.seeds)
    names = words.listed(variant.name for variant in learning.variants)
    real = " Dotted: what as many real samples score." if learning.floors.keys() - words.SHARES.keys() else ""
    caption = (
        f"What {names} learn, trained alike: lines through the means of {seeds} seeds, a dot for each. Losses are of "
        "averaged weights, on pictures that none of these trainings showed, with one draw of timesteps and noise for "
        f"all; of differences the 95 % intervals over seeds are drawn.{real}"
    )
    alt = f"Learning curves of {len(learning.variants)} variants."
    figure = numbering.add(study.name, "learning", figures.learning_curves(learning), caption, alt, wide=True)
    return LearningSection(
        learning=learning,
        anchor=_slug(study.name),
        number=numbering.table(),
        table=build_learning_table(learning),
        findings=learning_findings(learning),
        figure=figure,
        setting=_learning_setting(learning),
    )


def _learning_setting(learning: Learning) -> dict[str, str]:
    study = learning.study
    draw = {"sampler": study.draw.sampler, **study.draw.model_dump(exclude_defaults=True)}
    machine = [f"{name} {value}" for name, value in learning.machine.items() if not isinstance(value, dict | list)]
    setting = {
        "Trained": f"{len(learning.variants)} variants of one recipe, {len(study.seeds)} seeds each, "
        f"{study.snapshots[-1]} steps of {study.recipe.get('batch', 128)} pictures",
        "Samples": ", ".join(words.setting(name, value) for name, value in draw.items()),
        "Reference": study.reference,
    }
    if learning.floors:
        setting["Floor"] = _floor_text(learning)
    setting["Made by"] = f"difflab study run {study.name}"
    return {**setting, **({"Machine": ", ".join(machine)} if machine else {})}


def _headline_figure(result: Result, palette: Palette, numbering: _Numbering) -> FigureView | None:
    metric = next(iter(result.metric_names))
    lines = curves(scored(result, metric), first_axis(result))
    if not lines or not 2 <= len(lines[0].rows) <= 9:
        return None
    curve = lines[0]
    found = knee(result, metric, curve) if curve.along == "steps" else None
    if found is not None and not found.sharp:
        found = None  # nothing was located, or not clearly here
    where = f" at {words.settings(curve.setting)}" if curve.setting else ""
    caption = (
        f"{result.metric_names[metric]} with 95 % intervals{where}; settings evenly spaced. "
        "Below each setting: what the same start noise becomes with it."
        f"{_BESIDE if result.study.base.classes == 'balanced' else ''}"
    )
    svg = figures.overview(result, metric, curve, found, palette)
    return numbering.add(
        result.study.name, "headline", svg, caption, _alt(result, metric, first_axis(result)), wide=True
    )


def _figures(result: Result, palette: Palette, numbering: _Numbering) -> Iterator[FigureView]:
    name, along = result.study.name, first_axis(result)
    together = _aspects(result)
    for metric in result.metric_names:
        if scored(result, metric) and metric not in together:
            caption = (
                f"{words.capital(words.title(result, metric))} along {along.replace('_', ' ')}. Bars: 95 % intervals."
            )
            yield numbering.add(
                name,
                f"quality-{metric}",
                figures.quality_curve(result, metric, palette),
                caption,
                _alt(result, metric, along),
            )
    if together:
        caption = f"What captions ask for, aspect by aspect, along {along.replace('_', ' ')}. Bars: 95 % intervals."
        yield numbering.add(name, "aspects", figures.aspects(result, together), caption, caption)
    if {"precision", "recall"} <= result.metric_names.keys():
        real = [result.floors.get(metric) for metric in ("recall", "precision")]
        far = " As many real samples have recall {} and precision {}.".format(
            *(words.score_text("recall", r)[0] for r in real if r)
        )
        caption = "Fidelity against diversity: precision over recall, both with 95 % intervals."
        caption += far if all(real) else ""
        traded = figures.trade_off(result, "recall", "precision", palette)
        yield numbering.add(name, "trade-off", traded, caption, "Precision against recall.")
    if {"fid", "clipscore"} <= result.metric_names.keys():
        caption = "Distribution against captions: FD or FID over CLIPScore, both with 95 % intervals."
        traded = figures.trade_off(result, "clipscore", "fid", palette)
        yield numbering.add(name, "fid-clipscore", traded, caption, "FID against CLIPScore.")
    main = next(iter(result.metric_names))
    timed = [row for row in scored(result, main) if row.seconds_per_sample > 0]
    if len({row.calls for row in timed}) > 2:  # else the cells cost the same, but for guidance that is on or off
        caption = (
            f"What quality costs: {words.title(result, main)} against sampling time. Each point is a cell, "
            f"connected along {figures.time_axis(result).replace('_', ' ')}."
        )
        yield numbering.add(
            name, "cost", figures.quality_time(result, main, palette), caption, _alt(result, main, "sampling time")
        )
    if "frames" in result.study.axes:
        caption = "Sampling time against frames, with bars from the fastest chunk to the slowest."
        drawn = figures.time_frames(result, palette)
        yield numbering.add(name, "cost-frames", drawn, caption, "Sampling time against frames.")
    fit = linear_fit(result)
    if fit is not None:
        line = f"the straight line through the medians, {words.duration(fit.slope)} a call"
        caption = f"Sampling time against network calls, with bars from the fastest chunk to the slowest, and {line}."
        yield numbering.add(
            name, "time", figures.time_steps(result, fit, palette), caption, "Sampling time against network calls."
        )
    sheet = figures.strip(result)
    if sheet is not None:
        caption = (
            f"Samples from common noise: a row is one start noise, a column one value of {along.replace('_', ' ')}."
            f"{_BESIDE if result.study.base.classes == 'balanced' else ''}"
        )
        yield numbering.add(name, "strip", sheet, caption, caption, wide=True)
    if (near := near_training(result)) is not None:
        yield numbering.add(name, "nearest", figures.nearest(result, near), near.caption, near.caption, wide=True)


def _aspects(result: Result) -> list[Metric]:
    """The aspects of captions that are shown in one figure: two or more, along one axis."""
    told: list[Metric] = [
        metric
        for metric in result.metric_names
        if metric in (*SAID, "direction") and not metric.startswith("caption") and scored(result, metric)
    ]
    return told if len(told) > 1 and len(result.study.axes) == 1 and result.captions else []


def _abstract(results: Sequence[Result], learnings: Sequence[Learning]) -> str:
    trained = [learning_headline(learning) for learning in learnings]
    if not results:
        return " ".join(trained)
    first = results[0]
    metric = next(iter(first.metric_names))
    counts = {result.study.name: words.fixed(result.study.base.count, 0) for result in results}
    if len(set(counts.values())) == 1:
        samples = f"{counts[first.study.name]} samples were drawn at each setting"
    else:
        samples = f"samples were drawn, {words.listed(f'{n} at each setting of {name}' for name, n in counts.items())},"
    start = (
        f"With the model {first.study.model}, {samples} and scored against {_reference(first)}, by "
        f"{first.metric_names[metric]}."
    )
    return " ".join([start, *headline(results), *trained])


def _setting(result: Result) -> dict[str, str]:
    study = result.study
    usual = type(study.base)().model_dump()
    follows = ("steps",) if "calls" in study.axes else ()  # they differ with the sampler
    base = {
        name: value
        for name, value in study.base.model_dump().items()
        if name not in (*study.axes, *follows)
        and name not in ("count", "seed")
        and not (name in _QUIET and value == usual[name])
    }
    shown = [words.setting(name, value) for name, value in base.items() if value is not None and value is not False]
    varied = [
        f"{name.replace('_', ' ')}: {', '.join(words.plain(value) for value in values)}"
        for name, values in study.axes.items()
    ]
    machine = [f"{name} {value}" for name, value in result.machine.items() if not isinstance(value, dict | list)]
    return {
        "Varied": "; ".join(varied),
        "Held fixed": ", ".join(shown) or "nothing else",
        "Model": study.model,
        "Reference": _reference(result),
        "Measured by": ", ".join(words.title(result, metric) for metric in result.metric_names),
        "Samples": f"{words.fixed(study.base.count, 0)} a cell, from seed {study.base.seed}"
        if "count" not in study.axes
        else "varied",
        **({"Floor": _floor_text(result)} if result.floors else {}),
        **({"Machine": ", ".join(machine)} if machine else {}),
    }


def _reference(result: Result) -> str:
    split = f", split {result.study.split}" if result.study.split else ""
    n = result.passport.get("reference", {}).get("n")
    return f"{result.study.reference}{split}{f', {words.fixed(n, 0)} samples' if n else ''}"


def _floor_text(result: Result | Learning) -> str:
    told = [
        f"{words.unfeatured(result.metric_names[metric])} {' '.join(words.score_text(metric, score))}"
        for metric, score in result.floors.items()
        if metric not in words.SHARES
    ]
    return f"{words.listed(told)}, what as many real samples score, drawn apart from the reference" if told else "none"


def _alike(result: Result) -> dict[str, str]:
    """A passport without what the study varies."""
    varied = {f"base / {name}".replace("_", " ") for name in (*result.study.axes, "count")}
    return {name: value for name, value in _flat(result.passport) if name not in varied}


def _unlike(results: Sequence[Result]) -> list[str]:
    """In what the studies' passports differ, so that a reader does not compare across them."""
    made = [_alike(result) | {"samples a cell": str(result.study.base.count)} for result in results]
    names = sorted({name for one in made for name in one})
    unlike = [name for name in names if len({one.get(name) for one in made}) > 1]
    return [name.removeprefix("base / ").replace(" / ", " ") for name in unlike]


def _alt(result: Result, metric: Metric, along: str) -> str:
    values = [words.scaled(metric, row.scores[metric].value) for row in scored(result, metric)]
    low, high = words.significant(min(values), 3), words.significant(max(values), 3)
    span = f"{len(values)} cells between {low} and {high}{words.unit(metric)}"
    return f"{words.capital(words.title(result, metric))} against {along}: {span}."


def _answers(environment: jinja2.Environment, chapter: Chapter, numbering: _Numbering) -> str:
    if chapter.problem_set is None:
        return ""
    remarks = {result.study.name: result.study.remark for result in chapter.results}
    return environment.get_template(f"answers/{chapter.problem_set}.md.j2").render(
        figure=numbering.reference,
        headline=headline(chapter.results),
        trained={learning.study.name: learning_headline(learning) for learning in chapter.learnings},
        remark=lambda study: bool(remarks.get(study)),
    )


def _environment() -> jinja2.Environment:
    import jinja2
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name != "report.md.j2",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["markdown"] = lambda text: Markup(markdown.render(text))
    environment.filters["settings"] = words.settings
    environment.filters["unbroken"] = lambda text: re.sub(
        r"--[\w-]+", lambda flag: flag[0].replace("-", "\u2011"), text
    )
    environment.filters["cell"] = lambda text: re.sub(r"\s+", " ", str(text)).replace("|", "\\|")
    return environment


def _flat(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} / ")
        else:
            yield f"{above}{name}".replace("_", " "), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else words.plain(value) if isinstance(value, bool) else str(value)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"
