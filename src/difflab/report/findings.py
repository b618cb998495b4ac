"""Sentences about a result, each derived from its numbers and none claiming more than they show. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from difflab.report import words
from difflab.report.curves import DISTURBED, MORE_IS_BETTER, best, comparable, curves, first_axis, scored
from difflab.report.effects import FEW, choices, contrast
from difflab.report.phrases import named, score_of
from difflab.report.timing import timing
from difflab.report.trend import best_cell, knee_sentence, summary, trend
from difflab.study.result import Result, Row
from difflab.study.spec import Metric

_NEARER = "nearer to the reference than samples drawn apart from it"
_BEYOND: dict[Metric, str] = {  # of scores that are no distance from the reference
    **dict.fromkeys(("is", "clipscore"), "higher than real samples’"),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), "more than real samples have"),
}


def findings(result: Result) -> list[str]:
    """What a study found: best cell, contrast between axes, trends, knees, time, cells that failed."""
    sentences = []
    for metric in result.metric_names:
        if scored(result, metric) and metric not in DISTURBED:
            sentences += _of_metric(result, metric) if comparable(result, metric) else [_by_length(result, metric)]
    sentences += _motion_seen(result)
    return [*sentences, *timing(result), *_failures(result)]


def headline(results: Sequence[Result]) -> list[str]:
    """The main findings of studies, one after the other, and last how sampling time goes."""
    timed = [result for result in results if timing(result, telling=True)]
    told = timing(max(timed, key=lambda result: len(result.rows)), telling=True) if timed else []
    return [*(sentence for result in results for sentence in main_finding(result)), *told]


def main_finding(result: Result) -> list[str]:
    """What a study found by its main metric, and that it has a note."""
    found = _main(result)
    return [*found, f"(Read the note of {result.study.name} with this.)"] if found and result.study.remark else found


def _main(result: Result) -> list[str]:
    """What a study found by the first metric that its cells compare by, along its axes."""
    metric = next((m for m in result.metric_names if scored(result, m) and comparable(result, m)), None)
    if metric is None:
        first = next(iter(result.metric_names))
        return [_by_length(result, first)] if first not in DISTURBED and scored(result, first) else []
    if both := contrast(result, metric, evidence=False):
        return [both]
    lines = curves(scored(result, metric), first_axis(result))
    chosen = choices(result, metric)
    return chosen if len(lines) > FEW and chosen else [summary(result, metric, lines[0]), *chosen]


def _of_metric(result: Result, metric: Metric) -> list[str]:
    sentences = [*best_cell(result, metric), *_beside_floor(result, metric)]
    across = contrast(result, metric)
    if across:
        sentences.append(across)
    main = metric == next(iter(result.metric_names))
    sentences += choices(result, metric)
    if not main and len(sentences) > 1:
        return sentences
    lines = curves(scored(result, metric), first_axis(result))
    if len(lines) > FEW and len(sentences) > 1:
        return sentences
    for line in lines:
        sentences.append(trend(result, metric, line))
        if main:
            sentences += knee_sentence(result, metric, line)
    return sentences


def _beside_floor(result: Result, metric: Metric) -> list[str]:
    """How the best cell stands beside as many real samples."""
    if metric in words.SHARES or metric not in result.floors:  # of real samples all are valid and of their class
        return []
    top, floor = best(scored(result, metric), metric).scores[metric], result.floors[metric]
    # Of several sets of real samples it is known how far chance alone moves a score.
    above, below = (top.value, top.value) if floor.sets > 1 else (top.low, top.high)
    worse, better = above > floor.high, below < floor.low
    if metric in MORE_IS_BETTER:
        worse, better = better, worse
    told = (
        "falls short of that"
        if worse
        else f"is beyond that, {_BEYOND.get(metric, _NEARER)}"
        if better
        else "cannot be told from that"
    )
    real = " ".join(words.score_text(metric, floor))
    of = f"{words.fixed(floor.sets, 0)} sets of as many real samples" if floor.sets > 1 else "As many real samples"
    return [f"{of} score {real}: the best {told}."]


def _motion_seen(result: Result) -> list[str]:
    """What spoiling motion does to the distance of the best samples and, where it is known, of real ones."""
    rows = scored(result, "fvd")
    told: list[Metric] = [metric for metric in DISTURBED if metric in result.metric_names]
    if not rows or not told:
        return []
    top = best(rows, "fvd") if comparable(result, "fvd") else rows[0]
    parts = [f"{_beside_real(result, metric, top)} with {DISTURBED[metric]}" for metric in told]
    where = words.settings(top.varied)
    plain = f"{words.short(result, 'fvd')} is {_beside_real(result, 'fvd', top)}"
    return [f"Is motion seen? At {where} {plain}, and {words.listed(parts)}."]


def _by_length(result: Result, metric: Metric) -> str:
    """What clips of each length score, beside real ones as long, where lengths are not ranked by that."""
    each = [f"{_beside_real(result, metric, row)} at {words.settings(row.varied)}" for row in scored(result, metric)]
    why = (
        "longer clips have more frames in which to go wrong"
        if metric in words.SHARES
        else "each has its own real clips"
    )
    return f"{words.capital(named(result, metric))} is {words.listed(each)}; lengths do not compare by it: {why}."


def _beside_real(result: Result, metric: Metric, row: Row) -> str:
    floor = row.floors.get(metric) or result.floors.get(metric)
    real = f" (of real samples {words.score_text(metric, floor)[0]})" if floor else ""
    return f"{score_of(metric, row)}{real}"


def _failures(result: Result) -> list[str]:
    failed = [row for row in result.rows if row.error]
    if not failed:
        return []
    few = words.listed(words.settings(row.varied) for row in failed)
    names = few if len(failed) <= 3 else "see the table"
    verb = "is" if len(failed) == 1 else "are"
    return [f"{len(failed)} of {len(result.rows)} cells failed and {verb} missing from the figures: {names}."]
