"""How a metric moves along a knob: trend, knee, what is clear in that. Sentences and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from difflab.report import words
from difflab.report.curves import Comparison, Curve, best, compare, numeric, scored
from difflab.report.phrases import at, evidence_of, named, score_of, size_of
from difflab.study.result import Result, Row
from difflab.study.spec import Metric

SMALL_GAIN = 0.10


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


def shape(result: Result, metric: Metric, curve: Curve) -> Shape:
    """The comparisons along a curve of two rows or more."""
    steps = [compare(result, metric, a, b) for a, b in zip(curve.rows, curve.rows[1:], strict=False)]
    return Shape(steps, compare(result, metric, curve.rows[0], curve.rows[-1]))


def trend(result: Result, metric: Metric, curve: Curve) -> str:
    """How the metric moves along a curve, and which neighbours differ by more than chance."""
    where = f"At {words.settings(curve.setting)}, " if curve.setting else ""
    if len(curve.rows) == 1:
        only = curve.rows[0]
        text = f"only {at(curve, only)} has a score: {named(result, metric)} is {score_of(metric, only)}."
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


def knee_sentence(result: Result, metric: Metric, curve: Curve) -> list[str]:
    """Where the knee is, or why none is told; nothing for a curve that does not run along three steps or more."""
    if curve.along != "steps" or len(curve.rows) < 3:
        return []
    found = knee(result, metric, curve)
    where = f" at {words.settings(curve.setting)}" if curve.setting else ""
    if found is None:
        a, b = curve.rows[-2:]
        span = f"from {at(curve, a)} to {at(curve, b)}"
        share = _share(compare(result, metric, a, b), a.scores[metric].value)
        return [f"There is no knee in this range{where}: {span} it still improves clearly, by an estimated {share}."]
    if found.hidden and found.row.key == curve.rows[0].key:
        n = words.fixed(found.row.scores[metric].n, 0)
        return [
            f"No knee can be located{where}: with {n} samples nothing is clearly better than {at(curve, found.row)}."
        ]
    if not found.sharp and found.row.key != curve.rows[0].key:
        return [
            f"Where the knee{where} lies cannot be told: no step to {at(curve, found.row)} is clear by itself, and "
            "beyond it no clear gain is estimated at a tenth or more."
        ]
    if found.hidden:
        n = words.fixed(found.row.scores[metric].n, 0)
        place = at(curve, found.row)
        return [f"The knee{where} is put at {place}: no improvement can be shown beyond it with {n} samples a cell."]
    start = f"The knee{where} is at {at(curve, found.row)}"
    return [f"{start}: the best of what follows improves by an estimated {words.significant(100 * found.gain)}\u00a0%."]


def _share(step: Comparison, start: float) -> str:
    """The size of a clear change as a share of the score before it, with its interval where known: "19 % [1, 37]"."""
    size = 100 * abs(step.change) / abs(start or 1.0)
    if step.low is None or step.high is None:
        return f"{words.significant(size)}\u00a0%"
    low, high = sorted(size * end / step.change for end in (step.low, step.high))
    return words.with_interval(size, low, high).replace(" [", "\u00a0% [", 1)


def summary(result: Result, metric: Metric, curve: Curve) -> str:
    """A trend for the abstract: short where it is simple, in full where it is not."""
    first, last = curve.rows[0], curve.rows[-1]
    if len(curve.rows) == 1 or not numeric(curve.places) or (moves := shape(result, metric, curve)).kind != "one way":
        return trend(result, metric, curve)
    top = best(curve.rows, metric)
    if top.key != last.key and compare(result, metric, last, top).clear and top.key != first.key:
        return best_cell(result, metric)[0]
    verb = "rises" if moves.ends.change > 0 else "falls"
    where = f"At {words.settings(curve.setting)}, " if curve.setting else ""
    start = f"{score_of(metric, first)} at {at(curve, first)}"
    text = f"{where}{named(result, metric)} {verb} from {start} to {score_of(metric, last)} at {at(curve, last)}"
    return words.capital(" ".join([f"{text}.", *knee_sentence(result, metric, curve)]))


def best_cell(result: Result, metric: Metric) -> list[str]:
    """Which setting is best, and which cannot be told from it; nothing where there is no choice."""
    rows = scored(result, metric)
    if len(rows) < 2:
        return []
    top = best(rows, metric)
    tied = [row for row in rows if row.key != top.key and not compare(result, metric, top, row).clear]
    text = f"The best {words.short(result, metric)} is {score_of(metric, top)}, at {words.settings(top.varied)}"
    if not tied:
        return [f"{text}; every other setting is clearly worse."]
    if len(tied) == len(rows) - 1:
        return [f"{text}, but no other setting can be told from it with this many samples."]
    few = words.listed(words.settings(row.varied) for row in tied)
    return [f"{text}; {few if len(tied) <= 3 else f'{len(tied)} other settings'} cannot be told from it."]


def _along(result: Result, metric: Metric, curve: Curve) -> str:
    first, last = curve.rows[0], curve.rows[-1]
    moves = shape(result, metric, curve)
    values = f"from {score_of(metric, first)} to {score_of(metric, last)}"
    span = f"from {at(curve, first)} to {at(curve, last)} {named(result, metric)}"
    evidence = evidence_of(metric, moves.ends)
    if (turning := _turning(result, metric, curve)) is not None:
        return f"{span} {turning}"
    if moves.kind == "flat":
        return f"{span} does not change clearly: it goes {values}, and {evidence}."
    if moves.kind == "mixed":
        turn = best(curve.rows, metric)
        return (
            f"{span} does not move one way: it goes {values} with clear changes up and down, and is best at "
            f"{at(curve, turn)}, {score_of(metric, turn)}."
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
        f"by {size_of(metric, gain, evidence=True)} than {score_of(metric, end)} at {at(curve, end)}"
        for gain, end in zip(gains, (first, last), strict=True)
    ]
    picked = f", picked as the best of {len(curve.rows)}" if len(curve.rows) > 3 else ""
    inside = f"has its best value inside: {score_of(metric, turn)} at {at(curve, turn)}{picked}"
    return f"{inside}, clearly better {' and '.join(parts)}."


def _among(result: Result, metric: Metric, curve: Curve) -> str:
    values = words.listed(f"{score_of(metric, row)} with {at(curve, row)}" for row in curve.rows)
    pairs = [compare(result, metric, a, b) for i, a in enumerate(curve.rows) for b in curve.rows[i + 1 :]]
    return f"{named(result, metric)} is {values}; {_apart(pairs)}."


def _neighbours(curve: Curve, steps: Sequence[Comparison]) -> str:
    pairs = [f"{words.plain(a)} and {words.plain(b)}" for a, b in zip(curve.places, curve.places[1:], strict=False)]
    unclear = [pair for pair, step in zip(pairs, steps, strict=True) if not step.clear]
    if not unclear:
        count = "Both" if len(steps) == 2 else f"All {len(steps)}"
        return f"{count} pairs of neighbours differ clearly."
    if len(unclear) == len(steps):
        return "No two neighbours differ clearly."
    return f"Neighbours that cannot be told apart: {'; '.join(unclear)}."


def _apart(pairs: Sequence[Comparison]) -> str:
    clear = sum(pair.clear for pair in pairs)
    if len(pairs) == 1:
        return f"they {'differ clearly' if clear else 'cannot be told apart'}"
    return f"{clear} of the {len(pairs)} pairs differ clearly"
