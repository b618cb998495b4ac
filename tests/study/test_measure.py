"""Scores and statistics outside studies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difflab.data.shapes import Shapes
from difflab.errors import DifflabError
from difflab.score.statistics import load_statistics
from difflab.study.features import open_extractor
from difflab.study.measure import score, stats
from difflab.study.opening import open_benches
from difflab.study.presets import studies_of
from difflab.study.reference import Reference, is_statistics
from difflab.study.spec import key_of
from difflab.study.store import Store
from difflab.zoo.registry import shipped_statistics


def test_a_set_against_its_own_statistics_is_zero(parts: dict[str, str], tmp_path: Path) -> None:
    made = stats(parts["reference"], tmp_path / "own.npz", features=parts["tiny-features"])
    assert made.n == 64
    result = score("fid", parts["reference"], tmp_path / "own.npz", features=parts["tiny-features"])
    assert result.value == pytest.approx(0.0, abs=1e-6)
    assert result.metric == "FD (tiny-features)"


def test_pictures_and_their_statistics_score_alike(parts: dict[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", Shapes(size=16).batch(np.arange(100, 140))[0])
    stats(parts["reference"], tmp_path / "ref.npz", features=parts["tiny-features"])
    options = {"features": parts["tiny-features"], "replicates": 10}
    by_pictures = score("fid", tmp_path / "samples.npz", parts["reference"], **options)
    by_statistics = score("fid", tmp_path / "samples.npz", tmp_path / "ref.npz", **options)
    assert by_pictures.value == pytest.approx(by_statistics.value, rel=1e-9)
    assert by_pictures.value > 0


def test_broken_pictures_are_named_or_counted(parts: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(Shapes(size=16).batch(np.arange(30))[0]):
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    (folder / "017.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(DifflabError, match=r"017\.png"):
        score("fid", folder, parts["reference"], features=parts["tiny-features"])
    with pytest.warns(UserWarning, match="1 broken"):
        result = score("fid", folder, parts["reference"], features=parts["tiny-features"], skip_broken=True)
    assert result.n == 29


def test_unknown_metric_suggests() -> None:
    with pytest.raises(DifflabError, match="Did you mean 'fid'"):
        score("fidd", "a", "b")


def test_samples_must_be_pictures(parts: dict[str, str], tmp_path: Path) -> None:
    stats(parts["reference"], tmp_path / "s.npz", features=parts["tiny-features"])
    assert is_statistics(str(tmp_path / "s.npz"))
    assert not is_statistics(parts["reference"])
    with pytest.raises(DifflabError, match="must be pictures"):
        score("fid", tmp_path / "s.npz", parts["reference"])


def test_the_shipped_statistics_are_of_todays_world_and_features() -> None:
    """A thousand other scenes have the shipped mean: Hotelling's T^2 in 64 dimensions is about chi^2 with 64 degrees of
    freedom, mean 64 and deviation 11."""
    extractor, reference = open_extractor("shapes-image"), Reference("shapes", None, 32)
    path = shipped_statistics(key_of(reference.passport(extractor)))
    assert path is not None, "the world or the features changed: make the statistics again"
    mu, sigma = load_statistics(path).gaussian
    features = extractor(Shapes(seed=77).batch(np.arange(1000))[0])
    off = features.mean(0) - mu
    assert 1000 * off @ np.linalg.pinv(sigma) @ off < 64 + 8 * 11


def test_clips_of_the_demo_have_shipped_statistics(tmp_path: Path) -> None:
    """Of every length and view that its studies compare with, and none besides."""
    studies = studies_of("vdm", "demo")
    benches = open_benches([(study, Store(tmp_path)) for study in studies], device="cpu")
    needed = {
        key_of(bench.reference_of(bench.frames_of(cell), view).passport(bench.extractor_of(view)))
        for bench in benches
        for cell in bench.study.cells()
        for view in (None, *bench.views)
    }
    assert all(shipped_statistics(key) is not None for key in needed), (
        "the world or the features changed: make them again"
    )
    shipped = {path.stem for path in resources.files("difflab").joinpath("assets", "statistics").iterdir()}
    assert len(shipped - needed) == 1  # of scenes
