"""Sentences about a result, each derived from its numbers and none claiming more than they show. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from difflab.report import words
from difflab.report.curves import (
    DISTURBED,
    MORE_IS_BETTER,
    Comparison,
    Curve,
    best,
    comparable,
    compare,
    curves,
    first_axis,
    numeric,
    scored,
)
from difflab.report.timing import timing
from difflab.study.result import Result, Row
from difflab.study.spec import Metric, Scalar

SMALL_GAIN = 0.10
_FEW = 3  # names that are compared in pairs, curves that are told one by one


@dataclass(frozen=True)
class Knee:
    """The first setting beyond which little is gained.

    gain: the largest clear improvement after it, as a share of the score at the knee; hidden: no later improvement is
    clear at all; sharp: the step to it, from the setting before, is a clear improvement.
    """

    row: Row
    gain: float
    hidden: bool
    sharp: bool


@dataclass(frozen=True)
class Shape:
    """How a curve of numbers moves: each neighbour to the next, the first to the last, and what is clear in that."""

    neighbours: list[Comparison]
    ends: Comparison

    @property
    def kind(self) -> Literal["flat", "mixed", "one way", "local"]:
        """One way: the ends differ and no clear change goes against them; local: only neighbours differ."""
        directions = {step.better for step in [*self.neighbours, self.ends] if step.clear}
        if len(directions) != 1:
            return "mixed" if directions else "flat"
        return "one way" if self.ends.clear else "local"


def findings(result: Result) -> list[str]:
    """What a study found: best cell, contrast between axes, trends, knees, time, cells that failed."""
    sentences = []
    for metric in result.metric_names:
        if scored(result, metric) and metric not in DISTURBED:
            sentences += _of_metric(result, metric) if comparable(result, metric) else [_by_length(result, metric)]
    sentences += _motion_seen(result)
    return [*sentences, *timing(result), *_failures(result)]


def headline(results: Sequence[Result]) -> list[str]:
    """The main findings of all studies for the abstract: a sentence a study, its note, and sampling time."""
    sentences = []
    for result in results:
        metric = next((m for m in result.metric_names if scored(result, m) and comparable(result, m)), None)
        if metric is not None:
            line = curves(scored(result, metric), first_axis(result))[0]
            told = contrast(result, metric, evidence=False) or " ".join(choices(result, metric))
            sentences.append(told or _summary(result, metric, line))
        elif (first := next(iter(result.metric_names))) not in DISTURBED and scored(result, first):
            sentences.append(_by_length(result, first))
        else:
            continue
        if result.study.remark:
            sentences.append(f"(Read the note of {result.study.name} with this.)")
    timed = [result for result in results if timing(result, telling=True)]
    return sentences + (timing(max(timed, key=lambda result: len(result.rows)), telling=True) if timed else [])


def shape(result: Result, metric: Metric, curve: Curve) -> Shape:
    """The comparisons along a curve of two rows or more."""
    steps = [compare(result, metric, a, b) for a, b in zip(curve.rows, curve.rows[1:], strict=False)]
    return Shape(steps, compare(result, metric, curve.rows[0], curve.rows[-1]))


def trend(result: Result, metric: Metric, curve: Curve) -> str:
    """How the metric moves along a curve, and which neighbours differ by more than chance."""
    where = f"At {words.settings(curve.setting)}, " if curve.setting else ""
    if len(curve.rows) == 1:
        text = (
            f"only {_at(curve, curve.rows[0])} has a score: {_the(result, metric)} is {_score(metric, curve.rows[0])}."
        )
    elif not numeric(curve.places):
        text = _among(result, metric, curve)
    else:
        text = _along(result, metric, curve)
    return words.capital(where + text)


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
            step = compare(result, metric, curve.rows[i - 1], row) if i else None
            return Knee(row, gain, hidden=not gains, sharp=step is not None and step.clear and step.better)
    return None


def contrast(result: Result, metric: Metric, evidence: bool = True) -> str | None:
    """What the first axis does at the two ends of the second, for example eta at few and at many steps.

    evidence: say the interval of a clear effect too. None unless the study has exactly two axes of numbers, with two
    or more values of the second at which all of the first have scores.
    """
    if len(result.study.axes) != 2:
        return None
    along, other = result.study.axes
    lines = curves(scored(result, metric), along)
    full = [line for line in lines if len(line.rows) == len(result.study.axes[along]) > 1]
    if len(full) < 2 or not numeric([line.setting[other] for line in full] + full[0].places):
        return None
    full.sort(key=lambda line: float(line.setting[other] or 0))
    few, many = full[0], full[-1]
    small, large = (compare(result, metric, line.rows[0], line.rows[-1]) for line in (few, many))
    at_few, at_many = (f"at {words.settings(line.setting)}" for line in (few, many))
    start = f"Going from {_at(few, few.rows[0])} to {_at(few, few.rows[-1])}"
    name = _the(result, metric)
    if small.clear and large.clear and small.better == large.better:
        verb = "improves" if small.better else "worsens"
        less, more = (_size(metric, step, evidence) for step in (small, large))
        return f"{start} {verb} {name} by {less} {at_few} and by {more} {at_many}.{_ratio(few, many, small, large)}"
    effects = [_effect(metric, step, evidence) for step in (small, large)]
    return f"{start} {effects[0].format(name)} {at_few} and {effects[1].format('it')} {at_many}."


def choices(result: Result, metric: Metric) -> list[str]:
    """Where each name on the second axis, for example a spacing, is clearly better than another, along the first axis;
    of many names, which is best at each place of it, and which cannot be told from that.

    Empty unless the study has exactly two axes, the second of two or more names.
    """
    if len(result.study.axes) != 2:
        return []
    along, other = result.study.axes
    names = result.study.axes[other]
    if numeric(names):
        return []
    cells = {(row.varied[other], row.varied[along]): row for row in scored(result, metric)}
    if len(names) > _FEW:
        return [_best_at(result, metric, along, other, place) for place in result.study.axes[along]]
    return [_choice(result, metric, along, cells, a, b) for a, b in combinations(names, 2)]


def _best_at(result: Result, metric: Metric, along: str, other: str, place: Scalar) -> str:
    """Which name is best at a place, and how the others stand beside it."""
    rows = [row for row in scored(result, metric) if row.varied[along] == place]
    if not rows:
        return f"At {words.setting(along, place)} no setting has a score."
    top = best(rows, metric)
    others = [row for row in rows if row.key != top.key]
    tied = [words.plain(row.varied[other]) for row in others if not compare(result, metric, top, row).clear]
    worse = [words.plain(row.varied[other]) for row in others if compare(result, metric, top, row).clear]
    text = (
        f"At {words.setting(along, place)} {_the(result, metric)} is best with {words.plain(top.varied[other])}, "
        f"{_score(metric, top)}"
    )
    told = [f"{words.listed(tied)} cannot be told from it"] if tied else []
    told += [f"{words.listed(worse)} {'is' if len(worse) == 1 else 'are'} clearly worse"] if worse else []
    return f"{'; '.join([text, *told])}."


def _choice(
    result: Result, metric: Metric, along: str, cells: dict[tuple[Scalar, Scalar], Row], a: Scalar, b: Scalar
) -> str:
    better: dict[str, list[str]] = {"first": [], "second": [], "neither": []}
    for place in result.study.axes[along]:
        if (a, place) in cells and (b, place) in cells:
            step = compare(result, metric, cells[a, place], cells[b, place])
            key = "neither" if not step.clear else "second" if step.better else "first"
            better[key].append(f"{words.setting(along, place)} ({_size(metric, step, evidence=True)})")
    name = _the(result, metric)
    parts = [
        f"{name} is clearly better with {words.plain(one)} than with {words.plain(two)} at {words.listed(better[key])}"
        for key, one, two in (("first", a, b), ("second", b, a))
        if better[key]
    ]
    if better["neither"]:
        places = words.listed(text.split(" (")[0] for text in better["neither"])
        parts.append(f"at {places} {words.plain(a)} and {words.plain(b)} cannot be told apart by {name}")
    return words.capital("; ".join(parts)) + "."


def _of_metric(result: Result, metric: Metric) -> list[str]:
    sentences = [*_best(result, metric), *_beside_floor(result, metric)]
    across = contrast(result, metric)
    if across:
        sentences.append(across)
    main = metric == next(iter(result.metric_names))
    sentences += choices(result, metric)
    if not main and len(sentences) > 1:
        return sentences
    lines = curves(scored(result, metric), first_axis(result))
    if len(lines) > _FEW and len(sentences) > 1:
        return sentences
    for line in lines:
        sentences.append(trend(result, metric, line))
        if main:
            sentences += _knee_sentence(result, metric, line)
    return sentences


def _best(result: Result, metric: Metric) -> list[str]:
    rows = scored(result, metric)
    if len(rows) < 2:
        return []
    top = best(rows, metric)
    tied = [row for row in rows if row.key != top.key and not compare(result, metric, top, row).clear]
    text = f"The best {words.short(result, metric)} is {_score(metric, top)}, at {words.settings(top.varied)}"
    if not tied:
        return [f"{text}; every other setting is clearly worse."]
    if len(tied) == len(rows) - 1:
        return [f"{text}, but no other setting can be told from it with this many samples."]
    few = words.listed(words.settings(row.varied) for row in tied)
    return [f"{text}; {few if len(tied) <= 3 else f'{len(tied)} other settings'} cannot be told from it."]


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
        else "is beyond that, nearer to the reference than samples drawn apart from it"
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
    return f"{words.capital(_the(result, metric))} is {words.listed(each)}; lengths do not compare by it: {why}."


def _beside_real(result: Result, metric: Metric, row: Row) -> str:
    floor = row.floors.get(metric) or result.floors.get(metric)
    real = f" (of real samples {words.score_text(metric, floor)[0]})" if floor else ""
    return f"{_score(metric, row)}{real}"


def _knee_sentence(result: Result, metric: Metric, curve: Curve) -> list[str]:
    if curve.along != "steps" or len(curve.rows) < 3:
        return []
    found = knee(result, metric, curve)
    where = f" at {words.settings(curve.setting)}" if curve.setting else ""
    if found is None:
        return [f"There is no knee in this range{where}: the last setting still improves clearly, by a tenth or more."]
    if found.hidden and found.row.key == curve.rows[0].key:
        n = words.fixed(found.row.scores[metric].n, 0)
        return [
            f"No knee can be located{where}: with {n} samples nothing is clearly better than {_at(curve, found.row)}."
        ]
    if not found.sharp and found.row.key != curve.rows[0].key:
        return [
            f"Where the knee{where} lies cannot be told: no step to {_at(curve, found.row)} is clear by itself, and "
            "beyond it nothing is gained clearly or by a tenth."
        ]
    start = f"The knee{where} is at {_at(curve, found.row)}"
    if found.hidden:
        n = words.fixed(found.row.scores[metric].n, 0)
        return [f"{start}: nothing beyond it is clearly better with {n} samples a cell."]
    return [f"{start}: the best of what follows improves by an estimated {words.significant(100 * found.gain)}\u00a0%."]


def _summary(result: Result, metric: Metric, curve: Curve) -> str:
    """A trend for the abstract: short where it is simple, in full where it is not."""
    first, last = curve.rows[0], curve.rows[-1]
    if len(curve.rows) == 1 or not numeric(curve.places) or (moves := shape(result, metric, curve)).kind != "one way":
        return trend(result, metric, curve)
    top = best(curve.rows, metric)
    if top.key not in (first.key, last.key):
        return _best(result, metric)[0]
    verb = "rises" if moves.ends.change > 0 else "falls"
    where = f"At {words.settings(curve.setting)}, " if curve.setting else ""
    start = f"{_score(metric, first)} at {_at(curve, first)}"
    text = f"{where}{_the(result, metric)} {verb} from {start} to {_score(metric, last)} at {_at(curve, last)}"
    return words.capital(" ".join([f"{text}.", *_knee_sentence(result, metric, curve)]))


def _along(result: Result, metric: Metric, curve: Curve) -> str:
    first, last = curve.rows[0], curve.rows[-1]
    moves = shape(result, metric, curve)
    values = f"from {_score(metric, first)} to {_score(metric, last)}"
    span = f"from {_at(curve, first)} to {_at(curve, last)} {_the(result, metric)}"
    evidence = _evidence(metric, moves.ends)
    if (turning := _turning(result, metric, curve)) is not None:
        return f"{span} {turning}"
    if moves.kind == "flat":
        return f"{span} does not change clearly: it goes {values}, and {evidence}."
    if moves.kind == "mixed":
        turn = best(curve.rows, metric)
        return (
            f"{span} does not move one way: it goes {values} with clear changes up and down, and is best at "
            f"{_at(curve, turn)}, {_score(metric, turn)}."
        )
    neighbours = f" {_neighbours(curve, moves.neighbours)}" if len(moves.neighbours) > 1 else ""
    if moves.kind == "local":
        return f"{span} goes {values}; {evidence}, so only changes between neighbours count.{neighbours}"
    verb = "rises" if moves.ends.change > 0 else "falls"
    return f"{span} {verb} {values} ({evidence}).{neighbours}"


def _turning(result: Result, metric: Metric, curve: Curve) -> str | None:
    """Where the best setting lies inside the range and is clearly better than both ends."""
    turn, first, last = best(curve.rows, metric), curve.rows[0], curve.rows[-1]
    if turn.key in (first.key, last.key):
        return None
    gains = [compare(result, metric, end, turn) for end in (first, last)]
    if not all(gain.clear for gain in gains):
        return None
    parts = [
        f"by {_size(metric, gain, evidence=True)} than {_score(metric, end)} at {_at(curve, end)}"
        for gain, end in zip(gains, (first, last), strict=True)
    ]
    inside = f"has its best value inside: {_score(metric, turn)} at {_at(curve, turn)}"
    return f"{inside}, clearly better {' and '.join(parts)}."


def _among(result: Result, metric: Metric, curve: Curve) -> str:
    values = words.listed(f"{_score(metric, row)} with {_at(curve, row)}" for row in curve.rows)
    pairs = [compare(result, metric, a, b) for i, a in enumerate(curve.rows) for b in curve.rows[i + 1 :]]
    return f"{_the(result, metric)} is {values}; {_apart(pairs)}."


def _neighbours(curve: Curve, steps: Sequence[Comparison]) -> str:
    pairs = [f"{words.plain(a)} and {words.plain(b)}" for a, b in zip(curve.places, curve.places[1:], strict=False)]
    unclear = [pair for pair, step in zip(pairs, steps, strict=True) if not step.clear]
    if not unclear:
        count = "Both" if len(steps) == 2 else f"All {len(steps)}"
        return f"{count} pairs of neighbours differ clearly."
    if len(unclear) == len(steps):
        return "No two neighbours differ clearly."
    return f"Neighbours that cannot be told apart: {'; '.join(unclear)}."


def _effect(metric: Metric, step: Comparison, evidence: bool) -> str:
    """A verb phrase with a place for the metric's name."""
    if not step.clear:
        return f"does not change {{}} clearly ({_evidence(metric, step)})"
    return f"{'improves' if step.better else 'worsens'} {{}} by {_size(metric, step, evidence)}"


