"""The engine on Ray: the numbers of the local one, whoever dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("ray", reason="the engine ray needs ray")

from ray import cloudpickle
from ray.cluster_utils import Cluster
from tests.study.conftest import cell_bytes

from difflab.core.noise import SeededNoise
from difflab.errors import DifflabError
from difflab.study.cluster import Ray
from difflab.study.engine import Done, Failure, Local, make_engine
from difflab.study.opening import open_benches
from difflab.study.run import Progress, run_benches, run_study
from difflab.study.spec import Study
from difflab.study.store import Store
from difflab.study.travel import pack, unpack
from difflab.zoo.load import load

_spec = importlib.util.spec_from_file_location("kills", Path(__file__).parents[2] / "benchmarks" / "kills.py")
assert _spec is not None
assert _spec.loader is not None
_kills = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_kills)


@pytest.fixture(scope="module")
def engine() -> Iterator[Ray]:
    """Two workers on this machine, started once."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    with Ray(workers=2) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As Ray's workers have: sums in another order differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Number:
    """A task."""

    value: int
    memory: int = 0
    gpu: bool = False


def _shifted(shift: list[int], task: Number) -> int:
    return task.value + shift[0]


def _odd_ones_fail(task: Number) -> int:
    if task.value % 2:
        raise RuntimeError(f"{task.value} is odd")
    return task.value


def _who(task: Number) -> int:
    return os.getpid()


def _dies_once(folder: Path, task: Number) -> int:
    if not (mark := folder / str(task.value)).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task.value


def _mistake(task: Number) -> int:
    raise DifflabError("the disk is full.")


def test_answers_name_their_tasks(engine: Ray) -> None:
    answers = list(engine.map(_shifted, map(Number, range(20)), [100]))
    assert {answer.task.value: answer.answer for answer in answers if isinstance(answer, Done)} == {
        n: n + 100 for n in range(20)
    }


def test_a_failure_is_an_answer(engine: Ray) -> None:
    answers = list(engine.map(_odd_ones_fail, map(Number, range(6))))
    failed = {answer.task.value: answer.message for answer in answers if isinstance(answer, Failure)}
    assert failed == {n: f"RuntimeError: {n} is odd" for n in (1, 3, 5)}


def test_a_mistake_ends_all_with_its_sentence(engine: Ray) -> None:
    with pytest.raises(DifflabError, match=r"^the disk is full\.$"):
        list(engine.map(_mistake, map(Number, range(100))))


def test_tasks_are_taken_as_they_come_up(engine: Ray) -> None:
    taken = []

    def tasks() -> Iterator[Number]:
        for n in range(50):
            taken.append(n)
            yield Number(n)

    answers = engine.map(_who, tasks())
    next(answers)
    assert len(taken) <= 6
    answers.close()


def test_a_worker_that_dies_costs_its_task_nothing(engine: Ray, tmp_path: Path) -> None:
    answers = list(engine.map(_dies_once, map(Number, range(3)), tmp_path))
    assert sorted(answer.answer for answer in answers if isinstance(answer, Done)) == [0, 1, 2]


def test_a_task_that_fits_no_machine_is_told(engine: Ray) -> None:
    with pytest.raises(DifflabError, match=r"needs 1 processors, 0 GPUs and 1000000\.0 GB, but no machine"):
        list(engine.map(_who, [Number(0, memory=10**15)]))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpus": 1000.0}, "gpus is 1000, but no machine of the cluster has more than 0"),
        ({"gpus": 1.5}, r"gpus is 1\.5, but a task takes"),
        ({"workers": 0}, "workers is 0, but at least one"),
        ({"workers": 2, "address": "auto"}, "leave workers out"),
        ({"workers": 2}, "Ray runs in this process already"),
    ],
)
def test_mistakes_are_one_sentence(engine: Ray, asked: dict, says: str) -> None:
    with pytest.raises(DifflabError, match=says):
        make_engine("ray", **asked)


def test_an_address_where_nobody_is_is_told_at_once() -> None:
    command = [
        sys.executable,
        "-m",
        "difflab",
        "study",
        "run",
        "ddim-steps",
        "--engine",
        "ray",
        "--address",
        "localhost:9",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr.startswith("difflab: localhost:9: no Ray cluster answers there (")


def test_other_engines_are_told() -> None:
    with pytest.raises(DifflabError, match="engine 'slurm' is not there; choose local or ray"):
        make_engine("slurm")
    with pytest.raises(DifflabError, match="workers is told, but the engine local"):
        make_engine("local", workers=2)


@pytest.mark.parametrize("name", ["shapes-unet2d", "shapes-dit", "shapes-unet3d", "shapes-t2i", "shapes-t2v"])
def test_models_travel_whole(name: str) -> None:
    model = load(name)
    model.codec, model.schedule  # noqa: B018 (opened, as they are before they are sent)
    if model.card.text is not None:
        model.text_encoder  # noqa: B018
    there = unpack(pack(model))
    assert there.card == model.card
    assert there.codec.passport() == model.codec.passport()
    ours, theirs = model.network.state_dict(), there.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].stride() == theirs[key].stride() for key in ours)


