"""`difflab dit`: the official flags, on the smallest published size and a tiny autoencoder of the usual form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import difflab
from difflab.cli.app import app
from difflab.errors import DifflabError
from difflab.zoo.families import FAMILIES, DiTConfig
from difflab.zoo.sizes import dit_size

pytest.importorskip("diffusers")
CLASSES = 10


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of DiT-S/8 and an autoencoder with factor 8."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("dit")
    torch.manual_seed(0)
    network = FAMILIES["dit"].build(DiTConfig(**dit_size("DiT-S/8"), num_classes=CLASSES))
    torch.save(network.state_dict(), folder / "small.pt")
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=2, **levels).save_pretrained(folder / "vae")
    return {"ckpt": folder / "small.pt", "vae": folder / "vae"}


def run(*arguments: object) -> str:
    answer = CliRunner().invoke(app, ["dit", *map(str, arguments)])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def told(parts: dict[str, Path]) -> list[object]:
    return ["--model", "DiT-S/8", "--num-classes", CLASSES, "--ckpt", parts["ckpt"], "--vae", parts["vae"]]


def test_sample_draws_eight_pictures_in_rows_of_four(parts, tmp_path):
    out = tmp_path / "sample.png"
    said = run("sample", *told(parts), "--num-sampling-steps", 2, "--device", "cpu", "--out", out)
    assert "8 pictures" in said
    with Image.open(out) as picture:
        assert picture.size == (4 * 258 + 2, 2 * 258 + 2)


def test_sample_ddp_leaves_one_npz_with_classes_under_the_official_name(parts, tmp_path):
    run(
        "sample_ddp", *told(parts), "--sample-dir", tmp_path, "--num-fid-samples", 3, "--num-sampling-steps", 2,
        "--per-proc-batch-size", 2, "--global-seed", 5, "--device", "cpu",
    )  # fmt: skip
    (path,) = tmp_path.iterdir()
    assert path.name == "DiT-S-8-small-size-256-vae-vae-cfg-1.5-seed-5-steps-2.npz"
    with np.load(path) as found:
        assert found["arr_0"].shape == (3, 256, 256, 3)
        assert found["arr_0"].dtype == np.uint8
        assert found["arr_1"].shape == (3,)
        assert set(found["arr_1"]) <= set(range(CLASSES))


def test_train_is_the_official_recipe_and_its_model_loads(parts, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.full((260, 300, 3), 90, np.uint8)).save(tmp_path / "data" / name / "0.png")
    run(
        "train", "--data-path", tmp_path / "data", "--results-dir", tmp_path / "results", "--model", "DiT-S/8",
        "--num-classes", 2, "--epochs", 1, "--global-batch-size", 2, "--vae", parts["vae"], "--ckpt-every", 1,
    )  # fmt: skip
    folder = tmp_path / "results" / "000-DiT-S-8"
    model = difflab.load(folder / "DiT-S-8.safetensors")
    recipe = model.card.training["recipe"]
    assert (recipe["optim"]["lr"], recipe["optim"]["grad_clip"], recipe["ema_rate"]) == (1e-4, None, 0.9999)
    assert (recipe["data"]["crop"], recipe["data"]["flip"], recipe["steps"]) == ("adm", True, 1)
    assert model.card.classes == ("a", "b")
    assert (folder / "checkpoint" / "state.json").exists()
    with pytest.raises(DifflabError, match="typo: there is no training to go on with"):
        run("train", "--data-path", tmp_path / "data", "--model", "DiT-S/8", "--num-classes", 2, "--vae", parts["vae"],
            "--global-batch-size", 2, "--resume", tmp_path / "typo")  # fmt: skip
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--image-size", 128], "--image-size is 128"),
        (["sample", "--model", "DiT-S/2"], "only DiT-XL/2 with 1000 classes was released"),
        (["sample", "--num-classes", 10], "only DiT-XL/2 with 1000 classes was released"),
        (["sample", "--model", "DiT-S/3", "--ckpt", "x.pt"], "not a published size"),
        (["train", "--data-path", "nowhere"], "nowhere: no such file"),
    ],
)
def test_what_cannot_be_is_told(arguments, words):
    answer = CliRunner().invoke(app, ["dit", *map(str, arguments)])
    assert answer.exit_code != 0
    assert words in str(answer.exception)
