import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from difflab.errors import DifflabError
from difflab.zoo import load as module
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.families import ScheduleConfig
from difflab.zoo.load import load
from difflab.zoo.model import build_model
from difflab.zoo.official import OfficialConfig
from difflab.zoo.registry import find, home

OFFICIAL = {
    "data": {"image_size": 8},
    "model": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "var_type": "fixedlarge"},
    "diffusion": {"beta_schedule": "quad", "num_diffusion_timesteps": 50},
}


@pytest.fixture
def plain(tmp_path, state):
    torch.save(state, tmp_path / "tiny.ckpt")
    return tmp_path / "tiny.ckpt"


@pytest.fixture
def own(tmp_path, card, state):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, card.model_copy(update={"prediction": "v", "variance": "large"}), state)
    return path


def assert_holds(model, state):
    found = model.network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("as_text", [False, True])
def test_our_own_file_needs_nothing_else(own, state, as_text):
    model = load(str(own) if as_text else own)
    assert_holds(model, state)
    assert (model.card.name, model.card.prediction, model.card.variance) == ("tiny", "v", "large")


def test_an_official_configuration_in_any_form_is_understood(plain, state, tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(str(OFFICIAL).replace("'", ""))
    for config in (OFFICIAL, OfficialConfig(**OFFICIAL), path, str(path)):
        model = load(plain, config=config)
        assert_holds(model, state)
        assert (model.card.schedule.name, model.card.schedule.timesteps) == ("quad", 50)
        assert model.card.variance == "large"


def test_a_network_configuration_or_its_image_size_is_enough(plain, network, state):
    for config in (network, network.model_dump(), {"image_size": 8}):
        model = load(plain, config=config)
        assert_holds(model, state)
        assert model.card.network == network


def test_plain_safetensors_are_read_as_a_state_dict(tmp_path, state):
    save_file(state, tmp_path / "tiny.safetensors")
    assert_holds(load(tmp_path / "tiny.safetensors", config={"image_size": 8}), state)


@pytest.mark.parametrize(("ema", "weights", "shift"), [(True, "ema", 0), (False, "raw", 1)])
def test_the_configuration_decides_whether_averages_are_taken(tmp_path, state, ema, weights, shift):
    raw = {f"module.{name}": value + 1 for name, value in state.items()}
    torch.save([raw, {"state": {}}, 3, 400, state], tmp_path / "ckpt.pth")
    config = {**OFFICIAL, "model": {**OFFICIAL["model"], "ema": ema}}
    model = load(tmp_path / "ckpt.pth", config=config)
    assert_holds(model, {name: value + shift for name, value in state.items()})
    assert model.card.weights == weights
    assert model.card.training == {"epoch": 3, "step": 400}


def test_what_the_file_says_can_be_overridden(own):
    model = load(own, prediction="x0", schedule="cosine", config={"dropout": 0.3})
    assert (model.card.prediction, model.card.schedule.name) == ("x0", "cosine")
    assert model.card.network.dropout == 0.3
    assert model.card.network.ch_mult == (1, 2)
    assert model.card.variance == "large"


def test_a_schedule_by_name_by_fields_or_whole(own):
    assert load(own, schedule={"timesteps": 100}).card.schedule == ScheduleConfig(timesteps=100)
    assert load(own, schedule="jsd").card.schedule == ScheduleConfig(name="jsd")
    whole = ScheduleConfig(name="quad", timesteps=7)
    assert load(own, schedule=whole).card.schedule == whole


def test_a_told_schedule_keeps_what_the_configuration_says_otherwise(plain):
    assert load(plain, config=OFFICIAL, schedule="cosine").card.schedule.timesteps == 50


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"prediction": "noise"}, "'prediction' is 'noise'.*'eps', 'x0' or 'v'"),
        ({"family": "unet"}, "'family' is 'unet'.*unet2d"),
        ({"schedule": "linaer"}, "schedule: the field 'name' is 'linaer'.*'linear'"),
        ({"schedule": {"timestep": 3}}, "'timestep' is not known.*'timesteps'"),
        ({"config": {"image_sise": 8}}, "image_sise is not known.*'image_size'"),
        ({"config": {"image_size": "8"}}, "image_size is '8'"),
        ({"config": {"image_size": 8, "ch": 33}}, "ch is 33"),
        ({"config": "cfiar10.yml"}, "'cifar10'"),
        ({"config": {**OFFICIAL, "modle": {}}}, "'modle' is not known"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
)
def test_a_wrong_setting_is_named(plain, told, words):
    with pytest.raises(DifflabError, match=words):
        load(plain, **{"config": OFFICIAL, **told})


def test_weights_of_no_official_network_need_a_configuration(plain):
    with pytest.raises(DifflabError, match=r"tiny\.ckpt.*image size is not in the weights.*config="):
        load(plain)


def test_a_missing_weight_is_named(tmp_path, state):
    del state["mid.attn_1.q.weight"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(DifflabError, match=r"mid\.attn_1\.q\.weight \(64, 64, 1, 1\) is missing"):
        load(tmp_path / "a.pth", config=OFFICIAL)


def test_a_wrong_shape_is_named(plain):
    config = {**OFFICIAL, "model": {**OFFICIAL["model"], "ch_mult": [1, 3]}}
    with pytest.raises(DifflabError, match=r"shape \(64,.*needs \(96,"):
        load(plain, config=config)


def test_a_weight_too_many_is_named(tmp_path, state):
    torch.save({**state, "more.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(DifflabError, match=r"1 weights do not belong.*more\.weight"):
        load(tmp_path / "a.pth", config=OFFICIAL)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_weights_are_named(tmp_path, state, bad):
    state["conv_out.bias"][1] = bad
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(DifflabError, match=r"conv_out\.bias holds NaN"):
        load(tmp_path / "a.pth", config=OFFICIAL)


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(DifflabError, match=r"lsun-chruch: no such file.*lsun_church'"):
        load("lsun-chruch")


def test_an_official_name_that_is_not_here_says_how_to_get_it():
    with pytest.raises(DifflabError, match="difflab models fetch ema_lsun_church"):
        load("lsun-church")


def test_an_official_file_is_verified(caches):
    path = home() / "models" / "ema_cifar10.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(DifflabError, match=r"md5 of ema_cifar10.*1fa350b952534ae442b1d5235cce5cd3"):
        load("cifar10")


def test_a_zoo_file_is_read_with_its_configuration_and_called_by_its_name(plain, state, monkeypatch):
    md5 = hashlib.md5(plain.read_bytes()).hexdigest()
    entry = replace(find("cifar10"), places=(plain,), checksum=("md5", md5))
    monkeypatch.setattr(module, "find", lambda name: entry)
    monkeypatch.setattr(module, "read_config", lambda name: {"cifar10": OfficialConfig(**OFFICIAL)}[name])
    model = load("cifar10")
    assert_holds(model, state)
    assert (model.card.name, model.card.weights, model.card.variance) == ("ema_cifar10", "ema", "large")


def test_a_trained_model_is_loaded_by_name_even_beside_a_folder_of_that_name(tmp_path, card, state, monkeypatch):
    save_checkpoint(home() / "models" / "my-model.safetensors", card, state)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    assert_holds(load("my-model"), state)


def test_every_format_of_the_same_weights_has_the_same_hash_and_answer(plain, own, card, state):
    models = [load(own), load(plain, config=OFFICIAL), build_model(card, state)]
    assert len({model.weights_hash for model in models}) == 1
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5.0])
    assert torch.equal(models[0].network(x, t), models[1].network(x, t))


def test_the_network_is_in_evaluation_mode_without_gradients(own):
    network = load(own).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
