from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from difflab.errors import DifflabError
from difflab.score.features import SmallFeatures, SmallFeaturesConfig, load_small_features, save_small_features

CONFIG = SmallFeaturesConfig(width=8, dim=16, heads={"kind": 4, "colour": 6})


@pytest.fixture
def network() -> SmallFeatures:
    torch.manual_seed(0)
    return SmallFeatures(CONFIG)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_shapes(network: SmallFeatures, images: torch.Tensor) -> None:
    assert network.features(images).shape == (5, 16)
    logits = network(network.prepare(images))
    assert {name: value.shape for name, value in logits.items()} == {"kind": (5, 4), "colour": (5, 6)}


def test_heads_are_linear_in_the_features(network: SmallFeatures, images: torch.Tensor) -> None:
    logits = network(network.prepare(images))["kind"]
    torch.testing.assert_close(network.heads["kind"](network.features(images)), logits)


def test_features_do_not_see_their_batch_or_the_mode(network: SmallFeatures, images: torch.Tensor) -> None:
    together = network.train().features(images)
    alone = torch.cat([network.eval().features(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_range_is_minus_one_to_one_and_other_sizes_are_resized(network: SmallFeatures) -> None:
    for level, expected in ((0, -1.0), (255, 1.0)):
        x = network.prepare(torch.full((1, 3, 50, 70), level, dtype=torch.uint8))
        torch.testing.assert_close(x, torch.full((1, 3, 32, 32), expected))


def test_shrinking_averages_instead_of_skipping_pixels(network: SmallFeatures) -> None:
    checks = ((torch.arange(128)[:, None] + torch.arange(128)) % 2 * 255).to(torch.uint8).expand(1, 3, -1, -1)
    assert network.prepare(checks).abs().max() < 0.05


def test_default_network_costs_less_than_30_mflop_a_picture() -> None:
    network = SmallFeatures(SmallFeaturesConfig(heads={"kind": 4}))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    assert 15e6 < counter.get_total_flops() < 30e6


def test_gradients_reach_every_weight(network: SmallFeatures, images: torch.Tensor) -> None:
    sum(value.square().sum() for value in network(network.prepare(images)).values()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_file_round_trip(network: SmallFeatures, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_small_features(path, network, "shapes-image")
    name, again = load_small_features(path)
    assert name == "shapes-image"
    assert again.config == CONFIG
    assert torch.equal(again.features(images), network.features(images))


def test_foreign_and_broken_files_get_one_sentence(network: SmallFeatures, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(DifflabError, match="no such file"):
        load_small_features(path)
    save_small_features(path, network, "x")
    whole = path.read_bytes()
    for content in (whole[:-100], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(DifflabError, match="not a complete safetensors file"):
            load_small_features(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DifflabError, match="not a feature network"):
        load_small_features(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"difflab": '{"kind": "unet2d"}'})
    with pytest.raises(DifflabError, match="holds a 'unet2d'"):
        load_small_features(path)


def test_float_images_are_refused(network: SmallFeatures) -> None:
    with pytest.raises(DifflabError, match="takes uint8"):
        network.features(torch.zeros(1, 3, 32, 32))
