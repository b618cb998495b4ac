"""What a paper found, set beside what was found here: tests of it, and a verdict by one rule that readers are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Literal

from difflab.report import words
from difflab.report.curves import MORE_IS_BETTER, Comparison, Curve, compare
from difflab.report.learning import Gap, Measure, mean_text
from difflab.report.phrases import at, evidence_of, named, score_of, size_of
from difflab.report.timing import NEAR, Fit, Ratio, fit_sentence, ratio_sentence
from difflab.study.learning import Learning, LearningStudy
from difflab.study.result import Result, Row
from difflab.study.spec import Metric, Study

Interval = tuple[float, float]
Side = Literal["for", "against", "open"]
Verdict = Literal["agrees", "disagrees", "cannot be told", "not tried here"]
SIGNS: dict[Verdict, str] = {"agrees": "✓", "disagrees": "✗", "cannot be told": "?", "not tried here": "–"}
RULE = (
    "**How agreement is decided.** Each finding is put as one comparison or several. A comparison is for the finding "
    "if its 95 % interval lies wholly on the side of the paper’s difference, against it if wholly on the other side, "
    "and open if it contains zero. The interval is that of the paired difference; of trainings, that of the mean gap "
    "over seeds; where no difference was computed, the two scores’ own intervals must be apart. Nothing is "
    "corrected for the number of comparisons. Returns fall if a doubling of the steps gains more between the first two "
    "settings than between the last two; a loss is a gain below zero. A gap shrinks if the loss at the fewest steps is "
    "larger than the change at the most, of either sign. Both compare two paired differences, whose intervals must be "
    "apart. “As long” and “in proportion” mean that the whole interval of the ratio is within a tenth of it. Time is "
    "linear if a line explains 98 % of its variance and passes within a tenth of every cell, or within a fifth where "
    "the scatter of the cell’s chunks explains that; it is not if the line misses a cell by a tenth or more and "
    "scatter does not explain it; else that is open. A finding agrees if all its comparisons are "
    "for it, disagrees if one is against it, and else cannot be told. What follows “Perhaps” is a guess that nothing "
    "here has tested."
)


@dataclass(frozen=True)
class Found:
    """What a chapter has to test findings on."""

    results: Sequence[Result]
    learnings: Sequence[Learning] = ()


@dataclass(frozen=True)
class Check:
    """One comparison: what was measured, in words, and on which side of the finding its interval lies.

    explained: the words say why it is open, so that there is nothing to guess.
    """

    measured: str
    side: Side
    explained: bool = False


Foretold = Callable[[Found], list[Check]]


def in_samples(foretells: Callable[[Result], list[Check]], *names: str) -> Foretold:
    """What a finding foretells of every study of samples whose name ends in one of `names`."""

    def checks(found: Found) -> list[Check]:
        bearing = [result for name in names for result in found.results if result.study.name.endswith(name)]
        several = len({result.study.model for result in bearing}) > 1
        return _of_each([(r.study, f" with {r.study.model}" if several else "", foretells(r)) for r in bearing])

    return checks


def in_trainings(foretells: Callable[[Learning], list[Check]], name: str) -> Foretold:
    """What a finding foretells of every study of trainings whose name ends in `name`."""

    def checks(found: Found) -> list[Check]:
        bearing = [learning for learning in found.learnings if learning.study.name.endswith(name)]
        return _of_each([(learning.study, "", foretells(learning)) for learning in bearing])

    return checks


def _of_each(studies: Sequence[tuple[Study | LearningStudy, str, list[Check]]]) -> list[Check]:
    """The checks of all studies, each with its model where these differ: where several bear on a finding they are
    named, and where one has a note the reader is sent there."""
    bearing = [(study, model, checks) for study, model, checks in studies if checks]
    each: list[Check] = []
    for study, model, (first, *others) in bearing:
        if len(bearing) > 1:
            first = replace(first, measured=f"{study.name}{model}: {first.measured}")
        *before, last = first, *others
        if study.remark:
            last = replace(last, measured=f"{last.measured} (Read the note of {study.name}.)")
        each += [*before, last]
    return each


@dataclass(frozen=True)
class Claim:
    """A finding with its source and numbers, and the comparisons that it foretells.

    foretells: none where nothing here bears on it; against, unclear: guesses why, for where it disagrees or cannot be
    told.
    """

    finding: str
    foretells: Foretold = lambda found: []
    against: str = ""
    unclear: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim beside what was measured."""

    claim: Claim
    checks: list[Check]

    @property
    def verdict(self) -> Verdict:
        """By RULE: agrees if every check is for the claim, disagrees if one is against it, else cannot be told."""
        sides = {check.side for check in self.checks}
        if not sides:
            return "not tried here"
        return "disagrees" if "against" in sides else "cannot be told" if "open" in sides else "agrees"

    @property
    def guess(self) -> str:
        """Why it may be so, where it is not as the paper has it and the measured text does not say it."""
        if self.verdict == "cannot be told" and all(check.explained for check in self.checks if check.side == "open"):
            return ""
        return {"disagrees": self.claim.against, "cannot be told": self.claim.unclear}.get(self.verdict, "")


