"""Figures and tables numbered in order of appearance, and links to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from difflab.report import draw


@dataclass(frozen=True)
class Drawing:
    """A figure of a study. kind: quality-<metric>, time, cost, strip, headline, ...; svg: for a file of its own."""

    kind: str
    svg: str
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class FigureView:
    """A drawing with its number and the name of its file."""

    number: int
    file: str
    drawing: Drawing

    @property
    def anchor(self) -> str:
        """Where links to it lead."""
        return f"fig-{self.number}"

    @property
    def inline(self) -> str:
        """The SVG for the HTML page, in its colours."""
        return draw.themed(self.drawing.svg, self.anchor)


@dataclass
class Numbering:
    """Figures and tables in order of appearance, and where each kind of figure of each study is."""

    seen: list[tuple[str, FigureView]] = field(default_factory=list)
    tables: int = 0

    def table(self) -> int:
        """The number of the next table."""
        self.tables += 1
        return self.tables

    def add(self, study: str, drawing: Drawing) -> FigureView:
        """The next figure, of the study of that name."""
        number = len(self.seen) + 1
        view = FigureView(number, f"figures/{number:02d}-{slug(study)}-{drawing.kind}.svg", drawing)
        self.seen.append((study, view))
        return view

    def reference(self, study: str, kind: str) -> str:
        """A Markdown link to the figure, empty if there is none; `study` may be the end of a name."""
        for name, view in self.seen:
            if name.endswith(study) and view.drawing.kind == kind:
                return f"[Figure {view.number}](#{view.anchor})"
        return ""


def slug(name: str) -> str:
    """A name as a part of links and of files' names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"
