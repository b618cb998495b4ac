"""What a study of trainings found: a line a variant, and sentences that claim no more than its seeds show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

from scipy.special import stdtrit

from difflab.report import words
from difflab.report.curves import MORE_IS_BETTER
from difflab.study.learning import Learning, Point
from difflab.study.spec import Metric


@dataclass(frozen=True)
class LearningLine:
    """A variant at the end of its trainings: its size, its work, and mean and spread over seeds of loss and scores."""

    name: str
    parameters: str
    macs: str
    values: list[tuple[str, str]]


@dataclass(frozen=True)
class LearningTable:
    """Columns of scores, and a line for each variant."""

    columns: list[str]
    lines: list[LearningLine]


def build_learning_table(learning: Learning) -> LearningTable:
    """The last snapshots, in the order of the study."""
    last = learning.study.snapshots[-1]
    columns = ["held-out loss", *(heading(learning, metric) for metric in learning.metric_names)]
    lines = []
    for variant in learning.variants:
        points = learning.of(variant.name, last)
        values = [_spread([p.loss for p in points])]
        values += [_spread([words.scaled(m, p.scores[m].value) for p in points]) for m in learning.metric_names]
        lines.append(
            LearningLine(
                variant.name, f"{variant.parameters / 1e6:.2f} M", f"{variant.macs / 1e6:.1f} M",
                values,
            )
        )  # fmt: skip
    return LearningTable(columns, lines)


def heading(learning: Learning, metric: Metric) -> str:
    """A metric's name for a column or an axis, with its unit."""
    return words.SHARES[metric][1] if metric in words.SHARES else learning.metric_names[metric]


@dataclass(frozen=True)
class Measure:
    """A number of every training after some step: its name and unit, by variant its values in order of the seeds.

    metric: None for the held-out loss.
    """

    metric: Metric | None
    name: str
    unit: str
    values: dict[str, list[float]]
    more_is_better: bool = False

    @property
    def ranked(self) -> list[str]:
        """The variants, the best mean first."""
        return sorted(self.values, key=lambda variant: mean(self.values[variant]), reverse=self.more_is_better)

    def gap(self, a: str, b: str) -> Gap:
        """How far variant b is from a, over the seeds."""
        gaps = [y - x for x, y in zip(self.values[a], self.values[b], strict=True)]
        if len(gaps) < 2:
            return Gap(gaps[0], None, None)
        half = float(stdtrit(len(gaps) - 1, 0.975)) * stdev(gaps) / math.sqrt(len(gaps))
        return Gap(mean(gaps), mean(gaps) - half, mean(gaps) + half)

    def beaten(self) -> list[str]:
        """The variants that are clearly behind the best one."""
        first, *others = self.ranked
        return [other for other in others if self.gap(first, other).clear]


@dataclass(frozen=True)
class Gap:
    """A mean difference over seeds with its 95 % interval by Student's t, which one seed does not give."""

    mean: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def size(self) -> str:
        """Its magnitude, and the interval."""
        if self.low is None or self.high is None:
            return words.significant(abs(self.mean))
        low, high = sorted((self.low, self.high)) if self.mean > 0 else sorted((-self.low, -self.high))
        return words.with_interval(abs(self.mean), low, high)


def learning_headline(learning: Learning) -> str:
    """Which variant leads by held-out loss at the end, and over which others clearly."""
    loss = measures(learning, learning.study.snapshots[-1])[0]
    first, *others = loss.ranked
    seeds = len(learning.study.seeds)
    trained = f"Of {len(learning.variants)} variants trained alike, " if others else ""
    trained += f"with {seeds} seeds each" if seeds > 1 else "with one seed"
    shown = words.capital(f"{trained} ({learning.study.name}), after {_pictures(learning, -1)} pictures")
    if not others:
        return f"{shown} the held-out loss is {mean_text(loss, first)} with {first}."
    return f"{shown} {first} has the lowest held-out loss, {mean_text(loss, first)}, {_ahead(loss)}."


def learning_findings(learning: Learning) -> list[str]:
    """The headline with its course, and for every measure how the variants compare at the end, each with the next."""
    seeds = len(learning.study.seeds)
    sentences = [" ".join(told for told in (learning_headline(learning), learning_course(learning)) if told)]
    for measure in measures(learning, learning.study.snapshots[-1]):
        order = measure.ranked
        means = words.listed(f"{mean_text(measure, variant)} with {variant}" for variant in order)
        over = f", means of {seeds} seeds" if seeds > 1 else ""
        steps = [_step(measure, a, b) for a, b in pairwise(order)]
        told = f" Each and the next, seed by seed: {'; '.join(steps)}." if steps else ""
        sentences.append(f"{words.capital(measure.name)} at the end{over}: {means}.{told}")
    return sentences


