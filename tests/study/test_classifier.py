"""Studies of models that a noisy classifier guides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.study.conftest import cell_bytes
from typer.testing import CliRunner

from difflab.cli.app import app
from difflab.errors import DifflabError
from difflab.nets.adm import NoisyClassifier
from difflab.study.memory import trained_cut
from difflab.study.opening import open_benches
from difflab.study.run import run_study
from difflab.study.spec import Study
from difflab.study.store import Store
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.families import FAMILIES, ADMConfig, DiTConfig

pytestmark = pytest.mark.filterwarnings("ignore:FD:UserWarning")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An unconditional model of 16 pixels and a classifier of three classes."""
    folder = tmp_path_factory.mktemp("guided")
    torch.manual_seed(0)
    config = ADMConfig(image_size=16, num_channels=32, num_res_blocks=1, channel_mult=(1,), attention_resolutions=())
    card = Card(name="tiny-adm", family="adm", network=config, variance="large", rounding="floor")
    save_checkpoint(folder / "tiny-adm.safetensors", card, FAMILIES["adm"].build(config).state_dict())
    network = NoisyClassifier(
        image_size=16, num_channels=64, num_res_blocks=1, channel_mult=(1,), attention_resolutions=(16,), num_classes=3
    )
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    torch.save(network.state_dict(), folder / "classifier.pt")
    return {"model": str(folder / "tiny-adm.safetensors"), "classifier": str(folder / "classifier.pt")}


def study(places: dict[str, str], parts: dict[str, str], **changes) -> Study:
    fields = {
        "name": "guided", **places, "reference": parts["reference"], "features": parts["tiny-features"],
        "base": {"steps": 2, "count": 6, "spacing": "respaced", "classes": "balanced"},
        "axes": {"classifier_scale": [0.0, 2.0], "eta": [0.0, 1.0]}, "keep": 6, "chunk": 4, "replicates": 20,
    }  # fmt: skip
    return Study.model_validate({**fields, **changes})


def keys(asked: Study, tmp_path) -> list[dict]:
    (bench,) = open_benches([(asked, Store(tmp_path / asked.name))], device="cpu")
    return [bench.decides(settings) for settings in asked.cells()]


def test_the_scale_is_an_axis_and_its_cells_are_drawn_again_by_their_commands(places, parts, tmp_path):
    result = run_study(study(places, parts), tmp_path / "run", device="cpu")
    assert [row.varied["classifier_scale"] for row in result.rows] == [0.0, 0.0, 2.0, 2.0]
    pictures = [result.cell(row).pictures(6) for row in result.rows]
    assert not np.array_equal(pictures[0], pictures[2])
    assert result.passport["classifier"]["name"] == "classifier"
    out = tmp_path / "again.npz"
    words = result.rows[2].command.split()
    assert words[-1] == "samples.npz"
    assert ["--classifier", places["classifier"], "--classifier-scale", "2"] == words[-10:-6]
    answer = CliRunner().invoke(app, [*words[1:-1], str(out), "--device", "cpu"])
    assert answer.exit_code == 0, answer.output
    with np.load(out) as file:
        assert np.abs(file["arr_0"].astype(int) - pictures[2]).max() <= 1
        assert file["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]


def test_the_classifier_is_in_the_key_only_where_it_guides(places, parts, tmp_path):
    guided = keys(study(places, parts), tmp_path)
    base = {"steps": 2, "count": 6, "spacing": "respaced"}
    plain = study(places, parts, name="plain", classifier=None, base=base, axes={"eta": [0.0, 1.0]})
    without = keys(plain, tmp_path)
    assert [("classifier" in key, "classifier_scale" in key["settings"]) for key in guided] == [
        (False, False), (False, False), (True, True), (True, True),
    ]  # fmt: skip
    assert all("classifier" not in key and "classifier_scale" not in key["settings"] for key in without)
    of_random = [key["settings"] | {"classes": "random"} for key in guided[:2]]
    assert of_random == [key["settings"] for key in without]


def test_kills_do_not_change_it(places, parts, tmp_path):
    def stop(progress) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    run_study(study(places, parts), tmp_path / "whole", device="cpu", batch=2)
    with pytest.raises(KeyboardInterrupt):
        run_study(study(places, parts), tmp_path / "cut", device="cpu", batch=2, watch=stop)
    run_study(study(places, parts), tmp_path / "cut", device="cpu", batch=2)
    assert cell_bytes(tmp_path / "cut") == cell_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classifier": "no-such-file.pt"}, "no-such-file.pt: no such file, nor a noisy classifier"),
        ({"classifier": "adm-classifier64"}, "adm-classifier64 is not on this machine"),
        ({"model": "shapes-unet2d"}, "draws samples 3x32x32, but the classifier classifier looks at 3x16x16"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_drawn(places, parts, tmp_path, monkeypatch, changes, words):
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DifflabError, match=words):
        run_study(study(places, parts, **changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "cells").exists()


def test_all_that_is_missing_is_named_at_once(places, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    asked = study(places, parts, model="adm-imagenet64", classifier="adm-classifier64")
    with pytest.raises(DifflabError) as caught:
        run_study(asked, tmp_path / "run", device="cpu")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[0]) == (3, "2 things are missing or wrong:")
    assert all(f"- {name} is not on this machine" in str(caught.value) for name in (asked.model, asked.classifier))


def test_a_scale_without_a_classifier_is_told_on_the_command_line(places, tmp_path):
    words = ["sample", places["model"], "--classifier-scale", "2", "-n", "1", "--steps", "2", "--device", "cpu"]
    with pytest.raises(DifflabError, match="classifier_scale is 2, but there is no classifier; give one"):
        raise CliRunner().invoke(app, [*words, "--out", str(tmp_path / "x.npz")]).exception
    assert not list(tmp_path.iterdir())


def test_references_are_cut_as_the_models_training_data_were():
    """ADM's code halves and then resizes by a bicubic filter; a card that knows its training decides itself."""
    card = Card(name="a", family="adm", network=ADMConfig(), variance="large")
    assert trained_cut(card, None) == (None, "adm")
    trained = card.model_copy(update={"training": {"recipe": {"data": {"source": "x", "crop": "stretch"}}}})
    assert trained_cut(trained, None) == (None, "stretch")
    trained = card.model_copy(update={"training": {"recipe": {"data": {"source": "x"}}}})
    assert trained_cut(trained, None) == (None, None)
    assert trained_cut(Card(name="d", family="dit", network=DiTConfig()), None) == (None, None)
