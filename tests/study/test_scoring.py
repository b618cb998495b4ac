from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from difflab.study.result import Row, Score
from difflab.study.scoring import Scored, differences
from difflab.study.spec import Settings


def cell(key: str, value: float, replicates: list[float], count: int = 100) -> Scored:
    score = Score(value=value, low=value, high=value, n=count)
    row = Row(key=key, settings=Settings(count=count), varied={}, scores={"fid": score})
    return Scored(row, [], {"fid": np.array(replicates)})


def test_a_difference_is_the_second_cell_less_the_first_and_so_are_its_replicates():
    """Fourteen draws drop the first cell by 1, six raise it by 2: skewed, so that their sign shows."""
    bench = SimpleNamespace(study=SimpleNamespace(metrics=("fid",)))
    skewed = np.repeat([-1.0, 2.0], [140, 60])
    (found,) = differences(bench, [cell("a", 5.0, skewed), cell("b", 3.0, np.zeros(200))])
    assert (found.a, found.b, found.value) == ("a", "b", -2.0)
    # Of b - a the replicates are 1 and -2, about a mean of 0.1: the interval is their reflection about -2.
    assert (found.low, found.high) == (pytest.approx(-2.0 - 0.9), pytest.approx(-2.0 + 2.1))


def test_cells_of_other_counts_are_not_compared():
    bench = SimpleNamespace(study=SimpleNamespace(metrics=("fid",)))
    assert differences(bench, [cell("a", 5.0, [1.0, 2.0]), cell("b", 3.0, [1.0, 2.0], count=50)]) == []