def loss_gaps(learning: Learning, a: str, b: str) -> list[Gap]:
    """How far the held-out loss of variant b is above that of a, at each snapshot."""
    return [measures(learning, step)[0].gap(a, b) for step in learning.study.snapshots]


def _ahead(measure: Measure) -> str:
    first, *others = measure.ranked
    beaten = measure.beaten()
    if len(beaten) == len(others):
        nearest = measure.gap(first, others[0])
        points = " percentage points" if measure.unit else ""
        if len(others) == 1:
            return f"clearly ahead of {others[0]}, by {nearest.size}{points}"
        return f"clearly ahead of all others, by {nearest.size}{points} or more"
    if not beaten:
        one = measure.gap(first, others[0]).low is None
        return "of which one seed cannot tell whether it is chance" if one else "but no other can be told from it"
    return f"clearly ahead of {words.listed(beaten)}, not of {words.listed(o for o in others if o not in beaten)}"


def learning_course(learning: Learning) -> str:
    """That the variant that leads at the end did not always, and since when it does; empty if it always did."""
    losses = [measures(learning, step)[0] for step in learning.study.snapshots]
    leader = losses[-1].ranked[0]
    start, *others = losses[0].ranked
    if start == leader:
        return ""
    last = " the last," if others[-1] == leader else ""
    gap = losses[0].gap(start, leader)
    behind = f"clearly behind {start} (by {gap.size})" if gap.clear else f"not to be told from {start}"
    since = next(i for i in range(len(losses)) if all(loss.ranked[0] == leader for loss in losses[i:]))
    told = f"its mean is the lowest from {_pictures(learning, since)} on"
    clear = [i for i in range(since, len(losses)) if len(losses[i].beaten()) == len(others)]
    if clear:
        told += f", clearly from {_pictures(learning, clear[0])} on" if clear[0] > since else ", and clearly"
    return f"It did not start so: after {_pictures(learning, 0)} pictures it is{last} {behind}; {told}."


def _step(measure: Measure, a: str, b: str) -> str:
    gap = measure.gap(a, b)
    points = " percentage points" if measure.unit else ""
    if gap.clear:
        return f"{a} is clearly ahead of {b} by {gap.size}{points}"
    if gap.low is None:
        size = words.significant(abs(gap.mean))
        return f"{a} is ahead of {b} by {size}{points}, from one seed" if gap.mean else f"{a} and {b} are level"
    return f"{a} and {b} cannot be told apart"


def _pictures(learning: Learning, snapshot: int) -> str:
    step = learning.study.snapshots[snapshot]
    return words.fixed(learning.of(learning.variants[0].name, step)[0].images, 0)


def mean_text(measure: Measure, variant: str) -> str:
    """A mean with as many digits as the spread over seeds supports, the same for all variants."""
    spreads = [(mean(v), min(v), max(v)) for v in measure.values.values()]
    wide = [spread for spread in spreads if spread[1] < spread[2]]
    places = min(words.decimals(*spread) for spread in wide) if wide else 3
    return f"{words.fixed(mean(measure.values[variant]), places)}{measure.unit}"


def measures(learning: Learning, step: int) -> list[Measure]:
    """The held-out loss and all scores of the trainings after a step, in this order."""

    def of(metric: Metric | None) -> dict[str, list[float]]:
        return {v.name: [learned(p, metric) for p in _by_seed(learning.of(v.name, step))] for v in learning.variants}

    found = [Measure(None, "held-out loss", "", of(None))]
    for metric, name in learning.metric_names.items():
        short = words.SHARES[metric][0] if metric in words.SHARES else name.split(" (")[0]
        found.append(Measure(metric, short, words.unit(metric), of(metric), metric in MORE_IS_BETTER))
    return found


def learned(point: Point, metric: Metric | None) -> float:
    """A point's score in the unit it is shown in; None asks for its loss."""
    return point.loss if metric is None else words.scaled(metric, point.scores[metric].value)


def _by_seed(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.seed)


def _spread(values: Sequence[float]) -> tuple[str, str]:
    """The mean, and the smallest and largest value where there are several."""
    low, high = min(values), max(values)
    if len(values) == 1:
        return words.significant(low, 3), ""
    places = words.decimals(mean(values), low, high) if len(values) > 1 and high > low else 3
    return words.fixed(mean(values), places), f"{words.fixed(low, places)} to {words.fixed(high, places)}"
