"""Sentences about a result, each derived from its numbers and none claiming more than they show. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from difflab.report import words
from difflab.report.curves import Comparison, Curve, best, compare, curves, first_axis, numeric, scored
from difflab.study.result import Result, Row
from difflab.study.spec import Metric

SMALL_GAIN = 0.10
LINEAR_FROM = 0.98


@dataclass(frozen=True)
class Knee:
    """The first setting beyond which little is gained.

    gain: the largest later improvement, as a share of the score at the knee; hidden: no later improvement is clear, so
    even that gain may be chance.
    """

    row: Row
    gain: float
    hidden: bool


@dataclass(frozen=True)
class Fit:
    """Seconds per sample = slope * steps + intercept, through `cells` cells with `r2` explained."""

    slope: float
    intercept: float
    r2: float
    cells: int


def findings(result: Result) -> list[str]:
    """What a study found: best cell, trends, knee, contrast between axes, time, cells that failed."""
    sentences = []
    for metric in result.metric_names:
        if scored(result, metric):
            sentences += _of_metric(result, metric)
    return [*sentences, *timing(result), *_failures(result)]


def headline(results: Sequence[Result]) -> list[str]:
    """The main findings of all studies, one or two sentences each, for the abstract."""
    sentences = []
    for result in results:
        metric = next(iter(result.metric_names))
        if not scored(result, metric):
            continue
        across = contrast(result, metric)
        if across:
            sentences.append(across)
        else:
            lines = curves(scored(result, metric), first_axis(result))
            sentences.append(trend(result, metric, lines[0]))
            sentences += _knee_sentence(result, metric, lines[0])
    times = [timing(result)[0] for result in results if linear_fit(result)]
    return sentences + times[-1:]


def trend(result: Result, metric: Metric, curve: Curve) -> str:
    """How the metric moves along a curve, and which neighbours differ by more than chance."""
    first, last = curve.rows[0], curve.rows[-1]
    where = f"At {words.settings(curve.setting)}, " if curve.setting else ""
    name = _the(result, metric)
    if len(curve.rows) == 1:
        only = f"{where}only {_at(curve, first)} has a score: {name} is {_score(metric, first)}."
        return only[0].upper() + only[1:]
    if not numeric(curve.places):
        return _among(result, metric, curve, where)
    span = f"from {_at(curve, first)} to {_at(curve, last)}"
    neighbours = [compare(result, metric, a, b) for a, b in zip(curve.rows, curve.rows[1:], strict=False)]
    ends = compare(result, metric, first, last)
    clear = [step for step in neighbours if step.clear]
    if not clear and not ends.clear:
        text = f"{where}{span} no change of {name} is clear: {_score(metric, first)} and {_score(metric, last)}, {_evidence(metric, ends)}."
    elif len({step.better for step in clear} | ({ends.better} if ends.clear else set())) > 1:
        turn = best(result.model_copy(update={"rows": curve.rows}), metric)
        assert turn is not None
        text = (
            f"{where}{span} {name} does not move one way: clear changes go up and down, from {_score(metric, first)} to "
            f"{_score(metric, last)}, and the best value is at {_at(curve, turn)} ({_score(metric, turn)})."
        )
    elif ends.clear:
        verb = "rises" if ends.change > 0 else "falls"
        text = f"{where}{span} {name} {verb} from {_score(metric, first)} to {_score(metric, last)} ({_evidence(metric, ends)})."
        if len(neighbours) > 1:
            text += f" {_neighbours(curve, neighbours)}"
    else:
        text = (
            f"{where}{span} {name} moves from {_score(metric, first)} to {_score(metric, last)}; {_evidence(metric, ends)}, "
            f"so only changes between neighbours count. {_neighbours(curve, neighbours)}"
        )
    return text[0].upper() + text[1:]


def knee(result: Result, metric: Metric, curve: Curve) -> Knee | None:
    """The first setting after which no later one is clearly better, or better by less than a tenth.

    None for a curve of fewer than three numbers, and when the last setting is still a clear gain of a tenth or more.
    """
    if len(curve.rows) < 3 or not numeric(curve.places):
        return None
    for i, row in enumerate(curve.rows[:-1]):
        later = [compare(result, metric, row, other) for other in curve.rows[i + 1 :]]
        gains = [abs(step.change) for step in later if step.better and step.clear]
        gain = max(gains, default=0.0) / abs(row.scores[metric].value or 1.0)
        if gain < SMALL_GAIN:
            return Knee(row, gain, hidden=not gains)
    return None


def contrast(result: Result, metric: Metric) -> str | None:
    """What the first axis does at the two ends of the second, for example eta at few and at many steps.

    None unless the study has exactly two axes of numbers with scored cells in all four corners.
    """
    if len(result.study.axes) != 2:
        return None
    lines = curves(scored(result, metric), first_axis(result))
    other = list(result.study.axes)[1]
    full = [line for line in lines if len(line.rows) == len(result.study.axes[line.along]) > 1]
    if len(full) < 2 or not numeric([line.setting[other] for line in full] + full[0].places):
        return None
    full.sort(key=lambda line: float(line.setting[other] or 0))
    few, many = full[0], full[-1]
    small, large = (compare(result, metric, line.rows[0], line.rows[-1]) for line in (few, many))
    sentence = (
        f"Going from {_at(few, few.rows[0])} to {_at(few, few.rows[-1])} {_effect(result, metric, few, small)} at {words.settings(few.setting)}, "
        f"and {_effect(result, metric, many, large)} at {words.settings(many.setting)}."
    )
    return f"{sentence} {_shrinks(few, many, small, large)}".strip()


def linear_fit(result: Result) -> Fit | None:
    """Least squares of seconds per sample on steps over all timed cells; None below three different step counts."""
    rows = [row for row in result.rows if row.seconds > 0]
    steps = np.array([row.settings.steps for row in rows], dtype=float)
    if len(set(steps)) < 3:
        return None
    seconds = np.array([row.seconds_per_sample for row in rows])
    slope, intercept = np.polyfit(steps, seconds, 1)
    spread = float(np.sum((seconds - seconds.mean()) ** 2))
    left = float(np.sum((seconds - slope * steps - intercept) ** 2))
    return Fit(float(slope), float(intercept), 1.0 - left / spread if spread else 1.0, len(rows))


def timing(result: Result) -> list[str]:
    """Whether time is linear in steps, and whether the other settings change it, said from the cells' times."""
    fit = linear_fit(result)
    if fit is None:
        return []
    share = f"R² = {_r2(fit.r2)} over {fit.cells} cells"
    if fit.r2 >= LINEAR_FROM and fit.slope > 0:
        sentences = [f"Sampling time is linear in the number of steps: {words.duration(fit.slope)} per step and sample ({share})."]
    else:
        sentences = [f"Sampling time does not follow a straight line in the number of steps closely ({share}); these times are noisy."]
    spread = _spread_at_equal_steps(result)
    if spread is not None:
        others = words.listed(name for name in result.study.axes if name != "steps")
        verdict = "so it hardly depends on" if spread < SMALL_GAIN else "so an influence of the machine's load, or of"
        tail = f"{verdict} {others}" if spread < SMALL_GAIN else f"{verdict} {others}, cannot be ruled out"
        sentences.append(f"At equal steps the slowest cell takes {words.significant(100 * spread)} % longer than the fastest at most, {tail}.")
    return sentences


