"""What a paper found, set beside what was found here: tests of it, and a verdict by one rule that readers are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Literal

from difflab.report import words
from difflab.report.curves import Comparison, Curve, compare
from difflab.report.learning import Gap, Measure, mean_text
from difflab.report.phrases import at, evidence_of, named, score_of, size_of
from difflab.report.timing import NEAR, Fit, Ratio, fit_sentence, ratio_sentence
from difflab.study.learning import Learning
from difflab.study.result import Result, Row
from difflab.study.spec import Metric

Side = Literal["for", "against", "open"]
Verdict = Literal["agrees", "disagrees", "cannot be told", "not tried here"]
SIGNS: dict[Verdict, str] = {"agrees": "✓", "disagrees": "✗", "cannot be told": "?", "not tried here": "–"}
RULE = (
    "**How agreement is decided.** Each finding is put as one comparison or several. A comparison is for the finding "
    "if its 95 % interval lies wholly on the side where the paper’s does, against it if wholly on the other side, and "
    "open if it contains zero. The interval is that of the paired difference; of trainings, that of the mean gap over "
    "seeds; where no difference was computed, the two scores’ own intervals must be apart. Returns "
    "that fall (what a doubling of the steps gains between the first two settings and between the last two) and a gap "
    "that shrinks compare two such differences, whose intervals must be apart. “As long” and “in proportion” "
    "mean that the whole interval of the ratio is within a tenth of it. A finding agrees if all its comparisons are "
    "for it, disagrees if one is against it, and else cannot be told. What follows “Perhaps” is a guess that nothing "
    "here has tested."
)


@dataclass(frozen=True)
class Found:
    """What a chapter has to test findings on."""

    results: Sequence[Result]
    learnings: Sequence[Learning] = ()

    def result(self, name: str) -> Result | None:
        """The study of samples whose name ends so."""
        return next((result for result in self.results if result.study.name.endswith(name)), None)

    def learning(self, name: str) -> Learning | None:
        """The study of trainings whose name ends so."""
        return next((learning for learning in self.learnings if learning.study.name.endswith(name)), None)


@dataclass(frozen=True)
class Check:
    """One comparison: what was measured, in words, and on which side of the finding its interval lies."""

    measured: str
    side: Side


@dataclass(frozen=True)
class Claim:
    """A finding with its source and numbers, and the comparisons that it foretells.

    tests: none where nothing here bears on it; against, unclear: guesses why, for where it disagrees or cannot be told.
    """

    finding: str
    tests: Callable[[Found], list[Check]] = lambda found: []
    against: str = ""
    unclear: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim beside what was measured."""

    claim: Claim
    tests: list[Check]

    @property
    def verdict(self) -> Verdict:
        """By RULE: agrees if every test is for the claim, disagrees if one is against it, else cannot be told."""
        sides = {test.side for test in self.tests}
        if not sides:
            return "not tried here"
        return "disagrees" if "against" in sides else "cannot be told" if "open" in sides else "agrees"

    @property
    def guess(self) -> str:
        """Why it may be so, where it is not as the paper has it."""
        return {"disagrees": self.claim.against, "cannot be told": self.claim.unclear}.get(self.verdict, "")


def judged(claims: Sequence[Claim], found: Found) -> list[Judged]:
    """The claims in order. None at all where nothing in the chapter bears on any of them."""
    each = [Judged(claim, claim.tests(found)) for claim in claims]
    return each if any(one.tests for one in each) else []


def claims_table(each: Sequence[Judged]) -> str:
    """A Markdown table: the finding, what was measured here, the verdict with a guess."""
    lines = ["| what the paper found | what was found here | verdict |", "| :--- | :--- | :--- |"]
    for one in each:
        measured = " ".join(test.measured for test in one.tests) or "No study here bears on it."
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
    no test of fewer than three."""
    if len(curve.rows) < 3:
        return []
    early, late = (_a_doubling(result, metric, *curve.rows[pair]) for pair in (slice(0, 2), slice(-2, None)))
    where = f"At {words.settings(curve.setting)} a" if curve.setting else "A"
    gains = [
        f"{'gains' if step.better else 'loses'} {size_of(metric, step, evidence=True)} from {at(curve, rows[0])} on"
        for step, rows in ((early, curve.rows[:2]), (late, curve.rows[-2:]))
    ]
    return [Check(f"{where} doubling {gains[0]} and {gains[1]}.", larger(early, late))]


def _a_doubling(result: Result, metric: Metric, a: Row, b: Row) -> Comparison:
    """How the metric changes from a to b for each doubling of the steps between them."""
    step, times = compare(result, metric, a, b), log2(b.settings.steps / a.settings.steps)
    low, high = (None if end is None else end / times for end in (step.low, step.high))
    return Comparison(step.change / times, low, high, step.clear, step.better)


def larger(first: Comparison, second: Comparison) -> Side:
    """Whether the first change exceeds the second, in the first one's direction; open where intervals meet or lack."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return "open"
    sign = 1.0 if first.change > 0 else -1.0
    one, two = sorted((sign * first.low, sign * first.high)), sorted((sign * second.low, sign * second.high))
    return "for" if one[0] > two[1] else "against" if two[0] > one[1] else "open"


def linear(fit: Fit) -> Check:
    """That time is linear in network calls: against only where cells stand off the line by more than chance."""
    return Check(fit_sentence(fit), "for" if fit.linear else "open" if fit.straight else "against")


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
