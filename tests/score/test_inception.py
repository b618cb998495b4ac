from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from difflab.errors import DifflabError
from difflab.score import inception
from difflab.score.inception import InceptionFID, load_inception

ALL_TAPS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "spatial": 2023, "logits_unbiased": 1008, "logits": 1008}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights under which signals neither fade nor explode; norms that really shift and scale."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in InceptionFID().state_dict().items()}

    def draw(key: str, shape: torch.Size) -> Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.zeros((), dtype=torch.long)
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return values * 1.5 / shape[1:].numel() ** 0.5
        if key.endswith("running_var"):
            return values.abs() + 0.5
        return 0.1 * values + (1.0 if key.endswith("weight") else 0.0)

    return {key: draw(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> InceptionFID:
    return InceptionFID.with_weights(state)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 24, 31)).astype(np.uint8))


@pytest.fixture(scope="module")
def features(network: InceptionFID, images: Tensor) -> dict[str, Tensor]:
    return network(images, tuple(ALL_TAPS))


def test_state_dict_has_the_566_names_of_the_published_file(state: dict[str, Tensor]) -> None:
    assert len(state) == 566
    assert sum(value.numel() for key, value in state.items() if not key.endswith("tracked")) == 23_885_392
    assert state["Mixed_7b.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)


def test_taps_have_their_widths(features: dict[str, Tensor]) -> None:
    assert {tap: value.shape for tap, value in features.items()} == {tap: (2, width) for tap, width in ALL_TAPS.items()}


def test_only_the_taps_asked_for_come_back_and_they_are_the_same(
    network: InceptionFID, images: Tensor, features: dict[str, Tensor]
) -> None:
    found = network(images, ("64", "spatial"))
    assert set(found) == {"64", "spatial"}
    for tap, value in found.items():
        torch.testing.assert_close(value, features[tap])


def test_folding_the_norms_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor], images: Tensor, features: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(inception.Unit, "fold", lambda unit: None)
    unfolded = InceptionFID.with_weights(state)(images[:1])["2048"]
    torch.testing.assert_close(features["2048"][:1], unfolded, rtol=2e-4, atol=2e-5)


def test_logits_differ_by_the_bias(state: dict[str, Tensor], features: dict[str, Tensor]) -> None:
    bias = (features["logits"] - features["logits_unbiased"])[0]
    torch.testing.assert_close(bias, state["fc.bias"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features["logits_unbiased"], features["2048"] @ state["fc.weight"].T)


def test_spatial_features_run_over_rows_then_columns_then_channels(network: InceptionFID, images: Tensor) -> None:
    seen: list[Tensor] = []
    with torch.no_grad():
        hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
        spatial = network(images[:1], ("spatial",))["spatial"]
        hook.remove()
    one_by_one = [seen[0][0, channel, row, column] for row in range(17) for column in range(17) for channel in range(7)]
    assert spatial[0].tolist() == [value.item() for value in one_by_one]
    assert spatial.unique().numel() > 100, "all zero would hide a wrong order"


def test_a_picture_does_not_see_its_batch(network: InceptionFID, images: Tensor, features: dict[str, Tensor]) -> None:
    torch.testing.assert_close(network(images[1:])["2048"], features["2048"][1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("resize", "black", "white"), [("tf1_bilinear", -1, 127 / 128), ("torch_bilinear", -1, 1)])
def test_range_of_the_input_belongs_to_the_resize(
    network: InceptionFID, monkeypatch: pytest.MonkeyPatch, resize: str, black: float, white: float
) -> None:
    monkeypatch.setattr(network, "resize", resize)
    for level, expected in ((0, black), (255, white)):
        x = network.prepare(torch.full((1, 3, 40, 40), level, dtype=torch.uint8))
        torch.testing.assert_close(x, torch.full((1, 3, 299, 299), float(expected)))


def test_norms_have_the_originals_epsilon() -> None:
    """A variance of zero leaves 1 / sqrt(0.001) as the scale."""
    unit = inception.Unit(1, 1, 1).eval()
    torch.nn.init.ones_(unit.conv.weight)
    unit.bn.running_var.zero_()
    with torch.no_grad():
        assert unit(torch.ones(1, 1, 1, 1)).item() == pytest.approx(0.001**-0.5)


def test_average_pools_do_not_count_their_padding() -> None:
    pooled = inception._average(torch.ones(1, 1, 4, 4))
    assert torch.equal(pooled, torch.ones(1, 1, 4, 4))


def test_the_last_block_pools_with_a_maximum(network: InceptionFID) -> None:
    assert (network.Mixed_7b.pool, network.Mixed_7c.pool) == ("average", "max")


def test_float_images_and_unknown_taps_are_refused(network: InceptionFID, images: Tensor) -> None:
    with pytest.raises(DifflabError, match="takes uint8"):
        network(images.float())
    with pytest.raises(DifflabError, match=r"\(B, 3, H, W\)"):
        network(images[:, :1])
    with pytest.raises(DifflabError, match="Did you mean '2048'"):
        network(images, ("204",))


def test_file_without_counters_is_accepted(
    state: dict[str, Tensor], images: Tensor, features: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, path)
    found = load_inception(path, check=False)(images, ("192",))["192"]
    torch.testing.assert_close(found, features["192"])


def test_other_bytes_than_the_published_are_refused(tmp_path: Path) -> None:
    path = tmp_path / inception.WEIGHTS_FILE
    path.write_bytes(b"something else")
    with pytest.raises(DifflabError, match="SHA-256"):
        load_inception(path)


def test_files_that_hold_no_tensors_are_refused_and_not_executed(tmp_path: Path) -> None:
    path, witness = tmp_path / "weights.pth", tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (witness,)

    for content in (pickle.dumps(Bomb(), protocol=2), b"", b"text", pickle.dumps({"a": 1}, protocol=2)):
        path.write_bytes(content)
        with pytest.raises(DifflabError, match=r"weights\.pth: (cannot be read|holds something else)"):
            load_inception(path, check=False)
    assert not witness.exists()
    with pytest.raises(DifflabError, match="no such file"):
        load_inception(tmp_path / "absent.pth")


def test_wrong_tensors_are_named(state: dict[str, Tensor]) -> None:
    with pytest.raises(DifflabError, match=r"1 missing \(first 'fc\.bias'\)"):
        InceptionFID.with_weights({key: value for key, value in state.items() if key != "fc.bias"})
    with pytest.raises(DifflabError, match=r"1 unknown \(first 'AuxLogits\.fc\.bias'\)"):
        InceptionFID.with_weights(state | {"AuxLogits.fc.bias": torch.zeros(3)})
    with pytest.raises(DifflabError, match=r"'fc.bias' has shape \(1000,\), expected \(1008,\)"):
        InceptionFID.with_weights(state | {"fc.bias": torch.zeros(1000)})
