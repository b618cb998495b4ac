"""Time drawn: against quality, against network calls and against frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from difflab.report import words
from difflab.report.curves import curves, first_axis, scored
from difflab.report.draw.axes import WIDE_SPAN, bars, log_ticks, place_of, score_axis
from difflab.report.draw.canvas import MUTED, panel
from difflab.report.palette import Palette
from difflab.report.timing import Fit, calls
from difflab.study.result import Result, Row
from difflab.study.spec import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality_time(result: Result, metric: Metric, palette: Palette) -> str:
    """A metric against sampling time, 95 % error bars; the curves run along steps where those vary."""
    along = time_axis(result)

    def draw(axes: Axes) -> None:
        lines = curves([row for row in scored(result, metric) if row.seconds_per_sample > 0], along)
        times = [row.seconds_per_sample for line in lines for row in line.rows]
        factor, unit = time_unit(max(times))
        for line in lines:
            bars(axes, [factor * row.seconds_per_sample for row in line.rows], line, metric, palette.look(result, line))
        if max(times) / min(times) > WIDE_SPAN:
            log_ticks(axes, "x", [factor * time for time in times])
        axes.set_xlabel(f"sampling time ({unit} per sample)")
        score_axis(axes, result, metric, lines)

    return panel(draw)


def time_steps(result: Result, fit: Fit, palette: Palette) -> str:
    """Seconds per sample against network calls from zero, with the straight line through the medians.

    Bars go from the fastest chunk to the slowest.
    """

    def draw(axes: Axes) -> None:
        lines = curves([row for row in result.rows if row.seconds_per_sample > 0], "steps")
        rows = [row for line in lines for row in line.rows]
        factor, unit = time_unit(max(row.seconds_per_sample for row in rows))
        far = max(calls(row) for row in rows) * 1.05
        ends = np.array([0.0, far])
        axes.plot(ends, factor * (fit.slope * ends + fit.intercept), color=MUTED, lw=1.2, zorder=1)
        for line in lines:
            look = palette.look(result, line)
            times, spread = _times(line.rows, factor)
            axes.errorbar(
                [calls(row) for row in line.rows], times, yerr=spread,
                ls="none", marker=look.marker, ms=6, mfc="none", mew=1.6, color=look.colour, elinewidth=1.0,
                label=words.settings(line.setting) or None,
            )  # fmt: skip
        axes.set_xlim(0, far)
        axes.set_ylim(0, None)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("network calls per sample")
        axes.set_title(f"sampling time ({unit} per sample)", loc="left", fontsize=10.5, pad=8)

    return panel(draw)


def time_frames(result: Result, palette: Palette) -> str:
    """Seconds per clip against its frames, from zero; bars go from the fastest chunk to the slowest."""

    def draw(axes: Axes) -> None:
        lines = curves([row for row in result.rows if row.seconds_per_sample > 0], "frames")
        factor, unit = time_unit(max(row.seconds_per_sample for line in lines for row in line.rows))
        for line in lines:
            look = palette.look(result, line)
            times, spread = _times(line.rows, factor)
            axes.errorbar(
                [place_of(place, result.study.axes["frames"]) for place in line.places], times,
                yerr=spread, color=look.colour, ls=look.line, lw=1.8, marker=look.marker,
                ms=5.5, elinewidth=1.0, label=words.settings(line.setting) or None,
            )  # fmt: skip
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.set_xlabel(words.axis_title("frames"))
        axes.set_title(f"sampling time ({unit} per clip)", loc="left", fontsize=10.5, pad=8)

    return panel(draw)


def time_axis(result: Result) -> str:
    """The axis that curves of time run along: steps if they vary, since they are what costs."""
    return "steps" if "steps" in result.study.axes else first_axis(result)


def _times(rows: Sequence[Row], factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Times a sample (N,), times `factor`, and bars (2, N) down to the fastest chunk and up to the slowest."""
    times = [[row.seconds_per_sample, *(turn.seconds for turn in row.turns)] for row in rows]
    middle = factor * np.array([each[0] for each in times])
    least, most = (factor * np.array([end(each) for each in times]) for end in (min, max))
    return middle, np.stack([middle - least, most - middle])


def time_unit(longest: float) -> tuple[float, str]:
    return (1e3, "milliseconds") if longest < 1 else (1.0, "seconds")
