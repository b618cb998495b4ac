"""What a finished study says: numbers with intervals, paired differences, how they were made. No torch here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from difflab import files
from difflab.places import Place, place
from difflab.study.spec import Metric, Scalar, Settings, Study
from difflab.study.store import CellStore

if TYPE_CHECKING:
    import pandas as pd

RESULT_FILE = "results.json"


class Score(BaseModel):
    """A number with its 95 % interval and the count of samples behind it.

    sets: over how many sets of n samples it is a mean; where there are several, another set's score lies in the
    interval, in 95 % of cases.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: int
    sets: int = 1


class Turn(BaseModel):
    """One chunk of a cell as it was drawn: in which run, so on which machine and in what batches, and the seconds of a
    sample. Chunks with one number and one run were drawn in one turn (see `study.run`)."""

    model_config = ConfigDict(frozen=True)

    run: str
    seconds: float


class Row(BaseModel):
    """One cell: its setting, scores and cost.

    seconds: of sampling alone, warm-up excluded, for the whole cell; seconds_per_sample: the median over its batches,
    so that a hiccup of the machine does not count; turns: its chunks, in order; calls: network calls a sample; error:
    one sentence when the cell failed, and then there are no scores; floors: what as many real samples of the cell's
    length score, where cells differ in that; command: what draws these samples again.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    settings: Settings
    varied: dict[str, Scalar]
    scores: dict[Metric, Score] = {}
    seconds: float = 0.0
    seconds_per_sample: float = 0.0
    turns: list[Turn] = []
    calls: int = 0
    floors: dict[Metric, Score] = {}
    command: str = ""
    error: str | None = None


class Difference(BaseModel):
    """score(b) - score(a) on common seeds, with its paired 95 % interval; `a` and `b` are keys of rows."""

    model_config = ConfigDict(frozen=True)

    metric: Metric
    a: str
    b: str
    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0.0 or self.high < 0.0


class Result(BaseModel):
    """A study with its numbers.

    metric_names: what each metric is called, for example fid -> "FD (shapes-image)"; passport: how the numbers were
    made, the same for every row; floors: by metric what as many real samples score as a cell has, drawn apart from the
    reference, where such are known: what a perfect model would get; machine: where they were made; notes: what a
    reader must know to read them; captions: what the samples kept as pictures were to show, in their order, where a
    model is told captions; root: the store's folder, so that pictures are found.
    """

    study: Study
    metric_names: dict[Metric, str]
    rows: list[Row]
    differences: list[Difference] = []
    passport: dict[str, Any] = {}
    floors: dict[Metric, Score] = {}
    machine: dict[str, Any] = {}
    notes: list[str] = []
    captions: list[str] = []
    root: Annotated[Place, BeforeValidator(place), PlainSerializer(str, when_used="json")]

    @property
    def path(self) -> Place:
        """The study's folder."""
        return self.root

    @property
    def table(self) -> pd.DataFrame:
        """One row a cell: the axes, each score with its interval, seconds, calls, key."""
        import pandas as pd

        return pd.DataFrame([self._flat(row) for row in self.rows])

    def _flat(self, row: Row) -> dict[str, Any]:
        flat: dict[str, Any] = dict(row.varied)
        for metric, name in self.metric_names.items():
            score = row.scores.get(metric)
            flat[name] = score.value if score else None
            flat[f"{name} low"] = score.low if score else None
            flat[f"{name} high"] = score.high if score else None
        return {
            **flat,
            "n": row.settings.count,
            "seconds": row.seconds,
            "seconds per sample": row.seconds_per_sample,
            "calls": row.calls,
            "key": row.key,
            "error": row.error,
        }

    def cell(self, row: Row) -> CellStore:
        """The folder of a row's cell, for its pictures."""
        return CellStore(self.root / "cells" / row.key)

    def save(self, folder: Place) -> None:
        """Write the record to `folder`; the store's own folder is not written down, so that it can be moved.

        Keys keep their order: the first axis of a study is the one that is plotted along.
        """
        files.write_text(folder / RESULT_FILE, self.model_dump_json(indent=2, exclude={"root"}) + "\n")


def read_result(folder: Place, root: Place) -> Result:
    """The record written by `Result.save`, for a store at `root`."""
    fields = json.loads(files.read_bytes(folder / RESULT_FILE))
    return Result(**fields, root=root)
