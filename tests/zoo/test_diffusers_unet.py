import json
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint
from difflab.zoo.convert import convert
from difflab.zoo.diffusers_unet import write_diffusers_unet
from difflab.zoo.families import UNet2DConfig
from difflab.zoo.load import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

# The topology of google/ddpm-church-256 at a quarter of its width and an eighth of its size.
CHURCH = {
    "sample_size": 32,
    "block_out_channels": (32, 32, 64, 64, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "attention_head_dim": None,
}
SMALL = {
    **CHURCH,
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def their_model(**changes):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**{**SMALL, **changes}).eval()


def assert_same_answers(ours, theirs):
    x = torch.randn(2, *ours.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3.0, 871.0])
    with torch.no_grad():
        expected = theirs(x, t).sample
        torch.testing.assert_close(ours.network(x, t), expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.fixture
def folder(tmp_path):
    their_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, file="config.json", **fields):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("settings", [SMALL, CHURCH])
def test_their_folder_answers_the_same_here(tmp_path, settings):
    theirs = their_model(**settings)
    theirs.save_pretrained(tmp_path / "model")
    ours = load(tmp_path / "model")
    assert_same_answers(ours, theirs)
    assert ours.card.name == "model"


def test_our_folder_answers_the_same_there(tmp_path, card, state):
    write_diffusers_unet(tmp_path / "model", card, state)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "model").eval()
    assert_same_answers(load(tmp_path / "model"), theirs)
    assert all(torch.equal(load(tmp_path / "model").network.state_dict()[name], state[name]) for name in state)


def test_our_folder_is_a_pipeline_with_our_schedule(tmp_path, card, state):
    schedule = {"name": "cosine", "timesteps": 50}
    card = Card.model_validate({**card.model_dump(), "schedule": schedule, "prediction": "v", "variance": "large"})
    write_diffusers_unet(tmp_path / "model", card, state)
    scheduler = diffusers.DDPMPipeline.from_pretrained(tmp_path / "model").scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.variance_type == "fixed_large"
    bars = torch.from_numpy(card.schedule.build().alpha_bar).float()
    torch.testing.assert_close(scheduler.alphas_cumprod, bars, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "quad", "cosine", "sigmoid"])
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_what_the_scheduler_says_comes_back(tmp_path, card, state, name, variance, prediction):
    schedule = {"name": name, "timesteps": 100, "beta_start": 0.001, "beta_end": 0.05}
    fields = {"schedule": schedule, "variance": variance, "prediction": prediction}
    if variance == "learned":  # a network that answers it has twice the channels
        fields["network"] = {**card.network.model_dump(), "out_ch": 2 * card.network.in_channels}
        state = state | {name: torch.cat([state[name]] * 2) for name in ("conv_out.weight", "conv_out.bias")}
    card = Card.model_validate({**card.model_dump(), **fields})
    write_diffusers_unet(tmp_path / "model", card, state)
    found = load(tmp_path / "model").card
    assert (found.schedule, found.variance, found.prediction) == (card.schedule, variance, prediction)
    assert found.network == card.network


@pytest.mark.parametrize("inner", [False, True])
def test_a_pipeline_folder_and_its_unet_folder_are_read_with_their_scheduler(tmp_path, inner):
    theirs = their_model()
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=200, beta_schedule="scaled_linear")
    diffusers.DDIMPipeline(theirs, scheduler).save_pretrained(tmp_path / "pipe")
    ours = load(tmp_path / "pipe" / "unet" if inner else tmp_path / "pipe")
    assert_same_answers(ours, theirs)
    assert (ours.card.schedule.name, ours.card.schedule.timesteps) == ("quad", 200)


