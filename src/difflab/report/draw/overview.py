"""The headline: a curve and, below each of its settings, what it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from difflab.report import words
from difflab.report.curves import Curve
from difflab.report.draw.axes import FLOOR_EDGE, bars, score_axis
from difflab.report.draw.canvas import MARK, Film, blank, finished, styled
from difflab.report.draw.pictures import common_pictures, sheet
from difflab.report.palette import Palette
from difflab.report.trend import Knee
from difflab.study.result import Result
from difflab.study.spec import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def overview(result: Result, metric: Metric, curve: Curve, knee: Knee | None, palette: Palette) -> str:
    """The headline: a curve over evenly spaced settings, and below each setting what it draws from common noise."""
    shown = common_pictures(result, curve.rows, 2)
    width, plot, count = 6.4, 2.9, len(curve.rows)
    edge = shown.edge / width if shown else 0.0
    share = 1 - edge - (FLOOR_EDGE / width if metric in result.floors else 0.0)
    below = shown.rows * share * width / count if shown else 0.0
    height = plot + below
    with styled():
        figure = blank(width, height)
        films: list[Film] = []
        axes = figure.add_axes((edge, (below + 0.42) / height, share, (plot - 0.8) / height))
        look = palette.look(result, curve)
        bars(axes, range(count), curve, metric, look, width=2.4)
        _value_labels(axes, curve, metric)
        axes.margins(y=0.2)
        score_axis(axes, result, metric, [curve])
        axes.set_title(words.settings(curve.setting), loc="right", fontsize=10.5, pad=8, color=look.colour)
        axes.set(xlim=(-0.5, count - 0.5), yticks=[])
        axes.set_xticks(range(count), [words.setting(curve.along, place) for place in curve.places])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        if knee is not None:
            _mark_knee(axes, curve.rows.index(knee.row))
        if shown:
            films = sheet(figure.add_axes((edge, 0, share, below / height)), shown)
        return finished(figure, films)


def _value_labels(axes: Axes, curve: Curve, metric: Metric) -> None:
    """The values above their points; between the ends moved to the side where the line leaves room."""
    values = [row.scores[metric].value for row in curve.rows]
    last = len(values) - 1
    for place, row in enumerate(curve.rows):
        text, _ = words.score_text(metric, row.scores[metric])
        side = int(np.sign(values[place - 1] - values[place + 1])) if 0 < place < last else 0
        axes.annotate(
            text, (place, words.scaled(metric, row.scores[metric].high)), xytext=(5 * side, 5),
            textcoords="offset points", ha=("center", "left", "right")[side],
            fontsize=12.5 if last < 6 else 10.5, fontweight="bold",
        )  # fmt: skip


def _mark_knee(axes: Axes, place: int) -> None:
    axes.axvline(place, color=MARK, lw=1.3, ls=(0, (4, 3)), zorder=0)
    axes.annotate(
        "knee", (place, 1.0), xycoords=("data", "axes fraction"), xytext=(6, -10), textcoords="offset points",
        color=MARK, fontweight="bold",
    )  # fmt: skip
