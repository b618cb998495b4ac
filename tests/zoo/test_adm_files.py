from __future__ import annotations

import pytest
import torch

import difflab
from difflab.errors import DifflabError
from difflab.nets.adm import ADM
from difflab.zoo.adm_files import network_fields, read_adm
from difflab.zoo.families import ADMConfig, ScheduleConfig
from difflab.zoo.sizes import ADM_NAMES, adm_size

SMALL = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 2, "channel_mult": (0.5, 1, 2), "num_classes": 5,
    "attention_resolutions": (8, 4), "num_head_channels": 16, "learn_sigma": True,
}  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    """Writes the weights of a network with these fields."""

    def write(**fields):
        torch.save(ADM(**fields).state_dict(), tmp_path / "adm.pt")
        return tmp_path / "adm.pt"

    return write


@pytest.mark.parametrize("name", ADM_NAMES)
def test_released_models_are_known_by_their_shapes(name):
    with torch.device("meta"):
        state = ADM(**adm_size(name)).state_dict()
    found, known = network_fields(state, {}, "x.pt")
    assert known == name
    assert ADMConfig(**found) == ADMConfig(**adm_size(name))


@pytest.mark.parametrize(
    ("name", "schedule", "scale"),
    [
        ("IDDPM-32", ("cosine", 4000), 0.25),
        ("IDDPM-64", ("cosine", 4000), 0.25),
        ("IDDPM-64-cond", ("cosine", 4000), 1.0),
        ("IDDPM-256", ("linear", 1000), 1.0),
        ("ADM-64", ("cosine", 1000), 1.0),
        ("ADM-256", ("linear", 1000), 1.0),
    ],
)
def test_released_models_have_their_own_schedule_and_scale_of_timesteps(name, schedule, scale, tmp_path):
    with torch.device("meta"):
        state = ADM(**adm_size(name)).state_dict()
    contents = read_adm(state, tmp_path / "x.pt", {})
    found = ScheduleConfig(**contents.card["schedule"])
    assert (found.name, found.timesteps) == schedule
    assert ADMConfig(**contents.network).timestep_scale == scale
    assert ("improved-diffusion" in contents.card["source"]) == name.startswith("IDDPM")


def test_the_scale_of_timesteps_is_what_the_network_sees_and_goes_unsaid_where_it_is_one():
    fields = {**SMALL, "num_channels": 64, "num_classes": None}
    plain, scaled = ADM(**fields), ADM(**fields, timestep_scale=0.25)
    torch.nn.init.normal_(plain.out[2].weight, std=0.1)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(scaled(x, torch.tensor([3000.0])), plain(x, torch.tensor([750.0])))
    assert "timestep_scale" not in ADMConfig(**fields).model_dump(mode="json")
    told = ADMConfig(**fields, timestep_scale=0.25)
    assert ADMConfig(**told.model_dump(mode="json")) == told


@pytest.mark.parametrize(
    "changes",
    [
        {"num_channels": 64},
        {"num_channels": 64, "resblock_updown": True, "use_scale_shift_norm": False},
        {"num_channels": 64, "num_classes": None, "learn_sigma": False, "channel_mult": (1, 1)},
        {"num_channels": 64, "channel_mult": (1,), "attention_resolutions": (16,)},
    ],
)
def test_shapes_tell_all_but_size_and_heads(weights, changes):
    fields = {**SMALL, **changes}
    model = difflab.load(weights(**fields), config={"image_size": 16, "num_head_channels": 16})
    levels = {16 >> i for i in range(len(fields["channel_mult"]))}
    expected = {**fields, "attention_resolutions": tuple(r for r in fields["attention_resolutions"] if r in levels)}
    assert model.card.network == ADMConfig(**expected)
    assert (model.card.family, model.card.rounding, model.card.schedule.name) == ("adm", "floor", "linear")
    assert model.card.variance == ("learned" if fields["learn_sigma"] else "large")
    pictures = difflab.sample(model, 2, steps=2)
    assert pictures.shape == (2, 16, 16, 3)


def test_what_is_not_in_the_weights_is_asked_for(weights):
    path = weights(**{**SMALL, "num_channels": 64})
    for told in (None, {"image_size": 16}, {"num_heads": 4}):
        with pytest.raises(DifflabError, match=r"its image size and heads are not in the weights; tell them"):
            difflab.load(path, config=told)
    with pytest.raises(DifflabError, match=r"its image size and heads are not in the weights; tell them"):
        difflab.load(path)
    with pytest.raises(DifflabError, match=r"attention over 64 channels cannot be split by 48"):
        difflab.load(path, config={"image_size": 16, "num_head_channels": 48})
    with pytest.raises(DifflabError, match="ADM-257: not a published size of ADM"):
        difflab.load(path, config="ADM-257")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("time_embed.0.weight", "time_embed.0.weight is missing"),
        ("output_blocks.", "its way up has 0 entries"),
        ("input_blocks.1.0.emb_layers.1.weight", "input_blocks.1.0.emb_layers.1.weight is missing"),
        ("input_blocks.4.0.in_layers.2.weight", "input_blocks.4.0.in_layers.2.weight is missing"),
    ],
)
def test_incomplete_files_are_told(weights, lost, words):
    path = weights(**{**SMALL, "num_channels": 64})
    state = torch.load(path)
    torch.save({name: value for name, value in state.items() if not name.startswith(lost)}, path)
    with pytest.raises(DifflabError, match=words):
        difflab.load(path, config={"image_size": 16, "num_head_channels": 16})


def test_its_relatives_are_called_by_their_names(tmp_path):
    state = ADM(**{**SMALL, "num_channels": 64}).state_dict()
    classifier = {name: value for name, value in state.items() if not name.startswith(("output_blocks", "out.2"))}
    torch.save({**classifier, "out.2.c_proj.weight": torch.zeros(5, 64, 1)}, tmp_path / "classifier.pt")
    with pytest.raises(DifflabError, match="this is a noisy classifier"):
        difflab.load(tmp_path / "classifier.pt")
    torch.save(
        ADM(**{**SMALL, "num_channels": 64, "in_channels": 6, "learn_sigma": False}).state_dict(), tmp_path / "up.pt"
    )
    with pytest.raises(DifflabError, match="takes 6 channels and gives 6, as guided-diffusion's upsamplers do"):
        difflab.load(tmp_path / "up.pt")
