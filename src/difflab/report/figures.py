"""A result drawn: SVG text, with real text in it and the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from difflab.report import words
from difflab.report.curves import DISTURBED, MORE_IS_BETTER, Curve, comparable, curves, first_axis, numeric, scored
from difflab.report.findings import Knee
from difflab.report.learning import heading as learning_heading
from difflab.report.learning import learned, loss_gaps
from difflab.report.nearest import Near
from difflab.report.palette import COLOURS, Look, Palette
from difflab.report.timing import Fit, calls
from difflab.study.learning import Learning
from difflab.study.result import Result, Row, Score
from difflab.study.spec import Metric, Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, MARK = (COLOURS[name][0] for name in ("ink", "muted", "rule", "mark"))
_WIDE_SPAN = 8.0
_TILE = 96
_EDGE = 0.36  # inches for the names of rows
_CAPTION_EDGE, _CAPTION_LETTERS = 1.32, 22  # for captions, and letters of a line of such
_LEGEND_LETTERS = 62  # that a legend holds in a row
_DISTINCT = ("warm-0", "warm-4", "warm-2", "warm-3", "deep-2", "warm-5")  # for names without an order
_DISTANCES: tuple[Metric, ...] = (
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
_MOST_COLUMNS = 10
_FRAME_MILLISECONDS = 125  # of films
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "difflab",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.handletextpad": 0.5,
}


def quality_curve(result: Result, metric: Metric, palette: Palette) -> str:
    """A metric along the first axis with 95 % error bars, one curve for each setting of the other axes."""
    along = first_axis(result)

    def draw(axes: Axes) -> None:
        lines = curves(scored(result, metric), along)
        _place_ticks(axes, [place for line in lines for place in line.places], result.study.axes[along])
        for line in lines:
            places = [_place(place, result.study.axes[along]) for place in line.places]
            _bars(axes, places, line, metric, palette.look(result, line))
        _mark_floors(axes, result, metric, lines[0])
        axes.set_xlabel(words.axis_title(along))
        _score_axis(axes, result, metric, lines)

    return _panel(draw)


def aspects(result: Result, metrics: Sequence[Metric]) -> str:
    """What captions ask for, aspect by aspect, along the only axis, with 95 % error bars."""
    along = first_axis(result)

    def draw(axes: Axes) -> None:
        rows = curves(scored(result, metrics[0]), along)[0]
        _place_ticks(axes, rows.places, result.study.axes[along])
        places = [_place(place, result.study.axes[along]) for place in rows.places]
        for metric, (colour, marker) in zip(metrics, _distinct(len(metrics)), strict=True):
            line = curves(scored(result, metric), along)[0]
            _bars(axes, places, line, metric, Look(colour, marker, (0, ())), label=metric)
        axes.set_xlabel(words.axis_title(along))
        axes.set_title("as the caption says (%), higher is better", loc="left", fontsize=10.5, pad=8)

    return _panel(draw)


def quality_time(result: Result, metric: Metric, palette: Palette) -> str:
    """A metric against sampling time, 95 % error bars; the curves run along steps where those vary."""
    along = time_axis(result)

    def draw(axes: Axes) -> None:
        lines = curves([row for row in scored(result, metric) if row.seconds_per_sample > 0], along)
        times = [row.seconds_per_sample for line in lines for row in line.rows]
        factor, unit = _time_unit(max(times))
        for line in lines:
            _bars(
                axes, [factor * row.seconds_per_sample for row in line.rows], line, metric, palette.look(result, line)
            )
        if max(times) / min(times) > _WIDE_SPAN:
            _log_ticks(axes, "x", [factor * time for time in times])
        axes.set_xlabel(f"sampling time ({unit} per sample)")
        _score_axis(axes, result, metric, lines)

    return _panel(draw)


def time_steps(result: Result, fit: Fit, palette: Palette) -> str:
    """Seconds per sample against network calls from zero, with the straight line through the medians.

    Bars go from the fastest chunk to the slowest.
    """

    def draw(axes: Axes) -> None:
        lines = curves([row for row in result.rows if row.seconds_per_sample > 0], "steps")
        rows = [row for line in lines for row in line.rows]
        factor, unit = _time_unit(max(row.seconds_per_sample for row in rows))
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

    return _panel(draw)


def _times(rows: Sequence[Row], factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Times a sample (N,), times `factor`, and bars (2, N) down to the fastest chunk and up to the slowest."""
    times = [[row.seconds_per_sample, *(turn.seconds for turn in row.turns)] for row in rows]
    middle = factor * np.array([each[0] for each in times])
    least, most = (factor * np.array([end(each) for each in times]) for end in (min, max))
    return middle, np.stack([middle - least, most - middle])


