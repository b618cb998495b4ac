"""Sentences about sampling time, derived from the times of the batches that were drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from difflab.report import words
from difflab.report.curves import curves, numeric
from difflab.study.result import Result, Row
from difflab.study.spec import Scalar

NEAR = 0.10  # share by which a time may be off and still count as equal
LINEAR_FROM = 0.98


@dataclass(frozen=True)
class Fit:
    """Seconds per sample = slope * steps + intercept, through `counts` different numbers of steps, `r2` explained.

    worst: the largest distance of a number of steps from the line, as a share of its time. Where few steps bend away
    from the line, r2 hardly notices. straight: whether the line comes near each, or runs between its batches.
    """

    slope: float
    intercept: float
    r2: float
    counts: int
    worst: float
    straight: bool


@dataclass(frozen=True)
class Ratio:
    """How many times as long a sample takes with `b` as with `a` on one axis, all else equal.

    value: geometric mean over `pairs` pairs of batches drawn in the same turn; low, high: its 95 % t interval.
    """

    a: Scalar
    b: Scalar
    value: float
    low: float
    high: float
    pairs: int


def linear_fit(result: Result) -> Fit | None:
    """The line through the median seconds per sample at each number of steps; None below three different ones.

    Times err in proportion, so the squares of relative distances are made least.
    """
    times: dict[int, list[float]] = {}
    for row in result.rows:
        if row.seconds_per_sample > 0:
            times.setdefault(row.settings.steps, []).extend(row.batch_seconds or [row.seconds_per_sample])
    if len(times) < 3:
        return None
    steps, seconds = np.array(list(times), dtype=float), np.array([np.median(each) for each in times.values()])
    slope, intercept = np.polyfit(steps, seconds, 1, w=1 / seconds)
    line = slope * steps + intercept
    off = np.abs(seconds - line) / seconds
    between = [min(each) <= at <= max(each) for at, each in zip(line, times.values(), strict=True)]
    spread = float(np.sum((seconds - seconds.mean()) ** 2))
    r2 = 1.0 - float(np.sum((seconds - line) ** 2)) / spread if spread else 0.0
    return Fit(float(slope), float(intercept), r2, len(times), float(off.max()), bool(np.all((off < NEAR) | between)))


def ratio(result: Result, axis: str) -> Ratio | None:
    """The time with the last value of an axis over that with its first; None below two pairs of batches."""
    values = result.study.axes[axis]
    a, b = (min(values, key=_number), max(values, key=_number)) if numeric(values) else (values[0], values[-1])
    logs = [math.log(y / x) for one, two in _pairs(result, axis, a, b) for x, y in _batches(one, two)]
    if a == b or len(logs) < 2:
        return None
    mean = float(np.mean(logs))
    half = float(stdtrit(len(logs) - 1, 0.975) * np.std(logs, ddof=1) / math.sqrt(len(logs)))
    return Ratio(a, b, math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def timing(result: Result) -> list[str]:
    """Whether time is linear in steps, and whether the other settings change it, said from the cells' times."""
    fit = linear_fit(result)
    if fit is None:
        return []
    others = [(axis, ratio(result, axis)) for axis in result.study.axes if axis != "steps"]
    return [_line(fit), *(_said(axis, found) for axis, found in others if found is not None)]


def _line(fit: Fit) -> str:
    share = f"R² = {_r2(fit.r2)} over {fit.counts} numbers of steps"
    if not (fit.r2 >= LINEAR_FROM and fit.slope > 0 and fit.straight):
        return f"A straight line in the number of steps does not describe these sampling times well ({share})."
    near = f"each within {max(1, math.ceil(100 * fit.worst))}\u00a0% of the line"
    return (
        f"Sampling time is linear in the number of steps: {words.duration(fit.slope)} per step and sample "
        f"({share}, {near})."
    )


def _said(axis: str, found: Ratio) -> str:
    places = words.decimals(found.value, found.low, found.high)
    value, low, high = (words.fixed(x, places) for x in (found.value, found.low, found.high))
    name = axis.replace("_", " ")
    if found.low > 1 + NEAR or found.high < 1 - NEAR:
        verdict = f"the time depends on {name}"
    elif found.low < 1 - NEAR or found.high > 1 + NEAR:
        most = math.ceil(100 * max(found.high - 1, 1 - found.low))
        verdict = f"if {name} matters, then by no more than {most}\u00a0%"
    else:
        verdict = f"the time hardly depends on {name}"
    return (
        f"A sample takes {value} [{low}, {high}] times as long with {words.setting(axis, found.b)} as with "
        f"{words.setting(axis, found.a)} ({found.pairs} pairs of batches): {verdict}."
    )


def _pairs(result: Result, axis: str, a: Scalar, b: Scalar) -> Iterator[tuple[Row, Row]]:
    """Rows that differ in the axis alone."""
    for line in curves([row for row in result.rows if not row.error], axis):
        at = dict(zip(line.places, line.rows, strict=True))
        if a in at and b in at:
            yield at[a], at[b]


def _batches(one: Row, two: Row) -> Iterator[tuple[float, float]]:
    """Times of batches with equal numbers, which were drawn soon after each other; none where the batches differ."""
    if len(one.batch_seconds) == len(two.batch_seconds):
        yield from zip(one.batch_seconds, two.batch_seconds, strict=True)


def _number(value: Scalar) -> float:
    return float(value or 0)


def _r2(value: float) -> str:
    """Rounded down, so that only an exact fit is called 1."""
    return f"{int(value * 10000) / 10000:.4f}".rstrip("0").rstrip(".") if value > 0 else "0"
