"""Studies of models that are told classes: guidance as an axis, metrics of single points, truth of the class."""

from __future__ import annotations

import numpy as np
import pytest
from tests.study.conftest import cell_bytes
from tests.zoo.dits import tiny_dit

from difflab.data.shapes import CLASSES, recognise
from difflab.errors import DifflabError
from difflab.study.run import run_study
from difflab.study.spec import Study
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.draw import Draw, labels_of

pytestmark = pytest.mark.filterwarnings("ignore:FD:UserWarning")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    model = tiny_dit(input_size=32, patch_size=8, in_channels=3, num_classes=len(CLASSES), classes=CLASSES)
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(file, model.card, model.network.state_dict())
    return str(file)


def study(path: str, **changes) -> Study:
    fields = {
        "name": "cfg", "model": path, "reference": "shapes", "base": {"sampler": "ddpm", "steps": 3, "count": 12},
        "axes": {"guidance": [1.0, 3.0]}, "metrics": ["fid", "precision", "recall", "is", "accuracy", "kid"],
        "keep": 12, "chunk": 5, "replicates": 20,
    }  # fmt: skip
    return Study.model_validate({**fields, **changes})


def test_every_metric_has_a_value_and_an_interval_and_guidance_its_cost(path, tmp_path):
    result = run_study(study(path), tmp_path, device="cpu")
    assert [row.calls for row in result.rows] == [3, 6]
    for row in result.rows:
        assert row.scores.keys() == set(result.study.metrics)
        for name, score in row.scores.items():
            assert score.low <= score.value <= score.high, name
    assert result.metric_names["is"] == "IS (shapes-image)"
    assert {d.metric for d in result.differences} == {"fid", "precision", "is", "accuracy"}
    assert "--guidance 3" in result.rows[1].command
    assert result.passport["reference points"] == 10_000


def test_accuracy_is_what_the_checker_says_of_the_class_asked_for(path, tmp_path):
    result = run_study(study(path, metrics=["accuracy", "valid"]), tmp_path, device="cpu")
    row = result.rows[0]
    pictures, cell = result.cell(row).pictures(12), result.cell(row)
    seen = recognise(pictures)
    asked = labels_of(tiny_dit(num_classes=20), Draw(), 0, range(12)).numpy()
    assert np.array_equal(cell.gather("accuracy"), seen.valid & (seen.scenes.labels == asked))


def test_batches_and_kills_do_not_change_it(path, tmp_path):
    def stop(progress) -> None:
        if progress.done >= 10:
            raise KeyboardInterrupt

    run_study(study(path), tmp_path / "whole", device="cpu", batch=5)
    with pytest.raises(KeyboardInterrupt):
        run_study(study(path), tmp_path / "cut", device="cpu", batch=5, watch=stop)
    run_study(study(path), tmp_path / "cut", device="cpu", batch=5)
    assert cell_bytes(tmp_path / "cut") == cell_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": {"guidance_channels": [4]}, "base": {"guidance": 2.0}}, "cfg: .*4 guided channels"),
        ({"axes": {"steps": [1, 2]}, "base": {"sampler": "ddpm"}}, "cfg: steps is 1"),
        ({"axes": {"guidance": [-1.0]}}, r"greater than or equal to 0"),
        ({"axes": {"guidance_course": ["linaer"]}}, "guidance_course"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_drawn(path, tmp_path, changes, words):
    with pytest.raises((DifflabError, ValueError), match=words):
        run_study(study(path, **changes), tmp_path, device="cpu")
    assert not (tmp_path / "cells").exists()


def test_points_of_a_reference_without_pictures_are_missed_in_time(path, tmp_path):
    from difflab.study.measure import stats

    np.savez(tmp_path / "pictures.npz", np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), np.uint8))
    stats(str(tmp_path / "pictures.npz"), tmp_path / "stats.npz", features="shapes-image")
    told = {"reference": str(tmp_path / "stats.npz"), "features": "shapes-image", "metrics": ["fid", "recall"]}
    with pytest.raises(DifflabError, match="'recall' needs the reference's pictures"):
        run_study(study(path, **told), tmp_path / "run", device="cpu")
    run_study(
        study(path, **told, axes={"guidance": [1.0]}).model_copy(update={"metrics": ("fid",)}),
        tmp_path / "run",
        device="cpu",
    )
