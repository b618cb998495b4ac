"""Sentences about sampling time, derived from the times of the chunks that were drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from difflab.report import words
from difflab.report.curves import Curve, curves, numeric
from difflab.study.result import Result, Row
from difflab.study.spec import Scalar

NEAR = 0.10  # share by which a time may be off and still count as equal
LINEAR_FROM = 0.98


@dataclass(frozen=True)
class Fit:
    """Seconds per sample = slope * calls + intercept, through `counts` different numbers of calls, `r2` explained.

    worst: the largest distance of a cell from the line of its own curve, as a share of its time. Where few steps bend
    away from the line, r2 hardly notices. straight: whether that distance is small, or no more than chance, in each;
    bent: whether in one it is a tenth or more, and more than chance.
    """

    slope: float
    intercept: float
    r2: float
    counts: int
    worst: float
    straight: bool
    bent: bool

    @property
    def linear(self) -> bool:
        """Whether a line describes the times well."""
        return self.r2 >= LINEAR_FROM and self.slope > 0 and self.straight


@dataclass(frozen=True)
class Ratio:
    """How many times as long a sample takes with `b` as with `a` on one axis, all else equal.

    value: geometric mean over `pairs` pairs of chunks drawn in one turn; low, high: its 95 % t interval.
    """

    a: Scalar
    b: Scalar
    value: float
    low: float
    high: float
    pairs: int

    @property
    def most(self) -> float:
        """The largest share of a difference that the interval allows."""
        return max(abs(self.low - 1), abs(self.high - 1))

    @property
    def decided(self) -> bool:
        """Whether the times show a difference, or that there is hardly one."""
        return self.low > 1 or self.high < 1 or self.most < NEAR


def linear_fit(result: Result) -> Fit | None:
    """The line through the median seconds per sample at each number of network calls; None below three different ones.

    Times err in proportion, so the squares of relative distances are made least.
    """
    rows = [row for row in result.rows if row.seconds_per_sample > 0]
    lines = [line for line in curves(rows, "steps") if len(line.rows) > 2] if "steps" in result.study.axes else []
    if not lines:
        return None
    times: dict[int, list[float]] = {}
    for row in rows:
        times.setdefault(calls(row), []).append(row.seconds_per_sample)
    steps, seconds = np.array(list(times), dtype=float), np.array([np.median(each) for each in times.values()])
    slope, intercept = _least(steps, seconds)
    spread = float(np.sum((seconds - seconds.mean()) ** 2))
    left = float(np.sum((seconds - slope * steps - intercept) ** 2))
    cells = [cell for line in lines for cell in _distances(line)]
    return Fit(
        slope,
        intercept,
        1.0 - left / spread if spread else 0.0,
        len(times),
        max(off for off, _ in cells),
        all(off < NEAR or (off < 2 * NEAR and by_chance) for off, by_chance in cells),
        any(off >= NEAR and by_chance is False for off, by_chance in cells),
    )


def calls(row: Row) -> int:
    """Network calls of a sample: the steps asked for, but for some official grids."""
    return row.calls or row.settings.steps


def ratio(result: Result, axis: str) -> Ratio | None:
    """The time at one end of an axis over that at the other; None below three pairs of chunks."""
    values = result.study.axes[axis]
    a, b = (min(values, key=_number), max(values, key=_number)) if numeric(values) else (values[0], values[-1])
    logs = [math.log(y / x) for one, two in _pairs(result, axis, a, b) for x, y in _turns(one, two)]
    if a == b or len(logs) < 3:
        return None
    mean, half = float(np.mean(logs)), _half_width(logs)
    return Ratio(a, b, math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def timing(result: Result, telling: bool = False) -> list[str]:
    """Whether time is linear in network calls, and how the ends of other axes differ, said from the cells' times.

    telling: leave out what the times do not decide.
    """
    fit = linear_fit(result)
    others = [(axis, ratio(result, axis)) for axis in result.study.axes if axis not in ("steps", "count")]
    lines = [fit_sentence(fit)] if fit and (fit.linear or not telling) else []
    return lines + [ratio_sentence(axis, found) for axis, found in others if found and (found.decided or not telling)]


def fit_sentence(fit: Fit) -> str:
    """Whether time is linear in network calls, and by how much each adds."""
    share = f"R² = {_r2(fit.r2)} over {fit.counts} numbers of calls"
    if not fit.linear:
        return f"A straight line in the number of network calls does not describe these sampling times well ({share})."
    near = f"each cell within {max(1, math.ceil(100 * fit.worst))}\u00a0% of its line"
    return (
        f"Sampling time is linear in the number of network calls: {words.duration(fit.slope)} per call and sample "
        f"({share}, {near})."
    )


def ratio_sentence(axis: str, found: Ratio) -> str:
    """How many times as long a sample takes at one end of an axis as at the other."""
    places = words.decimals(found.value, found.low, found.high)
    value, low, high = (words.fixed(x, places) for x in (found.value, found.low, found.high))
    return (
        f"On average a sample takes {value} [{low}, {high}] times as long with {words.setting(axis, found.b)} as with "
        f"{words.setting(axis, found.a)} ({found.pairs} pairs of chunks): {_verdict(found)}."
    )


def _verdict(found: Ratio) -> str:
    most = found.most
    if found.low > 1 or found.high < 1:
        return "a difference, but of less than a tenth" if most < NEAR else "the two differ"
    if most < NEAR:
        return "hardly any difference, if there is one"
    if most < 1:
        return f"a difference, if there is one, is hardly above {math.ceil(100 * most)}\u00a0%"
    return "these times do not tell whether they differ"


def _distances(line: Curve) -> Iterator[tuple[float, bool | None]]:
    """For each cell of a curve along steps: how far the curve's line passes, and whether chance explains that; None of
    a single chunk, which does not show how far chance goes."""
    steps = np.array([calls(row) for row in line.rows], dtype=float)
    seconds = np.array([row.seconds_per_sample for row in line.rows])
    slope, intercept = _least(steps, seconds)
    for row, at in zip(line.rows, slope * steps + intercept, strict=True):
        logs = [math.log(turn.seconds) for turn in row.turns if turn.seconds > 0]
        off = abs(row.seconds_per_sample - at) / row.seconds_per_sample
        known = len(logs) > 1
        yield off, at > 0 and abs(float(np.mean(logs)) - math.log(at)) <= _half_width(logs) if known else None


def _least(steps: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the line with the least squared relative distances."""
    slope, intercept = np.polyfit(steps, seconds, 1, w=1 / seconds)
    return float(slope), float(intercept)


def _half_width(values: list[float]) -> float:
    """Half the 95 % t interval of a mean."""
    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _pairs(result: Result, axis: str, a: Scalar, b: Scalar) -> Iterator[tuple[Row, Row]]:
    """Rows that differ in the axis alone."""
    for line in curves([row for row in result.rows if not row.error], axis):
        at = dict(zip(line.places, line.rows, strict=True))
        if a in at and b in at:
            yield at[a], at[b]


def _turns(one: Row, two: Row) -> Iterator[tuple[float, float]]:
    """Times of chunks drawn in one turn of one run: other runs may be of another machine, or in other batches."""
    for x, y in zip(one.turns, two.turns, strict=False):
        if x.run == y.run and x.seconds > 0 and y.seconds > 0:
            yield x.seconds, y.seconds


def _number(value: Scalar) -> float:
    return float(value or 0)


def _r2(value: float) -> str:
    """Rounded down, so that only an exact fit is called 1."""
    return f"{int(value * 10000) / 10000:.4f}".rstrip("0").rstrip(".") if value > 0 else "0"
