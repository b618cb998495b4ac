import pytest
import torch

from difflab.errors import DifflabError
from difflab.nets.unet2d import UNet2D
from difflab.zoo.families import UNet2DConfig
from difflab.zoo.infer import network_fields, official_match
from difflab.zoo.official import read_config


def shapes(network: UNet2DConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return UNet2D(**network.model_dump()).state_dict()


@pytest.mark.parametrize("name", ["cifar10", "celeba", "church"])
def test_official_networks_are_known_by_their_shapes(name):
    assert official_match(shapes(read_config(name).card_fields()["network"]), "file")[0] == name


def test_attention_on_another_level_is_not_the_official_network():
    network = read_config("cifar10").card_fields()["network"].model_copy(update={"attn_resolutions": (8,)})
    with pytest.raises(DifflabError, match=r"attention at levels \[2\].*image_size"):
        official_match(shapes(network), "file")


@pytest.mark.parametrize(
    "network",
    [
        UNet2DConfig(image_size=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,)),
        UNet2DConfig(image_size=16, ch=32, ch_mult=(2, 1, 3), num_res_blocks=3, attn_resolutions=(16, 4)),
        UNet2DConfig(
            image_size=8, ch=64, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), resamp_with_conv=False
        ),
        UNet2DConfig(image_size=8, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), in_channels=1, out_ch=2),
        UNet2DConfig(image_size=16, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), patch=2),
    ],
)
def test_shapes_and_image_size_tell_the_network(network):
    told = {"image_size": network.image_size, **({"patch": 2} if network.patch == 2 else {})}
    assert UNet2DConfig(**network_fields(shapes(network), told, "file")) == network


def test_what_is_told_decides_over_the_shapes(network, state):
    assert network_fields(state, {"image_size": 8, "num_res_blocks": 7}, "file")["num_res_blocks"] == 7


@pytest.mark.parametrize("name", ["conv_in.weight", "conv_out.weight", "down.1.block.0.conv1.weight"])
def test_a_missing_weight_that_decides_is_named(state, name):
    del state[name]
    with pytest.raises(DifflabError, match=f"{name} is missing"):
        network_fields(state, {}, "file")


def test_a_misshapen_weight_that_decides_is_named(state):
    state["conv_in.weight"] = torch.zeros(3)
    with pytest.raises(DifflabError, match=r"conv_in\.weight has shape \(3,\)"):
        network_fields(state, {}, "file")
