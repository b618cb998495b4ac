from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tests.zoo.dits import TINY, tiny_dit

import difflab
from difflab.errors import DifflabError
from difflab.zoo.convert import convert

HEADS = {"num_heads": 4}


def inputs(classes: int = 5):
    return torch.randn(3, 4, 8, 8), torch.tensor([1.0, 400.0, 900.0]), torch.arange(3) % classes


def saved(value, path: Path) -> Path:
    torch.save(value, path)
    return path


@pytest.fixture
def state():
    return dict(tiny_dit().network.state_dict())


def same(a, b) -> bool:
    x = inputs()
    return torch.equal(a.network(*x), b.network(*x))


@pytest.mark.parametrize("design", ["adaln-zero", "adaln", "cross-attention", "in-context"])
@pytest.mark.parametrize(("learn_sigma", "patch"), [(True, 2), (False, 4)])
def test_shapes_tell_all_of_a_state_dict_but_its_heads(tmp_path, design, learn_sigma, patch):
    model = tiny_dit(conditioning=design, learn_sigma=learn_sigma, patch_size=patch, mlp_ratio=2.0)
    path = saved(model.network.state_dict(), tmp_path / "model.pt")
    found = difflab.load(path, config=HEADS)
    assert found.card.network == model.card.network
    assert found.card.variance == ("learned" if learn_sigma else "large")
    assert same(found, model)
    with pytest.raises(DifflabError, match=r"depth 2 and width 32, which is no published size.*num_heads=N"):
        difflab.load(path)


def test_published_sizes_need_not_be_told(tmp_path):
    from difflab.zoo.dit_files import network_fields
    from difflab.zoo.families import FAMILIES, DiTConfig
    from difflab.zoo.sizes import dit_size

    with torch.device("meta"):
        network = FAMILIES["dit"].build(DiTConfig(**dit_size("DiT-B/4"), num_classes=10))
    fields = network_fields(network.state_dict(), {}, None, "here")
    assert DiTConfig(**fields) == DiTConfig(**dit_size("DiT-B/4"), num_classes=10)


def test_without_a_row_for_no_class_that_must_be_told(tmp_path):
    model = tiny_dit(class_dropout_prob=0.0)
    path = saved(model.network.state_dict(), tmp_path / "model.pt")
    assert difflab.load(path, config={**HEADS, "num_classes": 5}).card.network.null_class is None
    assert difflab.load(path, config=HEADS).card.network.null_class == 4


def test_a_container_gives_its_average_or_its_raw_weights_and_its_namespace_is_data(tmp_path, state):
    raw = {name: value + 1 for name, value in state.items()}
    value = {"model": raw, "ema": state, "opt": {"state": {}}, "args": Namespace(model="DiT-XL/2", image_size=256)}
    path = saved(value, tmp_path / "0050000.pt")
    averaged = difflab.load(path, config=HEADS)
    assert averaged.card.weights == "ema"
    assert same(averaged, tiny_dit())
    assert difflab.load(path, config=HEADS, weights="raw").card.weights == "raw"


class Other:
    pass


def test_a_container_with_another_type_is_refused_by_its_name(tmp_path, state):
    path = saved({"model": state, "ema": state, "opt": Other(), "args": Namespace()}, tmp_path / "odd.pt")
    with pytest.raises(DifflabError, match=r"an object of type .*Other, which could run code"):
        difflab.load(path, config=HEADS)


def test_a_position_table_that_averaging_rounded_is_put_right_and_another_one_stays(tmp_path, state):
    table = state["pos_embed"]
    drifted = difflab.load(saved({**state, "pos_embed": table + 1e-4}, tmp_path / "a.pt"), config=HEADS)
    assert torch.equal(drifted.network.pos_embed, table)
    other = difflab.load(saved({**state, "pos_embed": table * 2}, tmp_path / "b.pt"), config=HEADS)
    assert torch.equal(other.network.pos_embed, table * 2)


def test_latents_of_four_channels_are_stable_diffusions_and_three_are_pixels(tmp_path):
    latent = difflab.load(saved(tiny_dit().network.state_dict(), tmp_path / "a.pt"), config=HEADS)
    assert latent.card.codec.vae == "stabilityai/sd-vae-ft-ema"
    assert (latent.card.codec.scale, latent.card.side) == (0.18215, 64)
    assert difflab.load(tmp_path / "a.pt", config=HEADS, vae="mine").card.codec.vae == "mine"
    pixels = difflab.load(saved(tiny_dit(in_channels=3).network.state_dict(), tmp_path / "b.pt"), config=HEADS)
    assert pixels.card.codec is None
    with pytest.raises(DifflabError, match="a model of pixels, which has no autoencoder"):
        difflab.load(tmp_path / "b.pt", config=HEADS, vae="mine")


@pytest.mark.parametrize("missing", ["pos_embed", "final_layer.linear.weight", "blocks.1.attn.qkv.bias"])
def test_an_incomplete_file_is_told_by_the_weight_it_lacks(tmp_path, state, missing):
    del state[missing]
    with pytest.raises(DifflabError, match=f"the weight {missing}.* is missing"):
        difflab.load(saved(state, tmp_path / "cut.pt"), config=HEADS)


@pytest.mark.parametrize("to", ["difflab", "official"])
def test_it_goes_there_and_back_bit_for_bit(tmp_path, to):
    model = tiny_dit()
    path = saved(model.network.state_dict(), tmp_path / "model.pt")
    out = convert(path, tmp_path / ("m.safetensors" if to == "difflab" else "m.pt"), to, config=HEADS)
    assert same(difflab.load(out, config=HEADS if to == "official" else None), model)


def test_fields_of_another_family_are_refused(tmp_path, state):
    with pytest.raises(DifflabError, match=r"the field ch_mult is not known"):
        difflab.load(saved(state, tmp_path / "m.pt"), config={**HEADS, "ch_mult": [1]})
    with pytest.raises(DifflabError, match=r"hidden_size is 32, but 5 heads need a multiple of 5"):
        difflab.load(tmp_path / "m.pt", config={"num_heads": 5})


def test_fields_may_be_told_as_text(tmp_path, state):
    assert difflab.load(saved(state, tmp_path / "m.pt"), config="num_heads=4").card.network.num_heads == 4
    with pytest.raises(DifflabError, match="is not understood"):
        difflab.load(tmp_path / "m.pt", config="num_heads=4,=3")


def test_the_tiny_model_is_tiny():
    assert TINY["depth"] == 2
