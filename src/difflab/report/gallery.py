"""Which figures a study has, and what stands below them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from difflab.report import draw, words
from difflab.report.curves import curves, first_axis, scored
from difflab.report.nearest import near_training
from difflab.report.numbering import Drawing
from difflab.report.palette import Palette
from difflab.report.timing import linear_fit
from difflab.report.trend import knee
from difflab.study.learning import Learning
from difflab.study.result import Result
from difflab.study.spec import SAID, Metric


def headline_figure(result: Result, palette: Palette) -> Drawing | None:
    """The first curve of a study's main metric with its pictures; None where it has one setting, or more than nine."""
    metric, along = next(iter(result.metric_names)), first_axis(result)
    lines = curves(scored(result, metric), along)
    if not lines or not 2 <= len(lines[0].rows) <= 9:
        return None
    curve = lines[0]
    found = knee(result, metric, curve) if along == "steps" else None
    marked = found if found is not None and found.sharp else None  # else nothing was located, or not clearly here
    where = f" at {words.settings(curve.setting)}" if curve.setting else ""
    caption = (
        f"{result.metric_names[metric]} with 95 % intervals{where}; settings evenly spaced. "
        f"Below each setting: what the same start noise becomes with it.{_beside(result)}"
    )
    svg = draw.overview(result, metric, curve, marked, palette)
    return Drawing("headline", svg, caption, _alt(result, metric, along), wide=True)


def study_figures(result: Result, palette: Palette) -> Iterator[Drawing]:
    """All figures of a study: scores along the knob, scores against each other, what they cost, pictures."""
    return chain(_scores(result, palette), _trades(result, palette), _costs(result, palette), _pictures(result))


def learning_figure(learning: Learning) -> Drawing:
    """The learning curves of a study of trainings."""
    names = words.listed(variant.name for variant in learning.variants)
    real = " Dotted: what as many real samples score." if learning.floors.keys() - words.SHARES.keys() else ""
    caption = (
        f"What {names} learn, trained alike: lines through the means of {len(learning.study.seeds)} seeds, a dot for "
        "each. Losses are of averaged weights, on pictures that none of these trainings showed, with one draw of "
        f"timesteps and noise for all; of differences the 95 % intervals over seeds are drawn.{real}"
    )
    alt = f"Learning curves of {len(learning.variants)} variants."
    return Drawing("learning", draw.learning_curves(learning), caption, alt, wide=True)


def _scores(result: Result, palette: Palette) -> Iterator[Drawing]:
    along, together = first_axis(result), _aspects(result)
    knob = along.replace("_", " ")
    for metric in result.metric_names:
        if scored(result, metric) and metric not in together:
            caption = f"{words.capital(words.title(result, metric))} along {knob}. Bars: 95 % intervals."
            svg = draw.quality_curve(result, metric, palette)
            yield Drawing(f"quality-{metric}", svg, caption, _alt(result, metric, along))
    if together:
        caption = f"What captions ask for, aspect by aspect, along {knob}. Bars: 95 % intervals."
        yield Drawing("aspects", draw.aspects(result, together), caption, caption)


def _trades(result: Result, palette: Palette) -> Iterator[Drawing]:
    if {"precision", "recall"} <= result.metric_names.keys():
        real = [result.floors[metric] for metric in ("recall", "precision") if metric in result.floors]
        caption = "Fidelity against diversity: precision over recall, both with 95 % intervals."
        if len(real) == 2:
            recall, precision = (words.score_text("recall", floor)[0] for floor in real)
            caption += f" As many real samples have recall {recall} and precision {precision}."
        traded = draw.trade_off(result, "recall", "precision", palette)
        yield Drawing("trade-off", traded, caption, "Precision against recall.")
    if {"fid", "clipscore"} <= result.metric_names.keys():
        caption = "Distribution against captions: FD or FID over CLIPScore, both with 95 % intervals."
        traded = draw.trade_off(result, "clipscore", "fid", palette)
        yield Drawing("fid-clipscore", traded, caption, "FID against CLIPScore.")


def _costs(result: Result, palette: Palette) -> Iterator[Drawing]:
    main = next(iter(result.metric_names))
    timed = [row for row in scored(result, main) if row.seconds_per_sample > 0]
    if len({row.calls for row in timed}) > 2:  # else the cells cost the same, but for guidance that is on or off
        caption = (
            f"What quality costs: {words.title(result, main)} against sampling time. Each point is a cell, "
            f"connected along {draw.time_axis(result).replace('_', ' ')}."
        )
        yield Drawing("cost", draw.quality_time(result, main, palette), caption, _alt(result, main, "sampling time"))
    if "frames" in result.study.axes:
        caption = "Sampling time against frames, with bars from the fastest chunk to the slowest."
        yield Drawing("cost-frames", draw.time_frames(result, palette), caption, "Sampling time against frames.")
    if (fit := linear_fit(result)) is not None:
        line = f"the straight line through the medians, {words.duration(fit.slope)} a call"
        caption = f"Sampling time against network calls, with bars from the fastest chunk to the slowest, and {line}."
        yield Drawing("time", draw.time_steps(result, fit, palette), caption, "Sampling time against network calls.")


def _pictures(result: Result) -> Iterator[Drawing]:
    if (sheet := draw.strip(result)) is not None:
        knob = first_axis(result).replace("_", " ")
        caption = f"Samples from common noise: a row is one start noise, a column one value of {knob}.{_beside(result)}"
        yield Drawing("strip", sheet, caption, caption, wide=True)
    if (near := near_training(result)) is not None:
        yield Drawing("nearest", draw.nearest(result, near), near.caption, near.caption, wide=True)


def _beside(result: Result) -> str:
    return " Beside each row: the class asked for." if result.study.base.classes == "balanced" else ""


def _aspects(result: Result) -> list[Metric]:
    """The aspects of captions that are shown in one figure: two or more, along one axis."""
    told: list[Metric] = [
        metric
        for metric in result.metric_names
        if metric in (*SAID, "direction") and not metric.startswith("caption") and scored(result, metric)
    ]
    return told if len(told) > 1 and len(result.study.axes) == 1 and result.captions else []


def _alt(result: Result, metric: Metric, along: str) -> str:
    values = [words.scaled(metric, row.scores[metric].value) for row in scored(result, metric)]
    low, high = words.significant(min(values), 3), words.significant(max(values), 3)
    span = f"{len(values)} cells between {low} and {high}{words.unit(metric)}"
    return f"{words.capital(words.title(result, metric))} against {along}: {span}."
