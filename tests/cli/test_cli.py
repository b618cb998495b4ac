"""The command line: a user's mistake is one sentence on stderr, exit code 2, and nothing left behind."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from difflab.cli import main
from difflab.cli.app import app
from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.families import FAMILIES, UNet2DConfig
from difflab.zoo.training_state import read_record, read_whole

TINY = UNet2DConfig(image_size=8, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
YAML = """
data: {dataset: CIFAR10, image_size: 8, channels: 3}
model: {ch: 32, ch_mult: [1], num_res_blocks: 1, attn_resolutions: [], ema: true, ema_rate: 0.9}
diffusion: {beta_schedule: linear, num_diffusion_timesteps: 1000}
training: {batch_size: 4, n_epochs: 1, n_iters: 2, snapshot_freq: 1}
sampling: {batch_size: 4}
optim: {lr: 0.001, grad_clip: 1.0}
"""


@pytest.fixture
def trainer_file(tmp_path: Path) -> Path:
    """exp/logs/run/ckpt.pth as the official trainer writes it, and tiny.yml beside it."""
    torch.manual_seed(0)
    state = FAMILIES["unet2d"].build(TINY).state_dict()
    path = tmp_path / "exp" / "logs" / "run" / "ckpt.pth"
    path.parent.mkdir(parents=True)
    torch.save([{f"module.{k}": v for k, v in state.items()}, {}, 1, 5000, state], path)
    (tmp_path / "tiny.yml").write_text(YAML)
    return path


def _run(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [str(a) for a in arguments])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def _official(trainer_file: Path, *arguments: object) -> Path:
    root = trainer_file.parents[3]
    _run(
        "ddim", "--config", root / "tiny.yml", "--exp", root / "exp", "--doc", "run", "--sample", "--ni",
        "--device", "cpu", *arguments,
    )  # fmt: skip
    return root / "exp" / "image_samples" / "images"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "difflab", "sample", "no-such-model", "--out", str(tmp_path / "x.npz")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("difflab: no-such-model")
    assert answer.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sampel"], "No such command 'sampel'"),
        (["sample", "shapes-unet2d", "--out", "x.npz", "-n", "0"], "Invalid value for '-n'"),
        (["sample", "shapes-unet2d", "--outt", "x.npz"], "see `difflab sample --help`."),
        (["models", "show", "a" * 300], "too long"),
        (["data", "show", "readme.txt/inside"], "readme.txt/inside: no such file"),
        (["report", "readme.txt"], "readme.txt"),
        (["stats", "shapes", "--out", "readme.txt/x.npz"], "a file stands where a folder is needed"),
        (["score", "fid", "shapes", "shapes", "--features", "shapes-imag"], "Did you mean 'shapes-image'?"),
        (["score", "fid", "shapes", "shapes", "--features", "inception"], "`difflab models fetch inception`"),
        (["sample", "shapes-unet2d", "--out", "x.png", "-n", "5000"], "up to 4,096 images"),
    ],
)
def test_whatever_is_typed_the_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "readme.txt").touch()
    monkeypatch.setattr(sys, "argv", ["difflab", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("difflab: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["readme.txt"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: the system says Permission denied"),
        (OSError(28, "No space left on device"), "the output: the system says No space left"),
        (MemoryError("Unable to allocate 7 TiB"), "the memory does not suffice (Unable to allocate 7 TiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "use a smaller --batch"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Exception, said: str
) -> None:
    def refuse(**_: object) -> None:
        raise raised

    monkeypatch.setattr("difflab.cli.app.app", refuse)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_prompt_without_an_answer_stops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(**_: object) -> None:
        raise typer.Abort

    monkeypatch.setattr("difflab.cli.app.app", ask)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "difflab: stopped.\n"


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("difflab.cli.app.app", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--steps", "1001"], "steps is 1001"),
        (["--eta", "-0.5"], "eta is -0.5"),
        (["--eta", "1.5"], "eta is 1.5"),
        (["--sampler", "dim"], "Did you mean 'ddim'"),
        (["--sampler", "ddpm", "--eta", "0.5"], "eta"),
        (["--spacing", "quadd"], "Did you mean 'quad'"),
        (["--device", "gpu7"], "gpu7"),
        (["--out", "samples.xyz"], "xyz"),
    ],
)
def test_wrong_settings_of_sample(
    trainer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DifflabError) as caught:
        _run("sample", trainer_file, "--config", tmp_path / "tiny.yml", "-n", 2, "--out", "s.npz", *arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "it-ran",)  # type: ignore[return-value]

    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps({"weights": Hostile()}))
    with pytest.raises(DifflabError):
        _run("sample", tmp_path / "bad.ckpt", "--config", "church.yml", "--out", tmp_path / "x.npz")
    assert not (tmp_path / "it-ran").exists()


def test_sample_writes_what_the_ending_says(trainer_file: Path, tmp_path: Path) -> None:
    common = ["sample", trainer_file, "--config", tmp_path / "tiny.yml", "-n", 5, "--steps", 2, "--batch", 2]
    _run(*common, "--out", tmp_path / "s.npz")
    pictures = np.load(tmp_path / "s.npz")["arr_0"]
    assert pictures.shape == (5, 8, 8, 3)
    _run(*common, "--out", tmp_path / "folder")
    for i, picture in enumerate(pictures):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "folder" / f"{i:06d}.png")), picture)
    _run(*common, "--out", tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").size == (3 * 10 + 2, 2 * 10 + 2)


def test_official_fid_goes_on_where_it_stopped(trainer_file: Path) -> None:
    flags = ["--fid", "--timesteps", 2, "--count", 5, "--batch", 2]
    folder = _official(trainer_file, *flags)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(whole) == {f"{i}.png" for i in range(5)} | {".run.json"}
    (folder / "3.png").unlink()
    kept = (folder / "1.png").stat().st_mtime_ns
    _official(trainer_file, *flags)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert (folder / "1.png").stat().st_mtime_ns == kept


def test_official_fid_does_not_mix_settings(trainer_file: Path) -> None:
    folder = _official(trainer_file, "--fid", "--timesteps", 2, "--count", 2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DifflabError, match="drawn with steps 2, not 5"):
        _official(trainer_file, "--fid", "--timesteps", 5, "--count", 4)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_official_settings_that_do_not_fit_touch_no_folder(trainer_file: Path) -> None:
    with pytest.raises(DifflabError, match="eta is 2"):
        _official(trainer_file, "--fid", "--timesteps", 2, "--count", 2, "--eta", 2)
    _official(trainer_file, "--fid", "--timesteps", 2, "--count", 2)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_record_of_an_official_run_is_named(trainer_file: Path, content: str) -> None:
    folder = _official(trainer_file, "--fid", "--timesteps", 2, "--count", 2)
    (folder / ".run.json").write_text(content)
    with pytest.raises(DifflabError, match=r"\.run\.json: this record of the run is damaged"):
        _official(trainer_file, "--fid", "--timesteps", 2, "--count", 2)


def test_official_quad_says_that_timesteps_repeat(trainer_file: Path, tmp_path: Path) -> None:
    output = _run(
        "sample", trainer_file, "--config", tmp_path / "tiny.yml", "-n", 1, "--steps", 50, "--spacing", "quad",
        "--official-grid", "--out", tmp_path / "s.npz",
    )  # fmt: skip
    assert "makes 50 network calls, 49 of them at different timesteps" in output.replace("\n", " ")


def test_official_training_is_sampled_from_by_the_same_command(
    trainer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Length from n_epochs and the number of pictures, seed from --seed, EMA off when the config says so."""
    monkeypatch.setenv("DIFFLAB_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "data" / "cifar10" / "train" / ("airplane" if i % 2 else "bird")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "tiny.yml").write_text(YAML.replace("ema: true", "ema: false"))
    common = ["ddim", "--config", tmp_path / "tiny.yml", "--exp", tmp_path / "exp", "--ni"]
    for doc, seed in (("a", 1), ("b", 2)):
        _run(*common, "--doc", doc, "--seed", seed)
    logs = tmp_path / "exp" / "logs"
    assert read_record(logs / "a" / "checkpoint")["step"] == 2, "one epoch of 6 pictures in batches of 4"
    tensors = logs / "a" / "checkpoint" / "0000002"
    network, averages = read_whole(tensors, "network."), read_whole(tensors, "ema.")
    assert all(torch.equal(network[name], value) for name, value in averages.items())
    other = read_whole(logs / "b" / "checkpoint" / "0000002", "network.")
    assert not torch.equal(other["conv_in.weight"], network["conv_in.weight"])
    _run(*common, "--doc", "a", "--sample", "--sequence", "--timesteps", 2)
    assert len(list((tmp_path / "exp" / "image_samples" / "images").glob("*.png"))) == 16
    with pytest.raises(DifflabError, match="not continue; choose another --doc"):
        _run(*common, "--doc", "run")


def test_a_trained_model_can_be_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from difflab.zoo.registry import find, publish

    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    recipe = (
        "name: little\ndata: {source: shapes, size: 8, flip: false}\nsteps: 1\nbatch: 2\n"
        "network: {image_size: 8, ch: 32, ch_mult: [1], num_res_blocks: 1, attn_resolutions: []}\n"
    )
    (tmp_path / "little.yaml").write_text(recipe)
    with pytest.raises(DifflabError, match=r"'fdsp' is not one of ddp or fsdp\. Did you mean 'fsdp'"):
        _run("train", tmp_path / "little.yaml", "--parallel", "fdsp")
    _run("train", tmp_path / "little.yaml", "--out", tmp_path / "run", "--parallel", "fsdp")
    assert find("little").path == tmp_path / "home" / "models" / "little.safetensors"
    assert "little" in _run("models", "show", "little")
    shadow = tmp_path / "shapes-unet2d.safetensors"
    shadow.write_bytes(b"not what ships")
    assert publish(shadow, "models") is None, "what ships cannot be shadowed"


def test_official_interpolation_ends_at_its_two_latents(trainer_file: Path, tmp_path: Path) -> None:
    folder = _official(trainer_file, "--interpolation", "--timesteps", 2)
    assert {path.name for path in folder.iterdir()} == {f"{i}.png" for i in range(11)}
    _run(
        "sample", trainer_file, "--config", tmp_path / "tiny.yml", "-n", 2, "--steps", 2, "--seed", 1234,
        "--out", tmp_path / "two.npz",
    )  # fmt: skip
    two = np.load(tmp_path / "two.npz")["arr_0"].astype(int)
    for picture, name in ((two[0], "0.png"), (two[1], "10.png")):
        assert np.abs(np.asarray(Image.open(folder / name)).astype(int) - picture).max() <= 1


def test_official_sequence_has_every_step_of_eight(trainer_file: Path) -> None:
    folder = _official(trainer_file, "--sequence", "--timesteps", 7, "--eta", 0.5)
    assert len(list(folder.iterdir())) == 8 * 8, "the official uniform grid for 7 of 1000 makes 8 calls"


def test_official_needs_one_mode(trainer_file: Path) -> None:
    with pytest.raises(DifflabError, match="exactly one"):
        _official(trainer_file)
    with pytest.raises(DifflabError, match="sample_type"):
        _official(trainer_file, "--fid", "--sample_type", "ddpm")


def test_study_runs_reports_and_knows_its_state(trainer_file: Path, tmp_path: Path) -> None:
    from difflab.score.features import SmallFeatures, SmallFeaturesConfig, save_small_features

    features = tmp_path / "f.safetensors"
    save_small_features(features, SmallFeatures(SmallFeaturesConfig(8, 8, {"a": 2})), "tiny")
    np.savez(tmp_path / "ref.npz", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8))
    study = tmp_path / "study.yaml"
    study.write_text(
        f"name: s\nmodel: {trainer_file}\nconfig: {tmp_path}/tiny.yml\nreference: {tmp_path}/ref.npz\n"
        f"features: {features}\nbase: {{count: 12}}\naxes: {{steps: [1, 2]}}\nreplicates: 10\n"
    )
    out = tmp_path / "run"
    assert "missing" in _run("study", "status", study, "--out", out)
    assert "12" in _run("study", "explain", study)
    assert "FD (tiny)" in _run("study", "run", study, "--out", out, "--device", "cpu")
    assert "done" in _run("study", "status", study, "--out", out)
    first = (out / "report" / "index.html").read_bytes()
    _run("report", out)
    assert (out / "report" / "index.html").read_bytes() == first
    assert (out / "report" / "report.md").exists()