def _of_metric(result: Result, metric: Metric) -> list[str]:
    lines = curves(scored(result, metric), first_axis(result))
    sentences = _best(result, metric)
    across = contrast(result, metric)
    if across:
        sentences.append(across)
    for line in lines:
        sentences.append(trend(result, metric, line))
        if metric == next(iter(result.metric_names)):
            sentences += _knee_sentence(result, metric, line)
    return sentences


def _best(result: Result, metric: Metric) -> list[str]:
    rows = scored(result, metric)
    top = best(result, metric)
    if top is None or len(rows) < 2:
        return []
    tied = [row for row in rows if row.key != top.key and not compare(result, metric, top, row).clear]
    text = f"The best {words.short(result, metric)} is {_score(metric, top)}, at {words.settings(top.varied)}"
    if not tied:
        return [f"{text}; every other setting is clearly worse."]
    if len(tied) == len(rows) - 1:
        return [f"{text}, but no other setting can be told from it with this many samples."]
    names = words.listed(words.settings(row.varied) for row in tied) if len(tied) <= 3 else f"{len(tied)} other settings"
    return [f"{text}; {names} cannot be told from it."]


def _knee_sentence(result: Result, metric: Metric, curve: Curve) -> list[str]:
    if curve.along != "steps" or len(curve.rows) < 3:
        return []
    found = knee(result, metric, curve)
    where = f" at {words.settings(curve.setting)}" if curve.setting else ""
    if found is None:
        return [f"There is no knee in this range{where}: the last setting still improves clearly, by a tenth or more."]
    if found.hidden:
        n = found.row.scores[metric].n
        return [f"The knee{where} is at {_at(curve, found.row)}: no larger number is clearly better with {n} samples a cell."]
    return [f"The knee{where} is at {_at(curve, found.row)}: all larger numbers together improve by {words.significant(100 * found.gain)} % at most."]


