"""Samples beside the training samples nearest to them: what a result has of these, and what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from difflab.report import words
from difflab.study.result import Result, Row


@dataclass(frozen=True)
class Near:
    """What `study.memory` found for the samples of a row; see `Nearest` there."""

    row: Row
    pictures: np.ndarray
    distances: np.ndarray
    real: np.ndarray
    among: int

    @property
    def caption(self) -> str:
        """What is shown, and how near it is."""
        shown = "one window of each" if self.pictures.ndim == 5 else "each"
        text = (
            f"Samples, and below each the nearest of {words.fixed(self.among, 0)} training samples that were looked "
            f"through ({shown}), by the features, at distances of {_span(self.distances)}"
        )
        if not self.real.size:
            return f"{text}."
        return f"{text}. As many real samples that were not trained on lie at {_span(self.real)}."


def _span(distances: np.ndarray) -> str:
    """The least, the middle and the largest."""
    low, middle, high = (words.significant(float(x)) for x in np.quantile(distances, [0.0, 0.5, 1.0]))
    return f"{low} to {high} (median {middle})"


def near_training(result: Result) -> Near | None:
    """Of the row where they were looked for, the dearest one if there are several; None where none were."""
    for row in sorted(result.rows, key=lambda row: -row.calls):
        found = None if row.error or not result.study.nearest else result.cell(row).get_arrays("nearest")
        if found is not None and len(found["pictures"]) == result.study.nearest:
            return Near(row, found["pictures"], found["distances"], found["real"], int(found["among"]))
    return None
