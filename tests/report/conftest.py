from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difflab.study.learning import Learning, Point, Variant, parse_learning
from difflab.study.result import Difference, Result, Row, Score, Turn
from difflab.study.spec import Scalar, Settings, Study
from difflab.study.store import Store

Place = tuple[Scalar, ...]


@pytest.fixture
def make_result(tmp_path: Path) -> Callable[..., Result]:
    """Builds a result from numbers: `values` maps each cell's place on the axes to its score, None for a failed cell.

    half: half width of each score's interval; paired: half width of each paired difference, None for no differences;
    seconds: of a cell, from its settings; turns: instead, of a sample in each chunk; pictures: kept samples a cell.
    """

    def build(
        axes: Mapping[str, list[Any]],
        values: Mapping[Place, float | None],
        *,
        name: str = "study",
        half: float = 0.1,
        paired: float | None = None,
        metric: Any = "fid",
        metric_name: str = "FD (shapes-image)",
        seconds: Callable[[Settings], float] = lambda settings: 0.0,
        turns: Callable[[Settings], list[float]] | None = None,
        pictures: int = 0,
        base: Settings | None = None,
    ) -> Result:
        base = base or Settings(count=100)
        study = Study(name=name, model="model", reference="data", axes=dict(axes), metrics=(metric,), base=base)
        rows = []
        for settings in study.cells():
            varied = study.varied(settings)
            cell = Store(tmp_path).cell(settings.model_dump())
            value = values[tuple(varied.values())]
            if pictures and value is not None:
                shade = np.full((pictures, 4, 4, 3), len(rows), np.uint8)
                cell.put_chunk(0, {"pictures": shade}, {"seconds": 1.0, "samples": 100})
            each = turns(settings) if turns else []
            median = float(np.median(each)) if each else seconds(settings) / settings.count
            scored = {} if value is None else {metric: Score(value=value, low=value - half, high=value + half, n=100)}
            rows.append(
                Row(
                    key=cell.key,
                    settings=settings,
                    varied=varied,
                    scores=scored,
                    seconds=0.0 if value is None else seconds(settings),
                    seconds_per_sample=0.0 if value is None else median,
                    turns=[Turn(run="one", seconds=seconds) for seconds in each],
                    calls=settings.steps,
                    command=f"difflab sample model --steps {settings.steps}",
                    error="The sampler gave NaN; raise steps." if value is None else None,
                )
            )
        differences = []
        good = [row for row in rows if not row.error]
        if paired is not None:
            for i, a in enumerate(good):
                for b in good[i + 1 :]:
                    change = b.scores[metric].value - a.scores[metric].value
                    differences.append(
                        Difference(
                            metric=metric, a=a.key, b=b.key, value=change, low=change - paired, high=change + paired
                        )
                    )
        return Result(
            study=study,
            metric_names={metric: metric_name},
            rows=rows,
            differences=differences,
            passport={"weights": {"sha256": "c0ffee"}},
            machine={"cpu": "two cores"},
            root=tmp_path,
        )

    return build


@pytest.fixture
def steps_result(make_result: Callable[..., Result]) -> Callable[..., Result]:
    """A study of steps 10, 20, 50 and so on, from their scores in order."""

    def build(*values: float | None, **options: Any) -> Result:
        steps = [10, 20, 50, 100, 200][: len(values)]
        return make_result({"steps": steps}, {(s,): v for s, v in zip(steps, values, strict=True)}, **options)

    return build


@pytest.fixture
def make_learning() -> Callable[..., Learning]:
    """Builds a study of trainings from each variant's losses: for every snapshot, one for every seed.

    fid: of a variant's samples, from its loss; more: fields of the study.
    """

    def build(
        losses: Mapping[str, list[list[float]]],
        fid: Callable[[str, float], float] = lambda name, loss: 100 * loss,
        **more: Any,
    ) -> Learning:
        seeds, snapshots = (list(range(len(x))) for x in (next(iter(losses.values()))[0], next(iter(losses.values()))))
        fields = {
            "kind": "learning", "name": "l", "recipe": {"batch": 10}, "variants": {name: {} for name in losses},
            "seeds": seeds, "snapshots": [100 * (i + 1) for i in snapshots], "reference": "shapes", **more,
        }  # fmt: skip
        study = parse_learning(fields, "l")
        points = [
            Point(
                variant=name, seed=seed, step=step, images=10 * step, loss=of_step[seed],
                scores={"fid": Score(value=fid(name, of_step[seed]), low=0, high=1, n=10)},
            )
            for name, of in losses.items()
            for step, of_step in zip(study.snapshots, of, strict=True)
            for seed in seeds
        ]  # fmt: skip
        variants = [Variant(name=name, parameters=1_000_000, macs=2_000_000) for name in losses]
        return Learning(study=study, metric_names={"fid": "FD (f)"}, variants=variants, points=points)

    return build
