from pathlib import Path

import pytest
import torch

from difflab.errors import DifflabError
from difflab.nets.unet2d import UNet2D
from difflab.zoo.families import UNet2DConfig
from difflab.zoo.infer import attention_levels
from difflab.zoo.official import SHIPPED, read_config

MINIMAL = """\
data: {image_size: 8}
model: {ch: 32, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yml"
    path.write_text(text, "utf-8")
    return path


# Counts published with the official models.
@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "attention"),
    [
        ("cifar10", 35_746_307, 328, [1]),
        ("celeba", 78_700_803, 390, [2]),
        ("church", 113_673_219, 450, [4]),
        ("bedroom", 113_673_219, 450, [4]),
    ],
)
def test_shipped_configurations_build_the_official_networks(name, parameters, tensors, attention):
    network: UNet2DConfig = read_config(name).card_fields()["network"]
    with torch.device("meta"):
        state = UNet2D(**network.model_dump()).state_dict()
    assert sum(value.numel() for value in state.values()) == parameters
    assert len(state) == tensors
    assert attention_levels(state) == attention


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", ("CIFAR10", None, 32, 0.1, "fixedlarge", 0.9999, 128, 2e-4, 1.0, 2000, 64, 4)),
        ("celeba", ("CELEBA", None, 64, 0.1, "fixedlarge", 0.9999, 128, 2e-4, 1.0, 20000, 32, 4)),
        ("church", ("LSUN", "church_outdoor", 256, 0.0, "fixedsmall", 0.999, 64, 2e-5, None, 2000, 32, 32)),
        ("bedroom", ("LSUN", "bedroom", 256, 0.0, "fixedsmall", 0.999, 64, 2e-5, None, 2000, 32, 32)),
    ],
)
def test_shipped_configurations_differ_as_the_official_files_do(name, expected):
    c = read_config(f"{name}.yml")
    assert c.training is not None
    assert c.sampling is not None
    assert c.optim is not None
    found = (
        c.data.dataset,
        c.data.category,
        c.data.image_size,
        c.model.dropout,
        c.model.var_type,
        c.model.ema_rate,
        c.training.batch_size,
        c.optim.lr,
        c.optim.grad_clip,
        c.training.validation_freq,
        c.sampling.batch_size,
        c.data.num_workers,
    )
    assert found == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_share_schedule_and_flags(name):
    c = read_config(name)
    assert (c.diffusion.beta_schedule, c.diffusion.beta_start, c.diffusion.beta_end) == ("linear", 1e-4, 0.02)
    assert c.diffusion.num_diffusion_timesteps == 1000
    assert c.data.rescaled
    assert c.data.random_flip
    assert c.model.ema
    assert not c.data.logit_transform
    assert not c.data.uniform_dequantization
    assert not c.data.gaussian_dequantization
    assert c.optim is not None
    assert (c.optim.optimizer, c.optim.beta1, c.optim.eps, c.optim.weight_decay) == ("Adam", 0.9, 1e-8, 0.0)


def test_a_file_goes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "church.yml").write_text(MINIMAL)
    assert read_config("church.yml").data.image_size == 8
    assert read_config("church").data.image_size == 256


def test_the_first_two_groups_are_enough(tmp_path):
    fields = read_config(write(tmp_path, MINIMAL)).card_fields()
    assert fields["network"].ch_mult == (1, 2)
    assert fields["schedule"].timesteps == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("num_res_blocks", "num_res_block"), r"'model\.num_res_block' is not known.*'num_res_blocks'"),
        (MINIMAL.replace("model:", "modle:"), r"'modle' is not known.*'model'"),
        (MINIMAL + "optim: {lr: 1.0e-4, beta: 0.9}", r"'optim\.beta' is not known.*'beta1'"),
        (MINIMAL.replace("ch: 32", "ch: wide"), r"'model\.ch' is 'wide'"),
        (MINIMAL.replace("ch: 32, ", ""), r"'model\.ch' is missing"),
        (MINIMAL.replace("{image_size: 8}", "\n\timage_size: 8"), r"not YAML in line 2"),
        (MINIMAL.replace("image_size: 8", "image_size: 8, channels: 1"), r"data\.channels is 1.*3"),
        (MINIMAL.replace("image_size: 8", "image_size: 8, rescaled: false"), r"data\.rescaled must be true"),
        ("just words", r"found str, but a configuration, with the groups"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_field(tmp_path, text, message):
    with pytest.raises(DifflabError, match=rf"mine\.yml: .*{message}"):
        read_config(write(tmp_path, text)).card_fields()


def test_binary_content_is_not_yaml(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DifflabError, match="not YAML"):
        read_config(path)


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DifflabError, match="image_size is 9"):
        read_config(write(tmp_path, MINIMAL.replace("image_size: 8", "image_size: 9"))).card_fields()


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(DifflabError, match="'church'"):
        read_config("chruch.yml")
