from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from difflab.errors import DifflabError
from difflab.score.extractors import InceptionExtractor, SmallExtractor, load_extractor
from difflab.score.features import SmallFeatures, SmallFeaturesConfig, save_small_features
from difflab.score.inception import WEIGHTS_SHA256, InceptionFID
from difflab.score.scores import metric_name


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    save_small_features(path, SmallFeatures(SmallFeaturesConfig(width=8, dim=16)), "shapes-image")
    return path


@pytest.fixture
def extractor(weights: Path) -> SmallExtractor:
    return load_extractor("shapes-image", weights=weights)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_features_are_float32_rows_of_the_networks(extractor: SmallExtractor, images: np.ndarray) -> None:
    found = extractor(images)
    assert found.shape == (3, extractor.dim) == (3, 16)
    assert found.dtype == np.float32
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    np.testing.assert_allclose(found, extractor.network.features(channels_first).numpy(), rtol=1e-5, atol=1e-6)


def test_grey_pictures_count_as_equal_channels(extractor: SmallExtractor, images: np.ndarray) -> None:
    grey = images[..., :1]
    expected = extractor(np.repeat(grey, 3, axis=3))
    np.testing.assert_array_equal(extractor(grey), expected)
    np.testing.assert_array_equal(extractor(grey[..., 0]), expected)


def test_passport_names_the_file_by_its_hash(extractor: SmallExtractor, weights: Path) -> None:
    assert extractor.passport() == {
        "name": "shapes-image",
        "dim": 16,
        "resize": "bilinear_antialias_32",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "dtype": "float32",
    }


def test_fid_is_the_name_of_the_verified_weights_alone(extractor: SmallExtractor) -> None:
    assert metric_name({"name": "inception", "sha256": WEIGHTS_SHA256}) == "FID"
    assert metric_name({"name": "inception", "sha256": "0" * 64}) == "FD (inception)"
    assert metric_name({"name": "shapes-image", "sha256": WEIGHTS_SHA256}) == "FD (shapes-image)"
    assert metric_name(extractor.passport()) == "FD (shapes-image)"


def test_inception_answers_through_the_same_interface(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "weights.pth"
    torch.save(InceptionFID().state_dict(), path)
    extractor = load_extractor("inception", weights=path, check=False)
    assert isinstance(extractor, InceptionExtractor)
    assert extractor(images[:1]).shape == (1, extractor.dim) == (1, 2048)
    assert extractor.passport()["resize"] == "tf1_bilinear"
    assert metric_name(extractor.passport()) == "FD (inception)"
    with pytest.raises(DifflabError, match="SHA-256"):
        load_extractor("inception", weights=path)


def test_mistakes_get_one_sentence(weights: Path, extractor: SmallExtractor, images: np.ndarray) -> None:
    with pytest.raises(DifflabError, match="holds the features 'shapes-image', but 'other' were asked for"):
        load_extractor("other", weights=weights)
    with pytest.raises(DifflabError, match="float64"):
        extractor(images / 255)
    with pytest.raises(DifflabError, match=r"\(3, 32, 32, 4\)"):
        extractor(np.zeros((3, 32, 32, 4), np.uint8))
