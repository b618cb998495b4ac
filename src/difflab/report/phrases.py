"""Parts of sentences: a metric, a score, a place on an axis, the size of a change and what shows it."""

from __future__ import annotations

from difflab.report import words
from difflab.report.curves import Comparison, Curve
from difflab.study.result import Result, Row
from difflab.study.spec import Metric


def named(result: Result, metric: Metric) -> str:
    """A metric as the subject of a sentence: "FD", "the class accuracy"."""
    name = words.short(result, metric)
    return name if name.startswith(("FD", "FID", "FVD")) else f"the {name}"


def score_of(metric: Metric, row: Row) -> str:
    """A row's score with its interval: "4.67 [4.60, 4.74]"."""
    return " ".join(words.score_text(metric, row.scores[metric]))


def at(curve: Curve, row: Row) -> str:
    """Where on its curve a row stands: "50 steps"."""
    return words.setting(curve.along, row.varied[curve.along])


def size_of(metric: Metric, step: Comparison, evidence: bool) -> str:
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


def evidence_of(metric: Metric, step: Comparison) -> str:
    """What shows that a change is clear, or that it is not."""
    if step.low is None or step.high is None:
        return f"their 95\u00a0% intervals {'do not overlap' if step.clear else 'overlap'}"
    text = words.with_interval(*(words.scaled(metric, x) for x in (step.change, step.low, step.high)))
    if step.clear:
        return f"paired difference {text}"
    return f"the paired difference’s 95\u00a0% interval {text[text.index('[') :]} contains zero"