def judged(claims: Sequence[Claim], found: Found) -> list[Judged]:
    """The claims in order. None at all where nothing in the chapter bears on any of them."""
    each = [Judged(claim, claim.foretells(found)) for claim in claims]
    return each if any(one.checks for one in each) else []


def claims_table(each: Sequence[Judged]) -> str:
    """A Markdown table: the finding, what was measured here, the verdict with a guess."""
    lines = ["| what the paper found | what was found here | verdict |", "| :--- | :--- | :--- |"]
    for one in each:
        measured = " ".join(check.measured for check in one.checks) or "No study here bears on it."
        guess = f" *Perhaps {one.guess}*" if one.guess else ""
        cells = (one.claim.finding, measured, f"**{SIGNS[one.verdict]}\u00a0{one.verdict}.**{guess}")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def better(result: Result, metric: Metric, a: Row, b: Row) -> Check:
    """That row b scores better than row a."""
    step = compare(result, metric, a, b)
    return _between(result, metric, a, b, step, step.better)


def worse(result: Result, metric: Metric, a: Row, b: Row) -> Check:
    """That row b scores worse than row a."""
    step = compare(result, metric, a, b)
    return _between(result, metric, a, b, step, not step.better)


def _between(result: Result, metric: Metric, a: Row, b: Row, step: Comparison, expected: bool) -> Check:
    text = (
        f"{words.capital(named(result, metric))} is {score_of(metric, a)} at {words.settings(a.varied)} and "
        f"{score_of(metric, b)} at {words.settings(b.varied)} ({evidence_of(metric, step)})."
    )
    return Check(text, ("for" if expected else "against") if step.clear else "open")


def falling_returns(result: Result, metric: Metric, curve: Curve) -> list[Check]:
    """That a doubling of the steps gains more between the first two settings than between the last two of a curve;
    no check of fewer than three."""
    if len(curve.rows) < 3:
        return []
    early, late = (_a_doubling(result, metric, *curve.rows[pair]) for pair in (slice(0, 2), slice(-2, None)))
    where = f"At {words.settings(curve.setting)} a" if curve.setting else "A"
    gains = [
        f"{'gains' if step.better else 'loses'} {size_of(metric, step, evidence=True)} from {at(curve, rows[0])} on"
        for step, rows in ((early, curve.rows[:2]), (late, curve.rows[-2:]))
    ]
    return [Check(f"{where} doubling {gains[0]} and {gains[1]}.", larger(gain(metric, early), gain(metric, late)))]


def _a_doubling(result: Result, metric: Metric, a: Row, b: Row) -> Comparison:
    """How the metric changes from a to b for each doubling of the steps between them."""
    step, times = compare(result, metric, a, b), log2(b.settings.steps / a.settings.steps)
    low, high = (None if end is None else end / times for end in (step.low, step.high))
    return Comparison(step.change / times, low, high, step.clear, step.better)


def gain(metric: Metric, step: Comparison) -> Interval | None:
    """By how much a metric becomes better, below zero where it becomes worse; None of what is not paired."""
    if step.low is None or step.high is None:
        return None
    return (step.low, step.high) if metric in MORE_IS_BETTER else (-step.high, -step.low)


def larger(one: Interval | None, other: Interval | None) -> Side:
    """Whether one number exceeds the other; open where their intervals meet or one is lacking."""
    if one is None or other is None:
        return "open"
    return "for" if one[0] > other[1] else "against" if other[0] > one[1] else "open"


def shrinks(early: Interval | None, late: Interval | None) -> Side:
    """Whether a loss is larger than the later change of either sign. early, late: gains."""
    if early is None or late is None:
        return "open"
    size = (max(0.0, late[0], -late[1]), max(late[1], -late[0]))
    return larger((-early[1], -early[0]), size)


def linear(fit: Fit) -> Check:
    """That time is linear in network calls: against only where the line misses a cell by more than scatter explains."""
    return Check(fit_sentence(fit), "for" if fit.linear else "against" if fit.bent else "open")


def as_long(axis: str, ratio: Ratio, expected: float = 1.0) -> Check:
    """That one end of an axis takes `expected` times as long as the other, to within a tenth of that."""
    low, high = ratio.low / expected, ratio.high / expected
    inside, outside = low > 1 - NEAR and high < 1 + NEAR, high < 1 - NEAR or low > 1 + NEAR
    return Check(ratio_sentence(axis, ratio), "for" if inside else "against" if outside else "open")


def ahead(measure: Measure, a: str, b: str) -> Check:
    """That variant a is better than variant b at the end of training, over the seeds."""
    gap = measure.gap(a, b)
    sign = -1.0 if measure.more_is_better else 1.0
    side: Side = ("for" if sign * gap.mean > 0 else "against") if gap.clear else "open"
    means = f"{mean_text(measure, a)} with {a} and {mean_text(measure, b)} with {b}"
    return Check(f"{words.capital(measure.name)} is {means} ({_gap_text(gap)}).", side)


def _gap_text(gap: Gap) -> str:
    if gap.low is None or gap.high is None:
        return "one seed"
    return f"mean gap {words.with_interval(gap.mean, gap.low, gap.high)}"
