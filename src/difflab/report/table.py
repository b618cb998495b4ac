"""A result as rows of text: what the HTML and the Markdown table both print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from difflab.report import words
from difflab.report.curves import best, comparable, compare, scored
from difflab.study.result import Result, Row
from difflab.study.spec import Metric


@dataclass(frozen=True)
class Entry:
    """One score. mark: the best of its column, tied with the best as far as the samples can tell, or neither; so, too,
    where rows cannot be ranked."""

    value: str
    interval: str
    mark: Literal["best", "tied", ""]


@dataclass(frozen=True)
class Line:
    """One cell of the study; a failed one has an error and no entries."""

    settings: list[str]
    entries: list[Entry]
    per_sample: str
    whole: str
    calls: str
    error: str | None


@dataclass(frozen=True)
class Table:
    """A study's cells: the axes' names, the metrics' names, one line a cell."""

    axes: list[str]
    metrics: list[str]
    lines: list[Line]

    @property
    def columns(self) -> int:
        """Columns that a line has."""
        return len(self.axes) + len(self.metrics) + 3

    @property
    def marks(self) -> set[str]:
        """The marks that are in it."""
        return {entry.mark for line in self.lines for entry in line.entries}


def build_table(result: Result) -> Table:
    """The table of a study, in the order of its cells."""
    axes = [name.replace("_", " ") for name in result.study.axes]
    metrics = [words.heading(result, metric) for metric in result.metric_names]
    return Table(axes, metrics, [_line(result, row) for row in result.rows])


def _line(result: Result, row: Row) -> Line:
    return Line(
        settings=[words.plain(value) for value in row.varied.values()],
        entries=[] if row.error else [_entry(result, metric, row) for metric in result.metric_names],
        per_sample=words.duration(row.seconds_per_sample),
        whole=words.duration(row.seconds),
        calls=f"{row.calls}" if row.calls else "–",
        error=row.error,
    )


def _entry(result: Result, metric: Metric, row: Row) -> Entry:
    if metric not in row.scores:
        return Entry("–", "", "")
    value, interval = words.score_text(metric, row.scores[metric])
    return Entry(value.removesuffix(words.unit(metric)), interval, _mark(result, metric, row))


def _mark(result: Result, metric: Metric, row: Row) -> Literal["best", "tied", ""]:
    rivals = scored(result, metric)
    if not comparable(result, metric):
        return ""
    top = best(rivals, metric)
    if len(rivals) < 2:
        return ""
    if row.key == top.key:
        return "best"
    return "" if compare(result, metric, top, row).clear else "tied"
