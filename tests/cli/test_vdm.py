"""`difflab vdm`, and clips at the command line."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import difflab
from difflab.cli.app import app
from difflab.data.writers import save_samples
from difflab.errors import DifflabError

CONTAINER = Path(__file__).parent.parent / "golden" / "vdm" / "trainer_container" / "model-1.pt"


def run(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [*map(str, arguments)])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


@pytest.fixture
def films(tmp_path: Path) -> Path:
    clips = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 8, 3), dtype=np.uint8)
    for i, clip in enumerate(clips):
        save_samples(tmp_path / "data" / f"{i}", clip)
    return tmp_path / "data"


def test_a_file_of_the_references_trainer_is_sampled(tmp_path):
    sizes = ["--image_size", 8, "--num_frames", 3, "--batch_size", 4]
    told = run("vdm", "sample", CONTAINER, *sizes, "--out", tmp_path / "c.gif")
    assert "cosine-9999 schedule of 16, ema weights" in told
    with Image.open(tmp_path / "c.gif") as film:
        assert film.n_frames == 3
    run("vdm", "sample", CONTAINER, "--timesteps", 4, *sizes[:2], "--num_frames", 5, "--out", tmp_path / "c.npz")
    assert np.load(tmp_path / "c.npz")["arr_0"].shape == (16, 5, 8, 8, 1)
    with pytest.raises(DifflabError, match="steps is 17, but must lie between 1 and the model's 16"):
        run("vdm", "sample", CONTAINER, "--timesteps", 17, "--out", tmp_path / "d.gif")


def test_a_folder_of_films_is_trained_on_by_the_references_names(films, tmp_path):
    options = ["--image_size", 8, "--num_frames", 4, "--dim", 8, "--dim_mults", "1,2", "--timesteps", 20,
               "--train_batch_size", 2, "--train_num_steps", 2, "--results_folder", tmp_path / "out"]  # fmt: skip
    run("vdm", "train", films, *options)
    model = difflab.load(tmp_path / "out" / "vdm.safetensors")
    assert (model.shape, model.schedule.timesteps) == ((3, 4, 8, 8), 20)
    for odd, words in (
        (["--dim_mults", "1,two"], "must be numbers"),
        (["--loss_type", "l3"], "'l3' is not one of l1 or l2"),
        (["--num_frames", 40], "none of 3 films has a clip of 40 frames"),
    ):
        with pytest.raises(DifflabError, match=words):
            run("vdm", "train", films, *options[:-1], tmp_path / "other", *odd)


def test_clips_begin_with_given_frames_and_go_on(films, tmp_path):
    model = [CONTAINER, "--config", "image_size=8,num_frames=4", "--sampler", "ddim", "--steps", 2]
    run("sample", *model, "--frames", 6, "-n", 2, "--out", tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (2, 6, 8, 8, 1)
    run("sample", *model, "-n", 1, "--extend", 11, "--overlap", 2, "--out", tmp_path / "b.npz")
    assert np.load(tmp_path / "b.npz")["arr_0"].shape == (1, 11, 8, 8, 1)
    with pytest.raises(DifflabError, match=r"given frames have shape \(3, 2, 8, 8\), but it draws \(1, 4, 8, 8\)"):
        run("sample", *model, "-n", 1, "--init-frames", films / "0", "--overlap", 2, "--out", tmp_path / "c.npz")
    with pytest.raises(DifflabError, match="overlap is 4, but must lie between 1 and 3"):
        run("sample", *model, "-n", 1, "--extend", 11, "--overlap", 4, "--out", tmp_path / "late.npz")
    assert not (tmp_path / "late.npz.parts").exists()
    with pytest.raises(DifflabError, match="these are the frames to begin with themselves"):
        run("sample", *model, "-n", 1, "--init-frames", films / "0", "--out", films / "0")
    with pytest.raises(DifflabError, match="is a model of pictures, which have no frames"):
        run("sample", "shapes-unet2d", "--frames", 4, "--out", tmp_path / "d.npz")
    with pytest.raises(DifflabError, match="a clip has at least one"):
        run("sample", *model, "--frames", 0, "--out", tmp_path / "e.npz")
    for options, words in (
        (["--extend", 11, "--overlap", 4], "overlap is 4, but must lie between 1 and 3"),
        (["--overlap", 2], "--overlap does nothing where no frames are known"),
        (["--reconstruction", 2], "--reconstruction does nothing"),
    ):
        with pytest.raises(DifflabError, match=words):
            run("sample", *model, "-n", 1, *options, "--out", tmp_path / "g.npz")
    with pytest.raises(DifflabError, match="are pictures, which do not play"):
        run("sample", "shapes-unet2d", "--out", tmp_path / "h.gif")
    with pytest.raises(DifflabError, match="percentile is 2"):
        run("sample", *model, "--percentile", 2, "--out", tmp_path / "f.npz")


def test_films_are_shown_without_what_is_for_pictures(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert "1 films, 0 of them broken" in run("data", "show", tmp_path)
    with pytest.raises(DifflabError, match="holds films, which --grid, --size and --skip-broken are not for"):
        run("data", "show", tmp_path, "--grid", tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()