def test_what_arrives_is_on_the_device_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `meta` stands for a GPU here."""
    packed = pack(load("shapes-dit"))
    monkeypatch.setattr("difflab.study.travel.home", lambda: torch.device("meta"))
    monkeypatch.setattr("difflab.devices.home", lambda: torch.device("meta"))
    there = unpack(packed)
    assert there.device.type == "meta"
    assert {p.device.type for p in there.network.parameters()} == {"meta"}


def test_numbers_are_those_of_the_local_engine(
    study: Study, tmp_path: Path, engine: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run_study(study, tmp_path / "here", device="cpu", batch=10)
    seen: list[Progress] = []
    monkeypatch.chdir(tmp_path)  # where workers find relative paths, too
    there = run_study(study, "there", batch=10, engine=engine, watch=seen.append)
    assert [(row.key, row.scores) for row in there.rows] == [(row.key, row.scores) for row in here.rows]
    assert there.differences == here.differences
    assert there.floors == here.floors
    assert cell_bytes(tmp_path / "there") == cell_bytes(tmp_path / "here")
    assert max(p.done for p in seen) == study.base.count
    assert sum(p.scored for p in seen) == len(here.rows)


def test_studies_with_a_cell_in_common(study: Study, tmp_path: Path, engine: Ray) -> None:
    """Whose metrics differ, so that each writes a record of scores of its own."""
    one = study.model_copy(update={"axes": {"steps": [1, 2]}})
    other = study.model_copy(update={"name": "other", "axes": {"steps": [2, 4]}, "metrics": ("fid", "precision")})
    found = {}
    for name, worker in (("here", Local()), ("there", engine)):
        store = Store(tmp_path / name)
        benches = open_benches([(one, store), (other, store)], batch=10, device="cpu")
        found[name] = run_benches(benches, [tmp_path / name / "one", tmp_path / name / "other"], engine=worker)
        assert sorted(len(r.differences) for r in found[name]) == [1, 2]
    for here, there in zip(found["here"], found["there"], strict=True):
        assert [row.scores for row in here.rows] == [row.scores for row in there.rows]
        assert here.differences == there.differences


def test_chunks_of_any_size_have_the_same_samples(study: Study, tmp_path: Path, engine: Ray) -> None:
    """Start noise bit by bit, 8-bit samples alike, scores to 1e-6."""
    found = {}
    for chunk in (24, 10, 7, 3):
        asked = study.model_copy(update={"chunk": chunk, "keep": 24})
        result = run_study(asked, tmp_path / str(chunk), engine=engine)
        pictures = [Store(tmp_path / str(chunk)).at(row.key).pictures(24) for row in result.rows]
        found[chunk] = np.stack(pictures), np.array([row.scores["fid"].value for row in result.rows])
    whole, scores = found[24]
    for pictures, values in found.values():
        np.testing.assert_array_equal(pictures, whole)
        np.testing.assert_allclose(values, scores, rtol=1e-6)
    starts = [SeededNoise(0, rows, (3, 16, 16)).draw(0) for rows in (range(24), range(10), range(10, 24))]
    assert torch.equal(starts[0], torch.cat(starts[1:]))


def _until(driver: subprocess.Popen, out: Path, chunks: int) -> None:
    """Wait for so many chunks, of a driver that must not end before."""
    while len(list(out.glob("cells/*/chunk-*.npz"))) < chunks:
        assert driver.poll() is None
        time.sleep(0.05)


def test_killed_anywhere_it_ends_with_the_same_bytes(study: Study, tmp_path: Path) -> None:
    """A worker, then the driver; nothing that was there is written again. (`benchmarks/kills.py` kills raylets.)"""
    longer = study.model_copy(update={"base": study.base.model_copy(update={"count": 60}), "chunk": 3})
    longer = longer.model_copy(update={"axes": {"steps": [40, 60]}})
    path, out = tmp_path / "study.yaml", tmp_path / "killed"
    path.write_text(yaml.safe_dump(longer.model_dump(mode="json", exclude_none=True)))
    words = [sys.executable, "-m", "difflab", "study", "run", str(path), "--out", str(out), "--engine", "ray"]
    command = [*words, "--workers", "2", "--batch", "3"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(driver, out, 2)
    worker = _kills._find(driver.pid, "worker")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    _until(driver, out, 8)  # it goes on with another one
    driver.kill()
    driver.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/chunk-*.npz")}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}
    run_study(longer, tmp_path / "whole", device="cpu", batch=3)
    assert cell_bytes(out) == cell_bytes(tmp_path / "whole")


def test_a_machine_that_dies_is_done_without(study: Study, tmp_path: Path) -> None:
    """Three machines, one of them for the driver; one of the two that work dies under its tasks."""
    longer = study.model_copy(update={"base": study.base.model_copy(update={"count": 30}), "chunk": 3})
    longer = longer.model_copy(update={"axes": {"steps": [40, 60]}})
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(longer.model_dump(mode="json", exclude_none=True)))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        one, _ = machines.add_node(num_cpus=1), machines.add_node(num_cpus=1)
        words = [sys.executable, "-m", "difflab", "study", "run", str(path), "--out", str(out), "--batch", "3"]
        command = [*words, "--engine", "ray", "--address", machines.address]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        _until(driver, out, 4)
        machines.remove_node(one, allow_graceful=False)
        said = driver.communicate(timeout=240)[1]
    finally:
        machines.shutdown()
    assert driver.returncode == 0, said
    run_study(longer, tmp_path / "whole", device="cpu", batch=3)
    assert cell_bytes(out) == cell_bytes(tmp_path / "whole")
