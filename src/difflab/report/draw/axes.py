"""What axes have in common: curves with bars, scales, ticks, and the floor that real samples set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from difflab.report import words
from difflab.report.curves import DISTURBED, MORE_IS_BETTER, Curve, comparable, numeric
from difflab.report.draw.canvas import MUTED
from difflab.report.palette import Look
from difflab.study.result import Result, Score
from difflab.study.spec import Metric, Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_SPAN = 8.0
FLOOR_EDGE = 0.62  # inches right of the axes for the name of the floor
_AXIS_LETTERS = 36  # that fit side by side below a panel
DISTANCES: tuple[Metric, ...] = (
    "fid",
    "kid",
    "fvd",
    "fvd-window",
    "fvd-last",
    "fvd-frozen",
    "fvd-shuffled",
    "kvd",
    "fid-frames",
)  # may span decades


def bars(axes: Axes, places: Sequence[float], line: Curve, metric: Metric, look: Look, width: float = 1.8,
          label: str | None = None) -> None:  # fmt: skip
    values, low, high = (
        np.array([words.scaled(metric, getattr(row.scores[metric], part)) for row in line.rows])
        for part in ("value", "low", "high")
    )
    connected = numeric(line.places)
    beside = "samples" if any(metric in row.floors for row in line.rows) else None
    axes.errorbar(
        places, values, yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
        color=look.colour, ls=look.line if connected else "none", lw=width, marker=look.marker, ms=5.5, capsize=3.5,
        elinewidth=1.3, label=label or words.settings(line.setting) or beside,
    )  # fmt: skip


def score_axis(axes: Axes, result: Result, metric: Metric, lines: Sequence[Curve]) -> None:
    """Title and scale of a score's axis, and the floor that a perfect model would reach."""
    scores = [row.scores[metric] for line in lines for row in line.rows]
    name = words.heading(result, metric)
    lows = [score.low for score in scores]
    wide = (
        metric in DISTANCES
        and min(lows) > 0
        and max(score.value for score in scores) / min(score.value for score in scores) > WIDE_SPAN
    )
    if wide:
        log_ticks(axes, "y", [words.scaled(metric, x) for score in scores for x in (score.low, score.high)])
    if metric in result.floors:
        mark_floor(axes, result.floors[metric], words.scaled(metric, 1.0))
    way = which_way(metric) if metric in DISTURBED or comparable(result, metric) else "lengths do not compare"
    axes.set_title(f"{name}, {way}{', log scale' if wide else ''}", loc="left", fontsize=10.5, pad=8)


def which_way(metric: Metric | None) -> str:
    """Which way a score is better, of controls none; None is the loss."""
    if metric in DISTURBED:
        return "a control"
    return "higher is better" if metric in MORE_IS_BETTER else "lower is better"


def mark_floor(axes: Axes, floor: Score, factor: float) -> None:
    """A line at what real samples score, times `factor`, in the band of its interval.

    Its name stands right of the axes, where no curve comes. A log axis has no place for zero and less.
    """
    value = factor * floor.value
    if axes.get_yscale() == "log" and floor.low <= 0:
        return
    axes.axhspan(factor * floor.low, factor * floor.high, color=MUTED, alpha=0.1, lw=0, zorder=0)
    axes.axhline(value, color=MUTED, lw=1.1, ls=(0, (1, 2)), zorder=0)
    axes.annotate(
        "real\nsamples", (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        va="center", color=MUTED, fontsize=9,
    )  # fmt: skip


def mark_floors(axes: Axes, result: Result, metric: Metric, line: Curve) -> None:
    """What real samples of each cell's own length score, where cells differ in that."""
    rows = [(place, row) for place, row in zip(line.places, line.rows, strict=True) if metric in row.floors]
    if not rows:
        return
    places = [place_of(place, result.study.axes[line.along]) for place, _ in rows]
    values, low, high = (
        np.array([words.scaled(metric, getattr(row.floors[metric], part)) for _, row in rows])
        for part in ("value", "low", "high")
    )
    axes.errorbar(
        places, values, yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)], color=MUTED,
        ls=(0, (1, 2)), lw=1.1, marker="_", ms=9, elinewidth=1.0, label="real samples as long",
    )  # fmt: skip


def place_of(place: Scalar, values: Sequence[Scalar]) -> float:
    return float(place) if isinstance(place, int | float) and numeric(values) else float(values.index(place))


def place_ticks(axes: Axes, places: Sequence[Scalar], values: Sequence[Scalar]) -> None:
    used = sorted({place_of(place, values) for place in places})
    if not numeric(values):
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(range(len(values)), [words.plain(value) for value in values])
        return
    if used[0] > 0 and used[-1] / used[0] > WIDE_SPAN:
        axes.set_xscale("log")
        axes.minorticks_off()
    names = [words.plain(place if place % 1 else int(place)) for place in used]
    axes.set_xticks(used, _uncrowded(np.log(used) if axes.get_xscale() == "log" else np.array(used), names))


def _uncrowded(places: np.ndarray, names: Sequence[str]) -> list[str]:
    """The names of rising places along an axis, empty where they would run into one another; both ends are named."""
    letters = _AXIS_LETTERS * (places - places[0]) / max(places[-1] - places[0], 1e-9)
    last, kept = len(names) - 1, [0]

    def clear(one: int, other: int) -> bool:
        return bool(letters[other] - letters[one] >= (len(names[one]) + len(names[other])) / 2 + 1)

    kept += [last] * (last > 0)
    for i in range(1, last):
        if clear(kept[-2], i) and clear(i, last):
            kept.insert(-1, i)
    return [name if i in kept else "" for i, name in enumerate(names)]


def log_ticks(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A log axis with plain numbers: 1, 2, 5 a decade within the range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    low, high = min(values), max(values)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [
        step * 10.0**decade for decade in decades for step in steps if low * 0.8 <= step * 10.0**decade <= high * 1.25
    ]
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
