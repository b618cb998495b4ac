"""Scores drawn: along a knob, aspect by aspect, and one against another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from difflab.report import words
from difflab.report.curves import curves, first_axis, scored
from difflab.report.draw.axes import bars, mark_floors, place_of, place_ticks, score_axis
from difflab.report.draw.canvas import panel
from difflab.report.palette import Look, Palette, distinct
from difflab.study.result import Result
from difflab.study.spec import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality_curve(result: Result, metric: Metric, palette: Palette) -> str:
    """A metric along the first axis with 95 % error bars, one curve for each setting of the other axes."""
    along = first_axis(result)

    def draw(axes: Axes) -> None:
        lines = curves(scored(result, metric), along)
        place_ticks(axes, [place for line in lines for place in line.places], result.study.axes[along])
        for line in lines:
            places = [place_of(place, result.study.axes[along]) for place in line.places]
            bars(axes, places, line, metric, palette.look(result, line))
        mark_floors(axes, result, metric, lines[0])
        axes.set_xlabel(words.axis_title(along))
        score_axis(axes, result, metric, lines)

    return panel(draw)


def aspects(result: Result, metrics: Sequence[Metric]) -> str:
    """What captions ask for, aspect by aspect, along the only axis, with 95 % error bars."""
    along = first_axis(result)

    def draw(axes: Axes) -> None:
        rows = curves(scored(result, metrics[0]), along)[0]
        place_ticks(axes, rows.places, result.study.axes[along])
        places = [place_of(place, result.study.axes[along]) for place in rows.places]
        for metric, (colour, marker) in zip(metrics, distinct(len(metrics)), strict=True):
            line = curves(scored(result, metric), along)[0]
            bars(axes, places, line, metric, Look(colour, marker, (0, ())), label=metric)
        axes.set_xlabel(words.axis_title(along))
        axes.set_title("as the caption says (%), higher is better", loc="left", fontsize=10.5, pad=8)

    return panel(draw)


def trade_off(result: Result, across: Metric, up: Metric, palette: Palette) -> str:
    """One metric against another, each cell a point with both 95 % intervals, connected along the first axis."""
    along = first_axis(result)

    def draw(axes: Axes) -> None:
        for line in curves([row for row in scored(result, up) if across in row.scores], along):
            look = palette.look(result, line)
            x, y = (np.array([row.scores[metric].value for row in line.rows]) for metric in (across, up))
            bars = [
                [np.maximum(v - np.array([row.scores[m].low for row in line.rows]), 0),
                 np.maximum(np.array([row.scores[m].high for row in line.rows]) - v, 0)]
                for m, v in ((across, x), (up, y))
            ]  # fmt: skip
            axes.errorbar(
                x, y, xerr=bars[0], yerr=bars[1], color=look.colour, ls=look.line, lw=1.8, marker=look.marker, ms=5.5,
                elinewidth=1.0, ecolor=(look.colour, 0.3), label=words.settings(line.setting) or None,
            )  # fmt: skip
            for i, place in enumerate(line.places):  # by turns above and below, since neighbours may lie close
                side = 1 if i % 2 else -1
                axes.annotate(
                    words.plain(place), (x[i], y[i]), xytext=(5 * side, 5 * side), textcoords="offset points",
                    ha=("right", "left")[i % 2], va=("top", "bottom")[i % 2], fontsize=9.5, fontweight="bold",
                )  # fmt: skip
        axes.margins(0.12)
        axes.set_xlabel(words.heading(result, across))
        axes.set_title(
            f"{words.heading(result, up)}, labels: {words.axis_title(along)}", loc="left", fontsize=10.5, pad=8
        )

    return panel(draw)
