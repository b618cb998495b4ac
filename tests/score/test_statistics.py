from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difflab.errors import DifflabError
from difflab.score.moments import Moments
from difflab.score.statistics import load_statistics, save_statistics


@pytest.fixture
def moments() -> Moments:
    return Moments.of(np.random.default_rng(0).normal(size=(50, 4)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reference.npz"


def test_round_trip_keeps_every_bit(moments: Moments, path: Path) -> None:
    passport = {"data": "shapes – train", "extractor": {"name": "shapes-image", "dim": 4}}
    save_statistics(path, moments, passport)
    found = load_statistics(path)
    np.testing.assert_array_equal(found.mu, moments.mean)
    np.testing.assert_array_equal(found.sigma, moments.cov())
    assert found.n == 50
    assert found.passport == passport
    assert found.mu_s is None


def test_equal_statistics_give_equal_bytes(moments: Moments, path: Path) -> None:
    save_statistics(path, moments, {"a": 1, "b": 2})
    first = path.read_bytes()
    save_statistics(path, moments, {"b": 2, "a": 1})
    assert path.read_bytes() == first


def test_other_tools_read_our_files(moments: Moments, path: Path) -> None:
    save_statistics(path, moments, {})
    with np.load(path, allow_pickle=False) as file:
        assert {"mu", "sigma"} <= set(file.files)
        assert file["sigma"].dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pytorch_fid_and_edm_layout(moments: Moments, path: Path, dtype: type) -> None:
    np.savez(path, mu=moments.mean.astype(dtype), sigma=moments.cov().astype(dtype))
    found = load_statistics(path)
    assert found.mu.dtype == found.sigma.dtype == np.float64
    assert (found.n, found.passport) == (None, None)
    np.testing.assert_array_equal(found.sigma, moments.cov().astype(dtype))


def test_adm_layout_also_gives_the_spatial_statistics(moments: Moments, path: Path) -> None:
    spatial = {"mu_s": np.arange(3.0), "sigma_s": np.eye(3)}
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez_compressed(path, images, mu=moments.mean, sigma=moments.cov(), **spatial)
    found = load_statistics(path)
    np.testing.assert_array_equal(found.mu_s, spatial["mu_s"])
    np.testing.assert_array_equal(found.sigma_s, spatial["sigma_s"])


BROKEN = {
    "samples without statistics": ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, "need the arrays 'mu' and 'sigma'"),
    "no sigma": ({"mu": np.zeros(3)}, "need the arrays"),
    "shapes apart": ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"'sigma' \(4, 4\)"),
    "swapped": ({"mu": np.eye(3), "sigma": np.zeros(3)}, "'mu' has shape"),
    "nan": ({"mu": np.array([0, np.nan]), "sigma": np.eye(2)}, "'mu' must hold finite floats"),
    "integers": ({"mu": np.zeros(2, int), "sigma": np.eye(2)}, "'mu' must hold finite floats"),
    "not symmetric": ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "no covariance"),
    "negative variance": ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "no covariance"),
    "pickled": ({"mu": np.array([None, {}]), "sigma": np.eye(2)}, "nothing in it was executed"),
    "no count": ({"mu": np.zeros(2), "sigma": np.eye(2), "n": 1}, "'n' must be one whole number"),
    "no JSON": ({"mu": np.zeros(2), "sigma": np.eye(2), "passport": "{"}, "'passport' is not JSON"),
    "no object": ({"mu": np.zeros(2), "sigma": np.eye(2), "passport": "[1]"}, "must be a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_contents_get_one_sentence(path: Path, name: str) -> None:
    arrays, message = BROKEN[name]
    np.savez(path, **arrays)
    with pytest.raises(DifflabError, match=message):
        load_statistics(path)


@pytest.mark.parametrize("keep", [0, 10, 200, -40])
def test_truncated_files_get_one_sentence(moments: Moments, path: Path, keep: int) -> None:
    save_statistics(path, moments, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DifflabError, match=r"reference\.npz: not a complete"):
        load_statistics(path)


def test_flipped_bytes_inside_are_noticed(moments: Moments, path: Path) -> None:
    np.savez_compressed(path, mu=moments.mean, sigma=moments.cov())
    content = bytearray(path.read_bytes())
    for position in range(60, 120):
        content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DifflabError, match=r"reference\.npz: not a complete"):
        load_statistics(path)


def test_other_files_get_one_sentence(path: Path) -> None:
    with pytest.raises(DifflabError, match="no such file"):
        load_statistics(path)
    path.write_text("mu, sigma")
    with pytest.raises(DifflabError, match="not a complete"):
        load_statistics(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DifflabError, match="a single array"):
        load_statistics(path)


def test_one_sample_leaves_no_file(path: Path) -> None:
    with pytest.raises(DifflabError, match="at least 2 samples"):
        save_statistics(path, Moments.of(np.zeros((1, 3))), {})
    assert not path.exists()
