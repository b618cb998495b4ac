from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from difflab.cli.app import app
from difflab.errors import DifflabError
from difflab.score.adm import Reference, Suite
from difflab.score.extractors import Taps, load_extractor
from difflab.score.fvd import frozen, with_ddof
from difflab.score.i3d import I3D, _padded, load_i3d, piergiaj, unpack_torchscript
from difflab.score.metrics import frechet
from difflab.score.scores import metric_name
from difflab.score.statistics import Statistics


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, small enough that signals survive 57 layers."""
    torch.manual_seed(0)
    state = {name: value * 1.5 if value.ndim == 5 else value for name, value in I3D().state_dict().items()}
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(state, path)
    return path


def test_features_of_clips_and_their_passport(weights):
    extractor = load_extractor("i3d", weights=weights)
    clips = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 24, 3), dtype=np.uint8)
    features = extractor(clips)
    assert features.shape == (2, 400)
    np.testing.assert_allclose(extractor(clips[1:]), features[1:], rtol=1e-4, atol=1e-5)
    passport = extractor.passport()
    assert (passport["convention"], passport["ddof"], passport["batch norm eps"]) == ("stylegan-v", 0, 1e-3)
    assert metric_name(passport, "fvd") == "FVD (stylegan-v)"
    assert load_extractor("i3d-tf", weights=weights).passport()["resize"] == "stretch-tf1"


@pytest.mark.parametrize("frames", [1, 6, 8])
def test_fewer_than_nine_frames_are_refused(weights, frames):
    with pytest.raises(
        DifflabError, match=f"at least 9 frames, since I3D has no answer for fewer; these have {frames}"
    ):
        load_i3d(weights)(torch.zeros(1, frames, 8, 8, 3, dtype=torch.uint8))


def test_what_is_no_i3d_is_told(weights, tmp_path):
    state = torch.load(weights)
    del state["Mixed_4b.b0.bn.weight"]
    torch.save(state, tmp_path / "part.pt")
    torch.save({**torch.load(weights), "logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, tmp_path / "k600.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name, words in (
        ("part.pt", "the weight Mixed_4b.b0.bn.weight is missing"),
        ("k600.pt", "no I3D of Kinetics-400"),
        ("script.pt", "is TorchScript, which is code"),
        ("text.pt", "cannot be read as a PyTorch state dict"),
        ("nothing.pt", "no such file"),
    ):
        with pytest.raises(DifflabError, match=words):
            load_i3d(tmp_path / name)
    with pytest.raises(DifflabError, match="no convention 'stylegan'"):
        I3D.with_weights(torch.load(weights), "stylegan")  # type: ignore[arg-type]


class Scripted(torch.nn.Module):
    """Weights by name, as modules that TorchScript can save."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for head in dict.fromkeys(name.split(".")[0] for name in state):
            below = {name.partition(".")[2]: value for name, value in state.items() if name.split(".")[0] == head}
            if "" in below:
                self.register_buffer(head, below[""])
            else:
                self.add_module(head, Scripted(below))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_weights_are_taken_out_of_torchscript_when_it_is_trusted(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))
    file, place = tmp_path / "i3d_torchscript.pt", tmp_path / "home" / "features" / "i3d_pretrained_400.pt"
    torch.jit.save(torch.jit.script(Scripted(torch.load(weights))), file)
    command = ["models", "unpack", str(file)]
    with pytest.raises(DifflabError, match="code of its author"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not place.exists()
    assert CliRunner().invoke(app, [*command, "--trust"], catch_exceptions=False).exit_code == 0
    clips = torch.randint(0, 256, (1, 9, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(load_i3d(place)(clips), load_i3d(weights)(clips))
    with pytest.raises(DifflabError, match="are there already"):
        CliRunner().invoke(app, [*command, "--trust"], catch_exceptions=False)
    other = tmp_path / "other.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), other)
    for odd, words in ((other, "this is no I3D"), (weights, "is no TorchScript")):
        with pytest.raises(DifflabError, match=words):
            unpack_torchscript(odd, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_padding_is_tensorflows_the_odd_one_comes_last():
    """Four values by a kernel of 3 and a stride of 2: two outputs, which need five."""
    padded = _padded(torch.ones(1, 1, 1, 1, 4), (1, 1, 3), (1, 1, 2))
    assert padded.flatten().tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(("convention", "eps"), [("stylegan-v", 1e-3), ("tf", 1e-3), ("videogpt", 1e-5)])
def test_norms_have_the_conventions_epsilon(convention, eps):
    """A variance of zero leaves 1 / sqrt(eps) as the scale of the weights."""
    state = I3D().state_dict()
    state["Conv3d_2b_1x1.bn.running_var"].zero_()
    folded = I3D.with_weights(state, convention).Conv3d_2b_1x1.conv3d.weight
    torch.testing.assert_close(folded, state["Conv3d_2b_1x1.conv3d.weight"] / eps**0.5)


def test_frozen_clips_show_their_middle_frame():
    clips = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(frozen(clips), [[2] * 5, [7] * 5])


def test_names_of_the_other_port():
    assert piergiaj("mixed_3b.branch_1.0.conv3d.weight") == "Mixed_3b.b1a.conv3d.weight"
    assert piergiaj("conv3d_1a_7x7.batch3d.running_var") == "Conv3d_1a_7x7.bn.running_var"
    assert piergiaj("conv3d_0c_1x1.conv3d.bias") == "logits.conv3d.bias"
    assert piergiaj("Mixed_5c.b3b.bn.weight") == "Mixed_5c.b3b.bn.weight"


def test_the_convention_decides_the_degrees_of_freedom():
    """With ddof 0 the score is the distance of covariances over n, on both sides."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5)) + 0.3
    passport = {"name": "i3d", "sha256": "x", "resize": "stretch", "convention": "stylegan-v", "ddof": 0}
    made = {"extractor": {"name": "i3d", "sha256": "x", "resize": "stretch"}}
    reference = Reference(Statistics(y.mean(0), np.cov(y.T), 30, made))
    score = Suite(Taps(x.astype(np.float32)), reference, passport, 5).score("fvd")
    expected = frechet((x.mean(0), np.cov(x.T, ddof=0)), (y.mean(0), np.cov(y.T, ddof=0)))
    assert score.value == pytest.approx(expected, rel=1e-4)
    assert with_ddof(x, 1) is x
