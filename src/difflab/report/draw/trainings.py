"""Learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from difflab.report.draw.axes import DISTANCES, WIDE_SPAN, log_ticks, mark_floor, which_way
from difflab.report.draw.canvas import blank, finished, styled
from difflab.report.learning import heading, learned, loss_gaps
from difflab.report.palette import distinct
from difflab.study.learning import Learning
from difflab.study.spec import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curves(learning: Learning) -> str:
    """Held-out loss, how the others differ in it from the first variant, and each metric, against the pictures seen."""
    measures: list[Metric | None] = [None, *learning.metric_names]
    with styled():
        panels = len(measures) + (len(learning.variants) > 1)
        across = min(panels, 2)
        down = -(-panels // across)
        figure = blank(4.2 * across, 2.9 * down + 0.6, "constrained")
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
        return finished(figure)


def _learned(axes: Axes, learning: Learning, measure: Metric | None) -> None:
    """Lines through the means over seeds, and a dot for each; None is the loss."""
    for variant, (colour, marker) in zip(learning.variants, distinct(len(learning.variants)), strict=True):
        points = [learning.of(variant.name, step) for step in learning.study.snapshots]
        places = [[p.images / 1000 for p in here] for here in points]
        values = [[learned(p, measure) for p in here] for here in points]
        axes.plot(
            [x[0] for x in places], [float(np.mean(y)) for y in values], color=colour, lw=1.8, marker=marker, ms=5,
            label=variant.name,
        )  # fmt: skip
        axes.plot(np.concatenate(places), np.concatenate(values), ls="none", marker=".", ms=4, color=colour, alpha=0.5)
    everything = [learned(p, measure) for p in learning.points]
    wide = measure in DISTANCES and 0 < WIDE_SPAN * min(everything) < max(everything)
    if wide:
        log_ticks(axes, "y", everything)
    if measure in DISTANCES and measure in learning.floors:
        mark_floor(axes, learning.floors[measure], 1.0)
    title = "held-out loss" if measure is None else heading(learning, measure)
    axes.set_title(f"{title}, {which_way(measure)}{', log scale' if wide else ''}", loc="left", fontsize=10.5, pad=8)


def _gaps(axes: Axes, learning: Learning) -> None:
    """By how much the loss of each variant exceeds that of the first, seed by seed, with 95 % intervals."""
    first, *others = learning.variants
    axes.axhline(0.0, color=distinct(1)[0][0], lw=1.8)
    for variant, (colour, marker) in zip(others, distinct(len(learning.variants))[1:], strict=True):
        found = loss_gaps(learning, first.name, variant.name)
        half = [gap.mean - gap.low if gap.low is not None else 0.0 for gap in found]
        axes.errorbar(
            [learning.of(variant.name, step)[0].images / 1000 for step in learning.study.snapshots],
            [gap.mean for gap in found], yerr=half, color=colour, lw=1.8, marker=marker, ms=5, capsize=3,
        )  # fmt: skip
    axes.set_title(f"held-out loss less that of {first.name}", loc="left", fontsize=10.5, pad=8)
