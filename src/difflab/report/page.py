"""Results -> `index.html`, and the same as `report.md` with the pictures in `figures/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difflab import files
from difflab.errors import DifflabError, suggest
from difflab.places import Place, place
from difflab.report import words
from difflab.report.chapters import view
from difflab.report.load import Chapter, load_chapters, load_results
from difflab.report.numbering import Numbering
from difflab.report.palette import COLOURS
from difflab.report.questions import QUESTIONS
from difflab.report.setting import made_unlike
from difflab.study.result import Result

if TYPE_CHECKING:
    import jinja2

__all__ = ["Chapter", "build_book", "build_report", "load_chapters", "load_results"]
_BOOK = "Diffusion models, one knob at a time"


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
    _check(chapters)
    numbering, environment = Numbering(), _environment()
    views = [view(chapter, numbering, lambda name, **told: _render(environment, name, told)) for chapter in chapters]
    results = [result for chapter in chapters for result in chapter.results]
    context: dict[str, Any] = {
        "title": title or (views[0].title if len(views) == 1 else _BOOK),
        "chapters": views,
        "colours": COLOURS,
    }
    told = {"results": results, "floor": any(result.floors for result in results), "unlike": made_unlike(results)}
    context["reading"] = _render(environment, "reading.md.j2", told)
    out = place(out)
    for _, figure in numbering.seen:
        files.write_text(out / figure.file, figure.drawing.svg)
    files.write_text(out / "report.md", _render(environment, "report.md.j2", context))
    files.write_text(out / "index.html", _render(environment, "page.html.j2", context))
    return out / "index.html"


def _check(chapters: Sequence[Chapter]) -> None:
    if not chapters or not all(chapter.results or chapter.learnings for chapter in chapters):
        raise DifflabError("The report has no results, but needs those of at least one study; run a study first.")
    for chapter in chapters:
        if chapter.problem_set is not None and chapter.problem_set not in QUESTIONS:
            wrong = chapter.problem_set
            raise DifflabError(f"The problem set {wrong!r} has no written answers.{suggest(wrong, QUESTIONS)}")


def _render(environment: jinja2.Environment, name: str, context: dict[str, Any]) -> str:
    return environment.get_template(name).render(context)


def _environment() -> jinja2.Environment:
    import jinja2
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    ours = MarkdownIt("commonmark", {"html": True}).enable("table")
    others = MarkdownIt("commonmark", {"html": False}).enable("table")  # with text from studies, which is not ours
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name != "report.md.j2",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["markdown"] = lambda text: Markup(ours.render(text))
    environment.filters["plain_markdown"] = lambda text: Markup(others.render(text))
    environment.filters["settings"] = words.settings
    environment.filters["unbroken"] = lambda text: re.sub(
        r"--[\w-]+", lambda flag: flag[0].replace("-", "\u2011"), text
    )
    environment.filters["cell"] = lambda text: re.sub(r"\s+", " ", str(text)).replace("|", "\\|")
    return environment
