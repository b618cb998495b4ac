from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difflab.nets.unet2d import UNet2D
from difflab.zoo.card import Card
from difflab.zoo.families import UNet2DConfig


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of this test's own, below the returned folder."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("DIFFLAB_HOME", str(folder / "difflab"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    return folder


@pytest.fixture
def network() -> UNet2DConfig:
    """A small network with what makes the others hard: two widths, shortcuts, attention at one level of two."""
    return UNet2DConfig(image_size=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))


@pytest.fixture
def random_state() -> Callable[[UNet2DConfig], dict[str, Tensor]]:
    """Network -> weights that are all different, biases and norms included."""
    return _random_state


@pytest.fixture
def state(network: UNet2DConfig) -> dict[str, Tensor]:
    return _random_state(network)


@pytest.fixture
def card(network: UNet2DConfig) -> Card:
    return Card(name="tiny", network=network, source="a test")


def _random_state(network: UNet2DConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in UNet2D(**network.model_dump()).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
