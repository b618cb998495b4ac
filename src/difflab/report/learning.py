"""What a study of trainings found: a line a variant, and sentences that claim no more than its seeds show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.special import stdtrit

from difflab.report import words
from difflab.report.curves import MORE_IS_BETTER
from difflab.study.learning import Learning, Point
from difflab.study.spec import Metric

_T = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}  # 97.5 % of Student's t


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
class _Measure:
    """A number of every training at its end: its name and unit, by variant its values in order of the seeds."""

    name: str
    unit: str
    values: dict[str, list[float]]
    more_is_better: bool = False


def learning_findings(learning: Learning) -> list[str]:
    """How the variants compare at the end, each with the first one, seed by seed."""
    last, first, *others = learning.study.snapshots[-1], *learning.variants
    images, seeds = words.fixed(learning.of(first.name, last)[0].images, 0), len(learning.study.seeds)
    sentences = []
    for measure in _measures(learning, last):
        values = measure.values
        order = sorted(values, key=lambda variant: mean(values[variant]), reverse=measure.more_is_better)
        ranked = words.listed(f"{words.significant(mean(values[v]), 3)}{measure.unit} with {v}" for v in order)
        sentences.append(f"After {images} pictures, the mean {measure.name} over {seeds} seeds is {ranked}.")
        told = [_against(first.name, other.name, values) for other in others]
        points = " in percentage points" if measure.unit else ""
        sentences.append(f"Differences of {measure.name} from {first.name}{points}, seed by seed: {'; '.join(told)}.")
    return sentences


def _measures(learning: Learning, step: int) -> list[_Measure]:
    def of(metric: Metric | None) -> dict[str, list[float]]:
        return {v.name: [learned(p, metric) for p in _by_seed(learning.of(v.name, step))] for v in learning.variants}

    found = [_Measure("held-out loss", "", of(None))]
    for metric, name in learning.metric_names.items():
        short = words.SHARES[metric][0] if metric in words.SHARES else name.split(" (")[0]
        found.append(_Measure(short, words.unit(metric), of(metric), metric in MORE_IS_BETTER))
    return found


def learned(point: Point, metric: Metric | None) -> float:
    """A point's score in the unit it is shown in; None asks for its loss."""
    return point.loss if metric is None else words.scaled(metric, point.scores[metric].value)


def _by_seed(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.seed)


def _against(base: str, other: str, values: dict[str, list[float]]) -> str:
    gaps = [b - a for a, b in zip(values[base], values[other], strict=True)]
    if len(gaps) < 2:
        return f"{other} {words.significant(mean(gaps))}, from one seed"
    half = float(stdtrit(len(gaps) - 1, 0.975)) * stdev(gaps) / math.sqrt(len(gaps))
    low, high = mean(gaps) - half, mean(gaps) + half
    places = words.decimals(mean(gaps), low, high)
    interval = f"[{words.fixed(low, places)}, {words.fixed(high, places)}]"
    return f"{other} {words.fixed(mean(gaps), places)} {interval}{'' if low > 0 or high < 0 else ', not clear'}"


def _spread(values: Sequence[float]) -> tuple[str, str]:
    """The mean, and the smallest and largest value."""
    low, high = min(values), max(values)
    places = words.decimals(mean(values), low, high) if len(values) > 1 and high > low else 3
    return words.fixed(mean(values), places), f"{words.fixed(low, places)} to {words.fixed(high, places)}"