def _size(metric: Metric, step: Comparison, evidence: bool) -> str:
    """The magnitude of a change, with its interval if asked for and known."""
    points = "\u00a0percentage points" if words.unit(metric) else ""
    sign = -1.0 if step.change < 0 else 1.0
    size = words.scaled(metric, abs(step.change))
    if step.low is None or step.high is None:
        return f"{words.significant(size)}{points}"
    low, high = sorted(words.scaled(metric, sign * end) for end in (step.low, step.high))
    text = words.with_interval(size, low, high)
    if not evidence:
        return f"{text.split(' [')[0]}{points}"
    return text.replace(" [", f"{points} [", 1)


def _ratio(few: Curve, many: Curve, small: Comparison, large: Comparison) -> str:
    """How many times larger one effect is, where paired intervals show that it is larger."""
    if small.low is None or small.high is None or large.low is None or large.high is None:
        return ""
    if small.high >= large.low and large.high >= small.low:
        return ""
    ratio = abs(small.change / large.change)
    factor, place = (ratio, few) if ratio > 1 else (1 / ratio, many)
    return f" The effect is {words.significant(factor)} times as large at {words.settings(place.setting)}."


def _evidence(metric: Metric, step: Comparison) -> str:
    if step.low is None or step.high is None:
        return f"their 95\u00a0% intervals {'do not overlap' if step.clear else 'overlap'}"
    text = words.with_interval(*(words.scaled(metric, x) for x in (step.change, step.low, step.high)))
    if step.clear:
        return f"paired difference {text}"
    return f"the paired difference’s 95\u00a0% interval {text[text.index('[') :]} contains zero"


def _apart(pairs: Sequence[Comparison]) -> str:
    clear = sum(pair.clear for pair in pairs)
    if len(pairs) == 1:
        return f"they {'differ clearly' if clear else 'cannot be told apart'}"
    return f"{clear} of the {len(pairs)} pairs differ clearly"


def _failures(result: Result) -> list[str]:
    failed = [row for row in result.rows if row.error]
    if not failed:
        return []
    few = words.listed(words.settings(row.varied) for row in failed)
    names = few if len(failed) <= 3 else "see the table"
    verb = "is" if len(failed) == 1 else "are"
    return [f"{len(failed)} of {len(result.rows)} cells failed and {verb} missing from the figures: {names}."]


def _score(metric: Metric, row: Row) -> str:
    return " ".join(words.score_text(metric, row.scores[metric]))


def _at(curve: Curve, row: Row) -> str:
    return words.setting(curve.along, row.varied[curve.along])


def _the(result: Result, metric: Metric) -> str:
    name = words.short(result, metric)
    return name if name.startswith(("FD", "FID", "FVD")) else f"the {name}"
