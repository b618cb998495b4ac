"""What a second knob does to the first: eta at few and at many steps, one sampler beside another. Sentences."""

from __future__ import annotations

from itertools import combinations

from difflab.report import words
from difflab.report.curves import Comparison, Curve, best, compare, curves, numeric, scored
from difflab.report.phrases import at, evidence_of, named, score_of, size_of
from difflab.study.result import Result, Row
from difflab.study.spec import Metric, Scalar

FEW = 3  # names that are compared in pairs, curves that are told one by one


def contrast(result: Result, metric: Metric, evidence: bool = True) -> str | None:
    """What the first axis does at the two ends of the second, for example eta at few and at many steps.

    evidence: say the interval of a clear effect too. None unless the study has exactly two axes of numbers, with two
    or more values of the second at which all of the first have scores.
    """
    found = ends(result, metric)
    if found is None:
        return None
    few, many, small, large = found
    at_few, at_many = (f"at {words.settings(line.setting)}" for line in (few, many))
    start = f"Going from {at(few, few.rows[0])} to {at(few, few.rows[-1])}"
    name = named(result, metric)
    if small.clear and large.clear and small.better == large.better:
        verb = "improves" if small.better else "worsens"
        less, more = (size_of(metric, step, evidence) for step in (small, large))
        return f"{start} {verb} {name} by {less} {at_few} and by {more} {at_many}.{_ratio(few, many, small, large)}"
    effects = [_effect(metric, step, evidence) for step in (small, large)]
    return f"{start} {effects[0].format(name)} {at_few} and {effects[1].format('it')} {at_many}."


def ends(result: Result, metric: Metric) -> tuple[Curve, Curve, Comparison, Comparison] | None:
    """The curves along the first axis at the least and the largest value of the second, and from end to end of each
    how the metric changes; None where `contrast` is."""
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
    return few, many, small, large


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
    if len(names) > FEW:
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
        f"At {words.setting(along, place)} {named(result, metric)} is best with {words.plain(top.varied[other])}, "
        f"{score_of(metric, top)}"
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
            better[key].append(f"{words.setting(along, place)} ({size_of(metric, step, evidence=True)})")
    name = named(result, metric)
    parts = [
        f"{name} is clearly better with {words.plain(one)} than with {words.plain(two)} at {words.listed(better[key])}"
        for key, one, two in (("first", a, b), ("second", b, a))
        if better[key]
    ]
    if better["neither"]:
        places = words.listed(text.split(" (")[0] for text in better["neither"])
        parts.append(f"at {places} {words.plain(a)} and {words.plain(b)} cannot be told apart by {name}")
    return words.capital("; ".join(parts)) + "."


def _effect(metric: Metric, step: Comparison, evidence: bool) -> str:
    """A verb phrase with a place for the metric's name."""
    if not step.clear:
        return f"does not change {{}} clearly ({evidence_of(metric, step)})"
    return f"{'improves' if step.better else 'worsens'} {{}} by {size_of(metric, step, evidence)}"


def _ratio(few: Curve, many: Curve, small: Comparison, large: Comparison) -> str:
    """How many times larger one effect is, where paired intervals show that it is larger."""
    if small.low is None or small.high is None or large.low is None or large.high is None:
        return ""
    if small.high >= large.low and large.high >= small.low:
        return ""
    ratio = abs(small.change / large.change)
    factor, place = (ratio, few) if ratio > 1 else (1 / ratio, many)
    return f" The effect is {words.significant(factor)} times as large at {words.settings(place.setting)}."
