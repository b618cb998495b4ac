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
        found = words.significant(float(np.median(self.distances)), 2)
        among = f"the nearest of {words.fixed(self.among, 0)} training samples, by the features"
        text = f"Samples, and below each {among}; their median distance is {found}"
        if not self.real.size:
            return f"{text}."
        real = words.significant(float(np.median(self.real)), 2)
        return f"{text}, that of as many real samples which were not trained on {real}. Much less would be copying."


def near_training(result: Result) -> Near | None:
    """Of the row where they were looked for; None where none were."""
    for row in result.rows:
        if not row.error and (found := result.cell(row).get_arrays("nearest")) is not None:
            return Near(row, found["pictures"], found["distances"], found["real"], int(found["among"]))
    return None
