from __future__ import annotations

import pytest
import torch
from tests.zoo.dits import TINY, tiny_dit

from difflab.errors import DifflabError
from difflab.train.start import begin_with
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.families import FAMILIES, DiTConfig, UNet2DConfig

TABLE = "y_embedder.embedding_table.weight"


@pytest.fixture
def source(tmp_path):
    model = tiny_dit(in_channels=3)
    save_checkpoint(tmp_path / "m.safetensors", model.card, model.network.state_dict())
    return str(tmp_path / "m.safetensors"), model.network.state_dict()


def begun(source: str, **changes) -> dict[str, torch.Tensor]:
    config = DiTConfig(**{**TINY, "in_channels": 3, **changes})
    network = FAMILIES["dit"].build(config)
    begin_with(network, config, source)
    return network.state_dict()


def test_with_the_same_classes_all_weights_are_taken(source):
    path, theirs = source
    ours = begun(path)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_with_other_classes_only_the_embedding_of_no_class_is_taken(source):
    path, theirs = source
    torch.manual_seed(0)
    ours = begun(path, num_classes=3)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name != TABLE)
    assert torch.equal(ours[TABLE][3], theirs[TABLE][5])
    assert ours[TABLE][:3].std() < 0.05, "classes begin as a new model's do"


def test_without_classes_hidden_there_is_none_to_take(source):
    path, _ = source
    assert begun(path, num_classes=1, class_dropout_prob=0.0)[TABLE].shape == (1, 32)


def test_what_differs_in_more_is_refused(source):
    path, _ = source
    with pytest.raises(DifflabError, match=r"its depth is 2, but the recipe has 3; set network\.depth alike"):
        begun(path, depth=3)
    config = UNet2DConfig(image_size=8, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    with pytest.raises(DifflabError, match="is of the family dit"):
        begin_with(FAMILIES["unet2d"].build(config), config, path)
