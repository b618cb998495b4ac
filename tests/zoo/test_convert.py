import pytest
import torch

from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.convert import convert
from difflab.zoo.families import UNet2DConfig
from difflab.zoo.load import load

NAMES = {"difflab": "b.safetensors", "diffusers": "b", "official": "b.ckpt"}


@pytest.fixture
def source(tmp_path, card, state):
    save_checkpoint(tmp_path / "a.safetensors", card, state)
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("there", NAMES)
@pytest.mark.parametrize("back", NAMES)
def test_there_and_back_again_is_bit_exact(tmp_path, source, state, network, there, back):
    first = convert(source, tmp_path / "first" / NAMES[there], there)
    second = convert(first, tmp_path / "second" / NAMES[back], back, config=network)
    found = load(second, config=network).network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_the_official_form_is_a_plain_state_dict(tmp_path, source, state):
    path = convert(source, tmp_path / "b.ckpt", "official")
    found = torch.load(path, weights_only=True)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) and found[name].is_contiguous() for name in state)


def test_our_form_keeps_the_whole_card(tmp_path, source, card):
    assert load(convert(source, tmp_path / "b.safetensors", "difflab")).card == card


def test_what_is_told_goes_into_the_new_card(tmp_path, source):
    path = convert(source, tmp_path / "b.safetensors", "difflab", prediction="v", schedule="cosine")
    assert (load(path).card.prediction, load(path).card.schedule.name) == ("v", "cosine")


def test_a_file_is_not_converted_onto_itself(source):
    """It may hold more than is kept, for example double precision."""
    before = source.read_bytes()
    with pytest.raises(DifflabError, match="this is the source"):
        convert(source, source, "difflab", prediction="v")
    assert source.read_bytes() == before


def test_a_trainers_file_is_not_replaced_by_its_weights(tmp_path, network, random_state):
    state = random_state(network)
    torch.save([state, {}, 1, 2, state], tmp_path / "ckpt.pth")
    before = (tmp_path / "ckpt.pth").read_bytes()
    with pytest.raises(DifflabError, match="this is the source"):
        convert(tmp_path / "ckpt.pth", tmp_path / "ckpt.pth", "official", config=network)
    assert (tmp_path / "ckpt.pth").read_bytes() == before


def test_another_json_of_the_same_name_is_not_overwritten(tmp_path, source):
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(DifflabError, match="another file has this name"):
        convert(source, tmp_path / "results.safetensors", "difflab")
    assert (tmp_path / "results.json").read_text() == "[1]"
    assert not (tmp_path / "results.safetensors").exists()


@pytest.mark.parametrize(("changes", "told"), [({"patch": 2}, {}), ({"groups": 8}, {}), ({}, {"prediction": "v"})])
def test_what_the_official_code_cannot_run_is_not_written(tmp_path, network, random_state, changes, told):
    network = UNet2DConfig(**{**network.model_dump(), **changes})
    save_checkpoint(tmp_path / "a.safetensors", Card(name="a", network=network), random_state(network))
    with pytest.raises(DifflabError, match="official code"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "official", **told)
    assert not (tmp_path / "b.ckpt").exists()


def test_an_unknown_format_gets_a_suggestion(tmp_path, source):
    with pytest.raises(DifflabError, match="'diffusers'"):
        convert(source, tmp_path / "b", "diffuser")
