import json

import pytest
import torch
from safetensors.torch import save_file

from difflab.errors import DifflabError
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.load import read_model
from difflab.zoo.model import build_model


def test_card_and_weights_come_back(tmp_path, card, state):
    card = card.model_copy(update={"prediction": "v", "training": {"steps": 10, "data": "shapes"}})
    save_checkpoint(tmp_path / "tiny.safetensors", card, state)
    found, weights = read_model(tmp_path / "tiny.safetensors")
    assert found == card
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_the_card_beside_it_is_readable_and_not_needed(tmp_path, card, state):
    save_checkpoint(tmp_path / "tiny.safetensors", card, state)
    assert json.loads((tmp_path / "tiny.json").read_text())["network"]["ch_mult"] == [1, 2]
    (tmp_path / "tiny.json").unlink()
    assert read_model(tmp_path / "tiny.safetensors")[0] == card


def test_equal_models_give_equal_bytes(tmp_path, card, state):
    for name in "ab":
        save_checkpoint(tmp_path / f"{name}.safetensors", card, dict(reversed(state.items())) if name == "b" else state)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_shared_strided_and_channels_last_weights_are_saved_as_what_they_hold(tmp_path, card, state):
    state["mid.block_1.conv1.weight"] = state["mid.block_2.conv1.weight"]
    state["conv_out.bias"] = torch.full((1,), 0.5).expand(3)
    network = build_model(card, state).network  # puts convolutions in channels-last order
    save_checkpoint(tmp_path / "tiny.safetensors", card, network.state_dict())
    weights = read_model(tmp_path / "tiny.safetensors")[1]
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_another_ending_is_refused(tmp_path, card, state):
    with pytest.raises(DifflabError, match=r"tiny\.safetensors"):
        save_checkpoint(tmp_path / "tiny.pth", card, state)
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a", "netwrok": {}}', "'netwrok' is not known.*'network'"),
        ("{", "not JSON"),
        ("{}", "'name' is missing"),
    ],
)
def test_a_damaged_card_is_named(tmp_path, state, text, words):
    save_file(state, tmp_path / "a.safetensors", {"difflab": text})
    with pytest.raises(DifflabError, match=f"card.*{words}"):
        read_model(tmp_path / "a.safetensors")
