"""Trainings on two processes against the same on one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.train.spread import RECIPES, follow, recipe

import difflab
from difflab.errors import DifflabError
from difflab.score.features import load_small_features
from difflab.train.loop import STATE, Trainer
from difflab.train.run import snapshot_file, train
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.training_state import read_record

RESUMED = (("ddp", "dit"), ("fsdp", "dit"), ("fsdp", "muon"))  # stopped, and taken up again by another number
ALL = (
    *RESUMED,
    ("ddp", "features"),
    ("ddp", "clips"),
    *(("fsdp", name) for name in RECIPES if name not in ("dit", "muon")),
)


def torchrun(folder: Path, jobs: list[dict[str, Any]]) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port),
        str(Path(__file__).parent / "spread.py"), str(folder), json.dumps(jobs),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def job(name: str, way: str, to: str, *, resume: bool = False, save: int = 0) -> dict[str, Any]:
    return {"what": "follow", "recipe": name, "parallel": way, "to": to, "resume": resume, "save": save}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Every recipe's training in this process, which leave the state of step 3."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, {name: follow(name, folder / name, save=3) for name in RECIPES}


@pytest.fixture(scope="module")
def pair(alone, tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """All trainings on two processes, and what each of the two saw, by where the training lies."""
    folder = tmp_path_factory.mktemp("pair")
    jobs = [job(name, way, f"{way}-{name}", save=3) for way, name in ALL]
    for way, name in RESUMED:
        jobs.append(job(name, way, f"{way}-{name}-resumed", resume=True))
        shutil.copytree(alone[0] / name / STATE, folder / f"{way}-{name}-resumed" / STATE)
    trainings = {"fsdp-dit-train": "dit", "fsdp-features-train": "features", "fsdp-autoencoder-train": "autoencoder"}
    jobs += [{"what": "train", "recipe": name, "parallel": "fsdp", "to": to} for to, name in trainings.items()]
    process = torchrun(folder, jobs)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    (folder / "output").write_text(output)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def check_same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert list(found.values()) == pytest.approx([expected[step] for step in found], rel=2e-4)


@pytest.mark.parametrize(("way", "name"), ALL)
def test_two_processes_have_the_losses_and_data_of_one(alone, pair, way, name):
    one, seen = alone[1][name], [rank[f"{way}-{name}"] for rank in pair[1]]
    assert seen[0]["losses"] == seen[1]["losses"]
    assert len(seen[0]["losses"]) == 6
    check_same(seen[0]["losses"], one["losses"])
    check_same(seen[0]["norms"], one["norms"])
    for step, indices in one["indices"].items():
        assert [i for rank in seen for i in rank["indices"][step]] == indices


@pytest.mark.parametrize(("way", "name"), ALL)
def test_two_processes_end_with_the_weights_of_one(alone, pair, way, name):
    one = load_file(alone[0] / name / "end.safetensors")
    two = load_file(pair[0] / f"{way}-{name}" / "end.safetensors")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=3e-4, msg=key)


@pytest.mark.parametrize(("way", "name"), RESUMED)
def test_two_processes_go_on_with_what_one_has_saved(alone, pair, way, name):
    one, seen = alone[1][name], [rank[f"{way}-{name}-resumed"] for rank in pair[1]]
    assert list(seen[0]["losses"]) == ["4", "5", "6"]
    check_same(seen[0]["losses"], one["losses"])
    for step in ("4", "5", "6"):
        assert [i for rank in seen for i in rank["indices"][step]] == one["indices"][step]


@pytest.mark.parametrize(("way", "name"), RESUMED)
def test_one_process_goes_on_with_what_two_have_saved(alone, pair, tmp_path, way, name):
    state = pair[0] / f"{way}-{name}" / STATE
    assert len(list(state.glob("*/shard-*"))) == 2, "each wrote a part"
    shutil.copytree(state, tmp_path / STATE)
    seen, one = follow(name, tmp_path, resume=True), alone[1][name]
    assert list(seen["losses"]) == ["4", "5", "6"]
    check_same(seen["losses"], one["losses"])
    assert all(one["indices"][step] == indices for step, indices in seen["indices"].items())


@pytest.mark.parametrize(("name", "parts"), [("dit", 2), ("clips", 2), ("features", 1)])
def test_gradients_are_exchanged_once_a_step_however_many_parts_it_has(pair, name, parts):
    assert recipe(name).accumulate == parts
    assert [rank[f"ddp-{name}"]["exchanges"] for rank in pair[1]] == [6, 6], "networks of one bucket, six steps"


def test_shards_are_halves_of_the_state(pair):
    sizes = [path.stat().st_size for path in (pair[0] / "fsdp-dit" / STATE).glob("*/*")]
    assert max(sizes) < 0.6 * sum(sizes)


def test_models_and_pictures_of_shards_are_those_of_one_process(pair, tmp_path):
    """The files that `train` leaves: a snapshot, the model at the end, a grid of samples, features, an autoencoder."""
    folder = pair[0]
    end = train(recipe("dit", sample_every=6), tmp_path / "dit", snapshots=[2])
    of_two = folder / "fsdp-dit-train"
    for one, two in ((snapshot_file(end.parent, 2), snapshot_file(of_two, 2)), (end, of_two / end.name)):
        found, expected = difflab.load(two), difflab.load(one)
        assert found.card.training["hardware"].startswith("2 x")
        for key, value in expected.network.state_dict().items():
            torch.testing.assert_close(found.network.state_dict()[key], value, rtol=1e-3, atol=3e-4)
    grids = [np.asarray(Image.open(place / "samples" / "0000006.png"), int) for place in (end.parent, of_two)]
    assert abs(grids[0] - grids[1]).max() <= 2
    (_, one), (_, two) = (
        load_small_features(place / "features.safetensors")
        for place in (train(recipe("features"), tmp_path / "f").parent, folder / "fsdp-features-train")
    )
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, rtol=1e-3, atol=3e-4)
    scales = [
        open_autoencoder(str(place / "autoencoder.safetensors")).scale
        for place in (train(recipe("autoencoder"), tmp_path / "a").parent, folder / "fsdp-autoencoder-train")
    ]
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_a_process_killed_in_saving_leaves_the_state_before(tmp_path, alone):
    process = torchrun(tmp_path, [{"what": "die", "to": "dit"}])
    output, _ = process.communicate(timeout=120)
    assert "SIGKILL" in output
    state = tmp_path / "dit" / STATE
    assert read_record(state)["step"] == 2
    train(recipe("dit"), tmp_path / "dit", resume=True)
    assert sorted(path.name for path in state.iterdir()) == ["0000006", "state.json"]
    ended, whole = (
        load_file(path) for path in (tmp_path / "dit" / "dit.safetensors", alone[0] / "dit" / "end.safetensors")
    )
    for key, value in whole.items():
        torch.testing.assert_close(ended[key], value, rtol=1e-3, atol=3e-4, msg=key)


def test_ctrl_c_in_one_process_leaves_the_state_that_all_have_written(tmp_path):
    process = torchrun(tmp_path, [{"what": "interrupt", "to": "dit"}])
    output, _ = process.communicate(timeout=120)
    assert process.returncode
    assert "KeyboardInterrupt" in output
    assert read_record(tmp_path / "dit" / STATE)["step"] in (2, 4), "and its tensors are there whole"


def test_with_one_process_there_is_nothing_to_shard(alone, tmp_path):
    assert follow("dit", tmp_path, "fsdp") == alone[1]["dit"]


def test_parts_must_be_equal(tmp_path):
    from difflab.data.shapes import Shapes

    with pytest.raises(DifflabError, match="must be a multiple of accumulate"):
        Trainer(recipe("dit").model_copy(update={"batch": 7}), Shapes(16), tmp_path)