def time_frames(result: Result, palette: Palette) -> str:
    """Seconds per clip against its frames, from zero; bars go from the fastest chunk to the slowest."""

    def draw(axes: Axes) -> None:
        lines = curves([row for row in result.rows if row.seconds_per_sample > 0], "frames")
        factor, unit = _time_unit(max(row.seconds_per_sample for line in lines for row in line.rows))
        for line in lines:
            look = palette.look(result, line)
            times, spread = _times(line.rows, factor)
            axes.errorbar(
                [_place(place, result.study.axes["frames"]) for place in line.places], times,
                yerr=spread, color=look.colour, ls=look.line, lw=1.8, marker=look.marker,
                ms=5.5, elinewidth=1.0, label=words.settings(line.setting) or None,
            )  # fmt: skip
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.set_xlabel(words.axis_title("frames"))
        axes.set_title(f"sampling time ({unit} per clip)", loc="left", fontsize=10.5, pad=8)

    return _panel(draw)


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

    return _panel(draw)


def learning_curves(learning: Learning) -> str:
    """Held-out loss, how the others differ in it from the first variant, and each metric, against the pictures seen."""
    measures: list[Metric | None] = [None, *learning.metric_names]
    with _styled():
        panels = len(measures) + (len(learning.variants) > 1)
        across = min(panels, 2)
        down = -(-panels // across)
        figure = _figure(4.2 * across, 2.9 * down + 0.6, "constrained")
        figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr,call-arg]
        axes = [figure.add_subplot(down, across, panel + 1) for panel in range(panels)]
        _learned(axes[0], learning, None)
        if len(learning.variants) > 1:
            _gaps(axes[1], learning)
        for panel, metric in zip(axes[panels - len(measures) + 1 :], learning.metric_names, strict=True):
            _learned(panel, learning, metric)
        for panel in axes:
            panel.set_xlabel("pictures seen (thousands)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9.5, columnspacing=1.2)
        return _svg(figure)


def _learned(axes: Axes, learning: Learning, measure: Metric | None) -> None:
    """Lines through the means over seeds, and a dot for each; None is the loss."""
    for variant, (colour, marker) in zip(learning.variants, _distinct(len(learning.variants)), strict=True):
        points = [learning.of(variant.name, step) for step in learning.study.snapshots]
        places = [[p.images / 1000 for p in here] for here in points]
        values = [[learned(p, measure) for p in here] for here in points]
        axes.plot(
            [x[0] for x in places], [float(np.mean(y)) for y in values], color=colour, lw=1.8, marker=marker, ms=5,
            label=variant.name,
        )  # fmt: skip
        axes.plot(np.concatenate(places), np.concatenate(values), ls="none", marker=".", ms=4, color=colour, alpha=0.5)
    everything = [learned(p, measure) for p in learning.points]
    wide = measure in _DISTANCES and 0 < _WIDE_SPAN * min(everything) < max(everything)
    if wide:
        _log_ticks(axes, "y", everything)
    if measure in _DISTANCES and measure in learning.floors:
        _mark_floor(axes, learning.floors[measure], 1.0, [everything[0], everything[-1]])
    title = "held-out loss" if measure is None else learning_heading(learning, measure)
    axes.set_title(f"{title}, {_better(measure)}{', log scale' if wide else ''}", loc="left", fontsize=10.5, pad=8)


def _gaps(axes: Axes, learning: Learning) -> None:
    """By how much the loss of each variant exceeds that of the first, seed by seed, with 95 % intervals."""
    first, *others = learning.variants
    axes.axhline(0.0, color=_distinct(1)[0][0], lw=1.8)
    for variant, (colour, marker) in zip(others, _distinct(len(learning.variants))[1:], strict=True):
        found = loss_gaps(learning, first.name, variant.name)
        half = [gap.mean - gap.low if gap.low is not None else 0.0 for gap in found]
        axes.errorbar(
            [learning.of(variant.name, step)[0].images / 1000 for step in learning.study.snapshots],
            [gap.mean for gap in found], yerr=half, color=colour, lw=1.8, marker=marker, ms=5, capsize=3,
        )  # fmt: skip
    axes.set_title(f"held-out loss less that of {first.name}", loc="left", fontsize=10.5, pad=8)


def _distinct(n: int) -> list[tuple[str, str]]:
    """Colour and marker of n curves that have no order."""
    return [(COLOURS[_DISTINCT[i % len(_DISTINCT)]][0], "os^DvPX"[i % 7]) for i in range(n)]


def overview(result: Result, metric: Metric, curve: Curve, knee: Knee | None, palette: Palette) -> str:
    """The headline: a curve over evenly spaced settings, and below each setting what it draws from common noise."""
    shown = _common_pictures(result, curve.rows, 2)
    width, plot, count = 6.4, 2.9, len(curve.rows)
    edge = shown.edge / width if shown else 0.0
    sheet = shown.rows * (1 - edge) * width / count if shown else 0.0
    height = plot + sheet
    with _styled():
        figure = _figure(width, height)
        films: list[Film] = []
        axes = figure.add_axes((edge, (sheet + 0.42) / height, 1 - edge, (plot - 0.8) / height))
        _bars(axes, range(count), curve, metric, palette.look(result, curve), width=2.4)
        _value_labels(axes, curve, metric)
        axes.margins(y=0.2)
        _score_axis(axes, result, metric, [curve])
        axes.set(xlim=(-0.5, count - 0.5), yticks=[])
        axes.set_xticks(range(count), [words.setting(curve.along, place) for place in curve.places])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        if knee is not None:
            _mark_knee(axes, curve.rows.index(knee.row))
        if shown:
            films = _sheet(figure.add_axes((edge, 0, 1 - edge, sheet / height)), shown)
        return _svg(figure, films)


def strip(result: Result) -> str | None:
    """Samples from common noise: a row a sample, a column a value of the first axis, a block a setting of the others.

    None when no pictures were kept. Failed cells have no column.
    """
    blocks = _blocks(result)
    if not blocks:
        return None
    across = min(len(blocks), 2 if blocks[0].columns <= 5 else 1)
    side, head, gap = 0.82, 0.24 if len(blocks) == 1 else 0.5, 0.3
    columns = max(block.columns for block in blocks)
    edge = blocks[0].shown.edge
    block_height = head + side * max(block.shown.rows for block in blocks)
    width = across * (edge + columns * side) + (across - 1) * gap
    height = block_height * -(-len(blocks) // across)
    with _styled():
        figure, films = _figure(width, height), []
        for i, block in enumerate(blocks):
            left = (i % across) * (edge + columns * side + gap) + edge
            tall = side * block.shown.rows
            bottom = height - block_height * (i // across) - head - tall
            box = (left / width, bottom / height, block.columns * side / width, tall / height)
            axes = figure.add_axes(box)
            films += _sheet(axes, block.shown)
            _heads(axes, block)
        return _svg(figure, films)


def nearest(result: Result, near: Near) -> str:
    """Samples, and below each the training sample nearest to it."""
    pairs = zip(result.cell(near.row).pictures(len(near.pictures)), near.pictures, strict=True)
    shown = _Shown([np.stack(pair) for pair in pairs], ["drawn", "trained\non"])
    width, height = _EDGE + 0.82 * len(shown.columns), 0.82 * shown.rows
    with _styled():
        figure = _figure(width, height)
        films = _sheet(figure.add_axes((_EDGE / width, 0, 1 - _EDGE / width, 1)), shown)
        return _svg(figure, films)


def time_axis(result: Result) -> str:
    """The axis that curves of time run along: steps if they vary, since they are what costs."""
    return "steps" if "steps" in result.study.axes else first_axis(result)


def themed(svg: str, prefix: str) -> str:
    """The SVG for inside a page: in the page's colours, without a white ground, ids beginning with `prefix`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="([0-9.]+)pt"', r'\1 style="--width: \2pt"', svg, count=1)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg.replace("fill: #ffffff", "fill: none")


def _panel(draw: Callable[[Axes], None]) -> str:
    with _styled():
        figure = _figure(5.0, 3.5, "constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:
            columns = max(1, min(4, _LEGEND_LETTERS // (max(map(len, labels)) + 6)))  # 6 for the line before each
            figure.legend(handles, labels, loc="outside lower right", ncols=columns, fontsize=9.5, columnspacing=1.2)
        return _svg(figure)


def _styled() -> Any:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout=layout, facecolor="#ffffff")


@dataclass(frozen=True)
class Film:
    """Pictures (H, W, 4) that play in a figure. box: left, bottom, width, height, as shares of the figure."""

    box: tuple[float, float, float, float]
    frames: list[np.ndarray]

    def image(self, width: float, height: float) -> str:
        """An SVG element for a figure of that size in points."""
        from PIL import Image

        buffer = io.BytesIO()
        first, *rest = map(Image.fromarray, self.frames)
        first.save(buffer, "PNG", save_all=True, append_images=rest, duration=_FRAME_MILLISECONDS, loop=0)
        data = base64.b64encode(buffer.getvalue()).decode()
        left, bottom, broad, tall = self.box
        place = f'x="{left * width:.2f}" y="{(1 - bottom - tall) * height:.2f}" width="{broad * width:.2f}"'
        return (
            f'<image {place} height="{tall * height:.2f}" preserveAspectRatio="none" '
            f'style="image-rendering: pixelated" href="data:image/png;base64,{data}"/>'
        )


def _svg(figure: Figure, films: Sequence[Film] = ()) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width, height = (72 * inches for inches in figure.get_size_inches())
    playing = "".join(film.image(width, height) for film in films)
    return buffer.getvalue().replace("</svg>", f"{playing}</svg>")


def _bars(axes: Axes, places: Sequence[float], line: Curve, metric: Metric, look: Look, width: float = 1.8,
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


def _score_axis(axes: Axes, result: Result, metric: Metric, lines: Sequence[Curve]) -> None:
    """Title and scale of a score's axis, and the floor that a perfect model would reach."""
    scores = [row.scores[metric] for line in lines for row in line.rows]
    name = words.heading(result, metric)
    lows = [score.low for score in scores]
    wide = (
        metric in _DISTANCES
        and min(lows) > 0
        and max(score.value for score in scores) / min(score.value for score in scores) > _WIDE_SPAN
    )
    if wide:
        _log_ticks(axes, "y", [words.scaled(metric, x) for score in scores for x in (score.low, score.high)])
    if metric in result.floors:
        ends = [
            words.scaled(metric, rows[end].scores[metric].value) for rows in (c.rows for c in lines) for end in (0, -1)
        ]
        _mark_floor(axes, result.floors[metric], words.scaled(metric, 1.0), ends)
    way = _better(metric) if metric in DISTURBED or comparable(result, metric) else "lengths do not compare"
    axes.set_title(f"{name}, {way}{', log scale' if wide else ''}", loc="left", fontsize=10.5, pad=8)


def _better(metric: Metric | None) -> str:
    """Which way a score is better, of controls none; None is the loss."""
    if metric in DISTURBED:
        return "a control"
    return "higher is better" if metric in MORE_IS_BETTER else "lower is better"


def _mark_floor(axes: Axes, floor: Score, factor: float, ends: Sequence[float]) -> None:
    """A line at what real samples score, times `factor`, in the band of its interval.

    ends: the curves' first and last values in turn; the name keeps off them. A log axis has no place for zero and less.
    """
    value = factor * floor.value
    if axes.get_yscale() == "log" and floor.low <= 0:
        return
    axes.axhspan(factor * floor.low, factor * floor.high, color=MUTED, alpha=0.1, lw=0, zorder=0)
    axes.axhline(value, color=MUTED, lw=1.1, ls=(0, (1, 2)), zorder=0)
    left, right = (min(abs(end - value) for end in ends[side::2]) for side in (0, 1))
    place, indent, ha = (0.0, 4, "left") if left >= right else (1.0, -4, "right")
    above = value < float(np.mean(ends))
    axes.annotate(
        "real samples", (place, value), xycoords=("axes fraction", "data"), xytext=(indent, 3 if above else -3),
        textcoords="offset points", ha=ha, va="bottom" if above else "top", color=MUTED, fontsize=9,
    )  # fmt: skip


def _mark_floors(axes: Axes, result: Result, metric: Metric, line: Curve) -> None:
    """What real samples of each cell's own length score, where cells differ in that."""
    rows = [(place, row) for place, row in zip(line.places, line.rows, strict=True) if metric in row.floors]
    if not rows:
        return
    places = [_place(place, result.study.axes[line.along]) for place, _ in rows]
    values, low, high = (
        np.array([words.scaled(metric, getattr(row.floors[metric], part)) for _, row in rows])
        for part in ("value", "low", "high")
    )
    axes.errorbar(
        places, values, yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)], color=MUTED,
        ls=(0, (1, 2)), lw=1.1, marker="_", ms=9, elinewidth=1.0, label="real samples as long",
    )  # fmt: skip


def _place(place: Scalar, values: Sequence[Scalar]) -> float:
    return float(place) if isinstance(place, int | float) and numeric(values) else float(values.index(place))


def _place_ticks(axes: Axes, places: Sequence[Scalar], values: Sequence[Scalar]) -> None:
    used = sorted({_place(place, values) for place in places})
    if not numeric(values):
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(range(len(values)), [words.plain(value) for value in values])
        return
    if used[0] > 0 and used[-1] / used[0] > _WIDE_SPAN:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(used, [words.plain(place if place % 1 else int(place)) for place in used])


def _log_ticks(axes: Axes, which: str, values: Sequence[float]) -> None:
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


def _time_unit(longest: float) -> tuple[float, str]:
    return (1e3, "milliseconds") if longest < 1 else (1.0, "seconds")


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


def _evenly(rows: list[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


@dataclass(frozen=True)
class _Shown:
    """Samples from common noise: for each cell the same ones, (n, H, W, 3), of clips (n, F, H, W, 3), and the names of
    their classes if known, or, told, their captions."""

    columns: list[np.ndarray]
    names: list[str]
    told: bool = False

    @property
    def edge(self) -> float:
        """Inches for the names."""
        return _CAPTION_EDGE if self.told else _EDGE if self.names else 0.0

    @property
    def rows(self) -> int:
        return len(self.columns[0])


@dataclass(frozen=True)
class _Block:
    """One block of a strip: its name, its columns' heads and pictures."""

    name: str
    heads: list[str]
    shown: _Shown

    @property
    def columns(self) -> int:
        return len(self.shown.columns)


def _blocks(result: Result) -> list[_Block]:
    along = first_axis(result)
    lines = curves([row for row in result.rows if not row.error and result.cell(row).chunks()], along)
    blocks = []
    for line in lines:
        kept = _evenly(line.rows, _MOST_COLUMNS)
        shown = _common_pictures(result, kept, 4 if len(lines) == 1 else 2)
        if shown:
            first, *rest = (row.varied[along] for row in kept)
            heads = [words.setting(along, first), *map(words.plain, rest)]
            blocks.append(_Block(words.settings(line.setting), heads, shown))
    return blocks


def _common_pictures(result: Result, rows: Sequence[Row], n: int) -> _Shown | None:
    """At most n samples, the same ones of each cell: spread over the classes where these come in turn, else the first.

    None if some cell has no pictures.
    """
    if not rows or any(not result.cell(row).chunks() for row in rows):
        return None
    if result.captions:
        return _told_pictures(result, rows, n)
    names = _classes_in_turn(result)
    pictures = [result.cell(row).pictures(max(n, len(names))) for row in rows]
    if not (have := min(len(part) for part in pictures)):
        return None
    among = min(have, len(names)) if names else min(have, n)
    chosen = [round(i) for i in np.linspace(0, among - 1, min(n, among))]
    columns = [part[chosen].repeat(3, axis=-1) if part.shape[-1] == 1 else part[chosen] for part in pictures]
    return _Shown(columns, [names[i].split(",")[0].replace(" ", "\n", 1) for i in chosen] if names else [])


def _told_pictures(result: Result, rows: Sequence[Row], n: int) -> _Shown | None:
    """The first n samples of models that are told captions, beside these."""
    pictures = [result.cell(row).pictures(n) for row in rows]
    have = min(len(part) for part in pictures)
    names = [textwrap.fill(caption, _CAPTION_LETTERS) for caption in result.captions[:have]]
    return _Shown([part[:have] for part in pictures], names, told=True) if have else None


def _classes_in_turn(result: Result) -> list[str]:
    """The names of the classes, if sample i of every cell is of the i-th, counted round."""
    in_turn = result.study.base.classes == "balanced" and "classes" not in result.study.axes
    return result.passport.get("model", {}).get("classes") or [] if in_turn else []


def _sheet(axes: Axes, shown: _Shown) -> list[Film]:
    """Columns of pictures with clear gaps, small pictures enlarged by whole pixels so that they stay sharp.

    Clips are drawn by no figure: they come back as a film that lies where the axes are.
    """
    axes.set_axis_off()
    for i, name in enumerate(shown.names):
        axes.annotate(
            name, (0.0, 1 - (i + 0.5) / shown.rows), xycoords="axes fraction", xytext=(-3, 0),
            textcoords="offset points", ha="right", va="center", rotation=0 if shown.told else 90,
            fontsize=7.5 if shown.told else 8.5, color=MUTED, multialignment="right" if shown.told else "center",
        )  # fmt: skip
    if shown.columns[0].ndim == 4:
        side = max(shown.columns[0].shape[1:3])
        tiles = _tiled(shown.columns, max(1, _TILE // side))
        axes.imshow(tiles, interpolation="none", aspect="auto", extent=(0, len(shown.columns), shown.rows, 0))
        return []
    length = max(column.shape[1] for column in shown.columns)
    frames = [  # a shorter clip waits in its last frame
        _tiled([column[:, min(t, column.shape[1] - 1)] for column in shown.columns], 1) for t in range(length)
    ]
    return [Film(axes.get_position().bounds, frames)]


def _tiled(columns: Sequence[np.ndarray], times: int) -> np.ndarray:
    """Columns of pictures (n, H, W, 3) as one RGBA picture, each enlarged so many times, with gaps between."""
    height, width = columns[0].shape[1:3]
    gap = max(2, times * max(height, width) // 24)
    tall, broad = height * times + gap, width * times + gap
    sheet = np.zeros((tall * len(columns[0]), broad * len(columns), 4), np.uint8)
    for j, column in enumerate(columns):
        for i, picture in enumerate(column):
            tile = picture.repeat(times, axis=0).repeat(times, axis=1)
            top, left = i * tall + gap // 2, j * broad + gap // 2
            sheet[top : top + height * times, left : left + width * times, :3] = tile
            sheet[top : top + height * times, left : left + width * times, 3] = 255
    return sheet


def _heads(axes: Axes, block: _Block) -> None:
    for j, head in enumerate(block.heads):
        _above(axes, head, (j + 0.5) / block.columns, 4, ha="center", fontsize=9.5)
    _above(axes, block.name, 0.0, 20, fontsize=10.5, fontweight="bold")


def _above(axes: Axes, text: str, place: float, lift: float, **look: Any) -> None:
    axes.annotate(text, (place, 1.0), xycoords="axes fraction", xytext=(0, lift), textcoords="offset points", **look)


def _mark_knee(axes: Axes, place: int) -> None:
    axes.axvline(place, color=MARK, lw=1.3, ls=(0, (4, 3)), zorder=0)
    axes.annotate(
        "knee", (place, 1.0), xycoords=("data", "axes fraction"), xytext=(6, -10), textcoords="offset points",
        color=MARK, fontweight="bold",
    )  # fmt: skip
