"""A result's rows arranged along an axis, and two rows compared: what tables, figures and sentences are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from difflab.study.result import Result, Row
from difflab.study.spec import TRUTH, Metric, Scalar

MORE_IS_BETTER: frozenset[Metric] = frozenset({*TRUTH, "clipscore", "is", "precision", "recall", "density", "coverage"})


DISTURBED: dict[Metric, str] = {  # controls: samples that were spoilt on purpose, so that none is better
    "fvd-shuffled": "the frames of each shuffled",
    "fvd-frozen": "the frames of each frozen",
}


@dataclass(frozen=True)
class Curve:
    """Rows that differ in one axis only, in that axis' order. setting: their common values on the other axes."""

    along: str
    setting: dict[str, Scalar]
    rows: list[Row]

    @property
    def places(self) -> list[Scalar]:
        """The rows' values on the axis."""
        return [row.varied[self.along] for row in self.rows]


@dataclass(frozen=True)
class Comparison:
    """How a metric changes from row a to row b.

    change: score(b) - score(a); low, high: its paired 95 % interval, None where no paired difference was computed and
    `clear` means that the two scores' own intervals do not overlap; better: whether the change is for the better.
    """

    change: float
    low: float | None
    high: float | None
    clear: bool
    better: bool


def numeric(values: Sequence[Scalar]) -> bool:
    """Whether all values are numbers, so that they have places on an axis and an order."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def first_axis(result: Result) -> str:
    """The axis that the report plots along."""
    return next(iter(result.study.axes))


def comparable(result: Result, metric: Metric) -> bool:
    """Whether rows can be ranked by a metric: not by controls, nor, where clips differ in length, but by what looks at
    the same first frames. Else each length has real clips of its own, or has more frames in which to go wrong.
    """
    lengths = {"frames", "extend"} & result.study.axes.keys()
    return metric not in DISTURBED and (not lengths or metric in ("fvd-window", "direction"))


def scored(result: Result, metric: Metric) -> list[Row]:
    """The rows that have this score."""
    return [row for row in result.rows if metric in row.scores]


def curves(rows: Sequence[Row], along: str) -> list[Curve]:
    """Rows grouped by their other settings; numbers ascend along each curve, names keep their order."""
    groups: dict[tuple[tuple[str, Scalar], ...], list[Row]] = {}
    for row in rows:
        others = tuple((name, value) for name, value in row.varied.items() if name != along)
        groups.setdefault(others, []).append(row)
    if numeric([row.varied[along] for row in rows]):
        for group in groups.values():
            group.sort(key=lambda row: float(row.varied[along] or 0))
    return [Curve(along, dict(others), group) for others, group in groups.items()]


def compare(result: Result, metric: Metric, a: Row, b: Row) -> Comparison:
    """The paired difference where the result has one, in either direction; else the two intervals."""
    for found in result.differences:
        if found.metric == metric and (found.a, found.b) in ((a.key, b.key), (b.key, a.key)):
            sign = 1.0 if found.a == a.key else -1.0
            low, high = sorted((sign * found.low, sign * found.high))
            return Comparison(sign * found.value, low, high, found.clear, _better(metric, sign * found.value))
    one, two = a.scores[metric], b.scores[metric]
    change = two.value - one.value
    apart = one.high < two.low or two.high < one.low
    return Comparison(change, None, None, apart, _better(metric, change))


def best(rows: Sequence[Row], metric: Metric) -> Row:
    """The row with the best score, of one or more rows that have it."""
    sign = -1.0 if metric in MORE_IS_BETTER else 1.0
    return min(rows, key=lambda row: sign * row.scores[metric].value)


def _better(metric: Metric, change: float) -> bool:
    return change > 0 if metric in MORE_IS_BETTER else change < 0