def _among(result: Result, metric: Metric, curve: Curve, where: str) -> str:
    values = words.listed(f"{_score(metric, row)} with {_at(curve, row)}" for row in curve.rows)
    pairs = [compare(result, metric, a, b) for i, a in enumerate(curve.rows) for b in curve.rows[i + 1 :]]
    clear = sum(pair.clear for pair in pairs)
    text = f"{where}{_the(result, metric)} is {values}; {_count(clear, len(pairs))} of these differ by more than their error bars."
    return text[0].upper() + text[1:]


def _neighbours(curve: Curve, steps: Sequence[Comparison]) -> str:
    pairs = [f"{words.plain(a)} and {words.plain(b)}" for a, b in zip(curve.places, curve.places[1:], strict=False)]
    unclear = [pair for pair, step in zip(pairs, steps, strict=True) if not step.clear]
    if not unclear:
        return f"{'Both' if len(steps) == 2 else f'All {len(steps)}'} pairs of neighbouring settings differ by more than their error bars."
    if len(unclear) == len(steps):
        return "No two neighbouring settings differ by more than their error bars."
    return f"Neighbours that cannot be told apart: {'; '.join(unclear)}."


def _effect(result: Result, metric: Metric, curve: Curve, step: Comparison) -> str:
    name = _the(result, metric)
    if not step.clear:
        return f"does not change {name} clearly ({_evidence(metric, step)})"
    verb = "improves" if step.better else "worsens"
    size = words.scaled(metric, abs(step.change))
    points = " percentage points" if words.unit(metric) else ""
    return f"{verb} {name} by {words.significant(size, 3)}{points} ({_evidence(metric, step)})"


def _shrinks(few: Curve, many: Curve, small: Comparison, large: Comparison) -> str:
    if not (small.clear and large.clear and small.better == large.better):
        return ""
    if small.low is None or small.high is None or large.low is None or large.high is None:
        return ""
    if small.high >= large.low and large.high >= small.low:
        return ""
    ratio = abs(small.change / large.change)
    factor, place = (ratio, few) if ratio > 1 else (1 / ratio, many)
    return f"The effect is {words.significant(factor)} times as large at {words.settings(place.setting)}."


def _evidence(metric: Metric, step: Comparison) -> str:
    if step.low is None or step.high is None:
        return "their 95 % intervals do not overlap" if step.clear else "their 95 % intervals overlap"
    change, low, high = (words.scaled(metric, x) for x in (step.change, step.low, step.high))
    places = words.decimals(change, low, high)
    interval = f"[{words.fixed(low, places)}, {words.fixed(high, places)}]"
    if step.clear:
        return f"paired difference {words.fixed(change, places)}, 95 % interval {interval}"
    return f"the paired difference's 95 % interval {interval} contains zero"


def _spread_at_equal_steps(result: Result) -> float | None:
    by_steps: dict[int, list[float]] = {}
    for row in result.rows:
        if row.seconds > 0:
            by_steps.setdefault(row.settings.steps, []).append(row.seconds_per_sample)
    return max((max(times) / min(times) - 1 for times in by_steps.values() if len(times) > 1), default=None)


def _failures(result: Result) -> list[str]:
    failed = [row for row in result.rows if row.error]
    if not failed:
        return []
    names = words.listed(words.settings(row.varied) for row in failed) if len(failed) <= 3 else f"{len(failed)} cells"
    return [f"{len(failed)} of {len(result.rows)} cells failed and {'is' if len(failed) == 1 else 'are'} missing from the figures: {names}."]


def _score(metric: Metric, row: Row) -> str:
    return " ".join(words.score_text(metric, row.scores[metric]))


def _at(curve: Curve, row: Row) -> str:
    return words.setting(curve.along, row.varied[curve.along])


def _the(result: Result, metric: Metric) -> str:
    name = words.short(result, metric)
    return name if metric == "fid" else f"the {name}"


def _count(clear: int, pairs: int) -> str:
    if pairs == 1:
        return "the pair does differ; 1 of 1" if clear else "0 of 1 pair"
    return f"{clear} of {pairs} pairs"


def _r2(value: float) -> str:
    """Rounded down, so that only an exact fit is called 1."""
    return f"{int(value * 10000) / 10000:.4f}".rstrip("0").rstrip(".") if value > 0 else "0"
