"""The engine on Ray beside GPUs, of which Ray takes our word: there are none here."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the engine ray needs ray")

import ray
from ray import cloudpickle

from difflab.study.cluster import Ray
from difflab.study.engine import Done
from difflab.study.run import run_study
from difflab.study.spec import Study


@dataclass(frozen=True)
class Task:
    """One that says where it is done."""

    gpu: bool
    memory: int = 0


def _where(task: Task) -> tuple[bool, str]:
    return bool(ray.get_gpu_ids()), os.environ["OMP_NUM_THREADS"]


def test_scores_are_left_to_processors_beside_gpus(study: Study, tmp_path: Path) -> None:
    """What does not need a GPU has none, but threads; the scores are those of one thread to 1e-6."""
    few = study.model_copy(update={"axes": {"steps": [1, 2]}})
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with Ray(gpus=0.5) as engine:
            done = list(engine.map(_where, [Task(gpu=True), Task(gpu=False)]))
            there = run_study(few, tmp_path / "there", batch=10, engine=engine)
    finally:
        ray.shutdown()
    found = {answer.task.gpu: answer.answer for answer in done if isinstance(answer, Done)}
    assert found == {True: (True, "1"), False: (False, "2")}
    here = run_study(few, tmp_path / "here", batch=10, device="cpu")
    assert [row.scores["fid"].value for row in there.rows] == pytest.approx(
        [row.scores["fid"].value for row in here.rows], rel=1e-6
    )