def test_old_attention_names_and_a_bin_file_are_read(folder):
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    pattern = "|".join(map(re.escape, new_to_old))
    old = {re.sub(pattern, lambda m: new_to_old[m[0]], name): value for name, value in state.items()}
    assert old.keys() != state.keys()
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(old, folder / "diffusion_pytorch_model.bin")
    assert_same_answers(load(folder), their_model())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_eps", 1e-5),
        ("downsample_padding", 1),
        ("flip_sin_to_cos", True),
        ("freq_shift", 0),
        ("attention_head_dim", 8),
        ("norm_num_groups", 16),
        ("act_fn", "relu"),
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("down_block_types", ["SkipDownBlock2D", "AttnDownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("sample_size", None),
        ("block_out_channels", [64, 96]),
        ("block_out_channels", "wide"),
        ("down_block_types", None),
        ("_class_name", "UNet2DConditionModel"),
        ("cross_attention_dim", 768),
    ],
)
def test_another_network_is_refused_by_the_name_of_the_field(folder, field, value):
    change(folder, **{field: value})
    with pytest.raises(DifflabError, match=rf"config\.json: .*{field}"):
        load(folder)


@pytest.mark.parametrize(
    "field", ["norm_eps", "downsample_padding", "flip_sin_to_cos", "freq_shift", "attention_head_dim"]
)
def test_a_silent_config_means_the_defaults_of_diffusers_which_are_another_network(folder, field):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != field}))
    with pytest.raises(DifflabError, match=field):
        load(folder)


def test_the_image_size_can_be_told(folder):
    change(folder, sample_size=None)
    assert_same_answers(load(folder, config={"image_size": 8}), their_model())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta_schedule": "laplace"}, "beta_schedule"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"num_train_timesteps": "many"}, r"schedule\.timesteps"),
    ],
)
def test_a_scheduler_that_is_not_known_is_refused_by_the_name_of_the_field(folder, fields, words):
    diffusers.DDPMScheduler().save_pretrained(folder)
    change(folder, "scheduler_config.json", **fields)
    with pytest.raises(DifflabError, match=words):
        load(folder)


def test_a_missing_and_an_extra_weight_are_named(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({**state, "more.weight": torch.zeros(1)}, path)
    with pytest.raises(DifflabError, match=r"1 weights do not belong.*more\.weight"):
        load(folder)
    del state["up_blocks.1.resnets.0.conv1.bias"]
    save_file(state, path)
    with pytest.raises(DifflabError, match=r"up_blocks\.1\.resnets\.0\.conv1\.bias is missing"):
        load(folder)


def test_a_bin_file_of_something_else_is_refused(folder):
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save([1, 2], folder / "diffusion_pytorch_model.bin")
    with pytest.raises(DifflabError, match="something else than named tensors"):
        load(folder)


def test_a_folder_without_a_model_is_called_that(tmp_path, folder):
    with pytest.raises(DifflabError, match=r"without config\.json"):
        load(tmp_path)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DifflabError, match=r"diffusion_pytorch_model\.bin"):
        load(folder)


def test_a_config_that_is_not_json_is_called_that(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(DifflabError, match="not JSON"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": 2}, "patch 2"),
        ({"groups": 8}, "groups 8"),
        ({"resamp_with_conv": False}, "resamp_with_conv"),
        ({"ch_mult": (2, 2)}, "begins with 2"),
    ],
)
def test_what_diffusers_cannot_express_is_not_written(tmp_path, network, random_state, changes, words):
    network = UNet2DConfig(**{**network.model_dump(), **changes})
    save_checkpoint(tmp_path / "a.safetensors", Card(name="a", network=network), random_state(network))
    with pytest.raises(DifflabError, match=words):
        convert(tmp_path / "a.safetensors", tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()


def test_a_schedule_that_diffusers_lacks_is_not_written(tmp_path, card, state):
    save_checkpoint(tmp_path / "a.safetensors", card, state)
    with pytest.raises(DifflabError, match="no schedule jsd"):
        convert(tmp_path / "a.safetensors", tmp_path / "out", "diffusers", schedule="jsd")
    assert not (tmp_path / "out").exists()