def test_explain_says_what_is_fixed_and_what_trainings_cost() -> None:
    cells = _run("study", "explain", "dit-cfg")
    assert "held fixed: sampler ddim" in cells
    assert "note: " in cells
    assert "6 cells" in cells
    trainings = _run("study", "explain", "dit-conditioning")
    assert "1,278,752" in trainings
    assert "15 trainings of 3,000 steps of 32" in trainings


def test_what_would_be_ignored_is_refused_or_told(tmp_path: Path) -> None:
    with pytest.raises(DifflabError, match="--guidance-high does nothing while guidance is off"):
        _run("sample", "shapes-dit", "--guidance-high", "5", "--out", tmp_path / "a.png")
    for classes, told in (("20", True), ("balanced", False), ("random", False), ("red circle", False)):
        some = ("--classes", classes, "--steps", "2", "-n", "1", "--out", tmp_path / "a.png")
        assert ("Class 20 is 'no class'" in _run("sample", "shapes-dit", *some)) == told


def test_a_missing_reference_batch_is_told_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(
        DifflabError, match=r"ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled\.npz, or give its path"
    ):
        _run("score", "fid", "shapes", tmp_path / "VIRTUAL_imagenet256_labeled.npz")
    assert "VIRTUAL_imagenet512.npz" in _run("data")
    with pytest.raises(DifflabError, match=r"'admm' is not known.*adm"):
        _run("score", "admm", "shapes", "shapes")


def test_convert_and_show(trainer_file: Path, tmp_path: Path) -> None:
    config = ["--config", tmp_path / "tiny.yml"]
    _run("convert", trainer_file, tmp_path / "m.safetensors", *config)
    shown = [_run("models", "show", *source).splitlines()[-1] for source in ([trainer_file, *config], [tmp_path / "m.safetensors"])]  # fmt: skip # noqa: E501
    assert shown[0] == shown[1], "the hash of the weights does not depend on the format"


def test_card_says_what_a_file_was_taken_for() -> None:
    assert "unet2d" in Card(name="x", network=TINY, source="somewhere").summary()
