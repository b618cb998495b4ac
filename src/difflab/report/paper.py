"""Table 1 of the DDIM paper (Song, Meng, Ermon, ICLR 2021), beside a result of ours.

Their features, data, grids and 50,000 samples differ from ours, so only the order of the settings compares. Ratios to
each table's own base, eta 0 at the most steps of both, make it visible; bias at a smaller n pulls ours towards 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from difflab.report import words
from difflab.report.curves import scored
from difflab.study.result import Result

STEPS = (10, 20, 50, 100)
TABLES: dict[str, dict[float, tuple[float, ...]]] = {
    "CIFAR-10, FID": {
        0.0: (13.36, 6.84, 4.67, 4.16),
        0.2: (14.04, 7.11, 4.77, 4.25),
        0.5: (16.66, 8.35, 5.25, 4.46),
        1.0: (41.07, 18.36, 8.01, 5.78),
    },
    "CelebA 64, FID": {
        0.0: (17.33, 13.73, 9.17, 6.53),
        0.2: (17.66, 14.11, 9.51, 6.79),
        0.5: (19.86, 16.06, 11.01, 8.09),
        1.0: (33.12, 26.03, 18.48, 13.93),
    },
}


@dataclass(frozen=True)
class Beside:
    """One eta: for each step count "value" and its ratio to the base, None where there is no number."""

    eta: str
    values: list[tuple[str, str] | None]


@dataclass(frozen=True)
class Source:
    """One table: ours, or one of the paper's."""

    name: str
    ours: bool
    lines: list[Beside]


@dataclass(frozen=True)
class PaperTable:
    """Tables side by side over common step counts; base: the setting that ratios refer to."""

    steps: list[int]
    base: str
    sources: list[Source]


def beside_paper(results: Sequence[Result]) -> PaperTable | None:
    """The result that shares most cells with Table 1, beside it; None if none shares two step counts and the base."""
    found = max((_ours(result) for result in results), key=len, default={})
    steps = [step for step in STEPS if (0.0, step) in found]
    if len(steps) < 2:
        return None
    etas = sorted({eta for eta, _ in found})
    name = next(result.metric_names["fid"] for result in results if _ours(result) == found)
    sources = [_source(f"this report, {name}", True, found, etas, steps)]
    for paper, table in TABLES.items():
        numbers = {(eta, step): row[STEPS.index(step)] for eta, row in table.items() for step in steps}
        sources.append(_source(f"the paper, {paper}", False, numbers, etas, steps))
    return PaperTable(steps, f"eta 0 at {steps[-1]} steps", sources)


def _ours(result: Result) -> dict[tuple[float, int], float]:
    cells: dict[tuple[float, int], float] = {}
    for row in scored(result, "fid"):
        place = (row.settings.eta, row.settings.steps)
        if (
            "spacing" not in row.varied
            and row.settings.sampler == "ddim"
            and place[0] in (0.0, 0.2, 0.5, 1.0)
            and place[1] in STEPS
        ):
            cells.setdefault(place, row.scores["fid"].value)
    return cells


def _source(
    name: str, ours: bool, numbers: dict[tuple[float, int], float], etas: list[float], steps: list[int]
) -> Source:
    base = numbers[0.0, steps[-1]]
    lines = []
    for eta in etas:
        row = [numbers.get((eta, step)) for step in steps]
        lines.append(
            Beside(
                words.plain(eta),
                [None if x is None else (words.significant(x, 3), f"×{words.significant(x / base)}") for x in row],
            )
        )
    return Source(name, ours, lines)
