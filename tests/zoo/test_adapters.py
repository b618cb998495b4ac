from argparse import Namespace
from pathlib import Path

import pytest
import torch

from difflab.errors import DifflabError
from difflab.zoo.adapters import read_official

PATH = Path("given.pth")
WEIGHT = torch.zeros(1)


@pytest.fixture
def raw(state):
    return {f"module.{name}": value + 1 for name, value in state.items()}


def test_the_fifth_entry_of_a_trainer_file_overrides_the_first(raw, state):
    contents = read_official([raw, {"state": {}}, 12, 5000, state], PATH)
    assert contents.state.keys() == state.keys()
    assert all(torch.equal(contents.state[name], state[name]) for name in state)
    assert contents.card["weights"] == "ema"
    assert contents.card["training"] == {"epoch": 12, "step": 5000}


@pytest.mark.parametrize("entries", [4, 5])
def test_without_averaging_the_first_entry_counts(raw, state, entries):
    value = [raw, {"state": {}}, 12, 5000, state][:entries]
    contents = read_official(value, PATH, averaged=False)
    assert all(torch.equal(contents.state[name], state[name] + 1) for name in state)
    assert contents.card["weights"] == "raw"


def test_four_entries_are_raw_even_if_averages_are_wanted(raw):
    assert read_official([raw, {"state": {}}, 12, 5000], PATH).card["weights"] == "raw"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_plain_state_dict_loses_its_prefix(state, prefix):
    contents = read_official({prefix + name: value for name, value in state.items()}, PATH)
    assert contents.state.keys() == state.keys()
    assert contents.card["weights"] == "plain"


def test_an_incomplete_average_is_refused(raw, state):
    del state["conv_out.bias"]
    with pytest.raises(DifflabError, match=r"conv_out\.bias is missing from the EMA"):
        read_official([raw, {}, 0, 0, state], PATH)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"x_embedder.proj.weight": WEIGHT}, "x_embedder.proj.weight has shape .1,., but 4 dimensions"),
        ({"model": {"x": WEIGHT}, "ema": {"x": WEIGHT}, "opt": {}, "args": Namespace()}, "x_embedder.*missing"),
        ({"model": {"x": WEIGHT}, "ema": [1], "opt": {}, "args": Namespace()}, "ema holds no weights"),
        (
            {"step": 3, "model": {"x": WEIGHT}, "ema": {"x": WEIGHT}, "scaler": None},
            "a dict with the keys step, model, ema, scaler",
        ),
        ({"input_blocks.0.0.weight": WEIGHT}, "input_blocks.0.0.weight has shape .*, but 4 dimensions"),
        ({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": WEIGHT}}, "latent-diffusion.*not supported"),
        ({"down_blocks.0.resnets.0.conv1.weight": WEIGHT}, "diffusers.*config.json"),
        ({"layer1.0.conv1.weight": WEIGHT}, r"conv_in\.weight is missing.*layer1\.0\.conv1\.weight"),
        ({"epoch": 3, "loss": 0.1}, "a dict with the keys epoch, loss"),
        ({}, "an empty dict"),
        ([{"a": WEIGHT}, {}, 3], "a list of 3 entries"),
        ([1, 2, 3, 4], "a list of 4 entries"),
        (WEIGHT, "an object of type Tensor"),
    ],
)
def test_anything_else_is_named_for_what_it_is(value, words):
    with pytest.raises(DifflabError, match=f"given.pth: .*{words}"):
        read_official(value, PATH)
