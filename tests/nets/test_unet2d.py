from __future__ import annotations

import pytest
import torch

from difflab.nets.unet2d import AttentionBlock, Downsample, ResidualBlock, UNet2D, Upsample
from difflab.zoo.official import SHIPPED, read_config

SMALL = {"image_size": 8, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}


def official(name: str) -> UNet2D:
    """The network of a shipped official configuration, without memory for its weights."""
    config = read_config(name)
    arguments = config.model.model_dump(exclude={"type", "var_type", "ema", "ema_rate"})
    with torch.device("meta"):
        return UNet2D(image_size=config.data.image_size, **arguments)


def small(**changes) -> UNet2D:
    torch.manual_seed(0)
    return UNet2D(**{**SMALL, **changes}).eval()


def pictures(n: int = 2, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


# Parameters and tensors of the released checkpoints.
SIZES = {
    "cifar10": (35_746_307, 328),
    "celeba": (78_700_803, 390),
    "church": (113_673_219, 450),
    "bedroom": (113_673_219, 450),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_official_networks_have_the_size_of_the_released_weights(name):
    state = official(name).state_dict()
    assert (sum(v.numel() for v in state.values()), len(state)) == SIZES[name]


@pytest.mark.parametrize(("name", "level"), [("cifar10", 1), ("celeba", 2), ("church", 4), ("bedroom", 4)])
def test_attention_sits_at_the_level_of_16_pixels(name, level):
    network = official(name)
    for side, blocks in (("down", 2), ("up", 3)):
        found = {i: len(stage.attn) for i, stage in enumerate(getattr(network, side)) if len(stage.attn)}
        assert found == {level: blocks}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("temb.dense.1.weight", (512, 512)),
        ("conv_in.weight", (128, 3, 3, 3)),
        ("down.1.block.0.nin_shortcut.weight", (256, 128, 1, 1)),
        ("down.1.attn.1.proj_out.weight", (256, 256, 1, 1)),
        ("down.2.downsample.conv.weight", (256, 256, 3, 3)),
        ("mid.attn_1.q.weight", (256, 256, 1, 1)),
        ("up.3.block.0.conv1.weight", (256, 512, 3, 3)),
        ("up.1.block.2.conv1.weight", (256, 384, 3, 3)),
        ("up.0.block.0.conv1.weight", (128, 384, 3, 3)),
        ("up.1.upsample.conv.weight", (256, 256, 3, 3)),
        ("conv_out.weight", (3, 128, 3, 3)),
    ],
)
def test_weights_have_the_official_names_and_shapes(name, shape):
    assert official("cifar10").state_dict()[name].shape == shape


def test_no_resampling_at_the_ends_of_the_levels():
    names = official("cifar10").state_dict().keys()
    assert "down.3.downsample.conv.weight" not in names
    assert "up.0.upsample.conv.weight" not in names


@pytest.mark.parametrize("changes", [{}, {"in_channels": 1, "out_ch": 2}, {"resamp_with_conv": False}, {"patch": 2}])
def test_output_has_the_shape_of_a_picture_with_out_ch_channels(changes):
    channels, out = changes.get("in_channels", 3), changes.get("out_ch", 3)
    assert small(**changes)(pictures(2, channels), torch.tensor([1.0, 5.0])).shape == (2, out, 8, 8)


@pytest.mark.parametrize("shape", [(2, 3, 8, 16), (2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes images of shape \(3, 8, 8\)"):
        small()(torch.zeros(shape), torch.zeros(shape[0]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ch": 48}, "ch is 48.*multiple of 32"),
        ({"image_size": 9}, "9 cannot be halved 1"),
        ({"patch": 3}, "patches of 3"),
    ],
)
def test_impossible_networks_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        UNet2D(**{**SMALL, **changes})


def test_timesteps_may_lie_between_integers():
    network, x = small(), pictures(1).expand(3, -1, -1, -1)
    with torch.no_grad():
        at_3, between, at_4 = network(x, torch.tensor([3.0, 3.5, 4.0]))
    assert not torch.allclose(between, at_3, atol=1e-6)
    assert not torch.allclose(between, at_4, atol=1e-6)
    assert (between - at_3).norm() < (at_4 - at_3).norm()


def test_a_sample_does_not_depend_on_its_batch():
    network, x, t = small(), pictures(5), torch.tensor([0.0, 10.0, 200.0, 500.0, 999.0])
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(network(x, t), alone, rtol=0, atol=1e-5)


def test_answers_are_the_same_with_and_without_gradients_and_leave_the_input_alone():
    network, x, t = small(), pictures(), torch.tensor([3.0, 700.0])
    kept, recorded = x.clone(), network(x, t)
    with torch.no_grad():
        assert torch.equal(network(x, t), recorded)
    assert torch.equal(x, kept)


def test_every_weight_takes_part():
    network = small()
    network(pictures(), torch.tensor([3.0, 700.0])).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias shared by all keys shifts all scores of a query alike, so softmax cancels it up to rounding.
    assert [name for name in unused if not name.endswith("k.bias")] == []


def test_dropout_acts_in_training_only():
    network, x, t = small(dropout=0.5), pictures(), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        assert torch.equal(network(x, t), network(x, t))
        network.train()
        assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 1), (2, 2), (0, 2)])
def test_downsampling_pads_at_the_bottom_and_right_only(row, column):
    """A kernel with a single tap reads pixel (2 i + row, 2 j + column), and zero beyond the picture."""
    down = Downsample(1, with_conv=True)
    with torch.no_grad():
        down.conv.weight.zero_()[0, 0, row, column] = 1
        down.conv.bias.zero_()
        x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8)
        found = down(x)[0, 0]
    beyond = torch.zeros(10, 10)
    beyond[:8, :8] = x[0, 0]
    assert torch.equal(found, beyond[row : row + 8 : 2, column : column + 8 : 2])


def test_resampling_without_convolutions_is_a_mean_and_a_repetition():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Downsample(1, with_conv=False)(x)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert torch.equal(Upsample(1, with_conv=False)(x), torch.kron(x, torch.ones(2, 2)))


def test_a_residual_block_is_its_formula():
    """x + conv(swish(norm(conv(swish(norm(x))) + proj(temb))))."""
    torch.manual_seed(0)
    block, x, temb = ResidualBlock(32, 32, 8, 0.0, groups=8), pictures(2, 32, 4), torch.randn(2, 8)

    def swish(h: torch.Tensor) -> torch.Tensor:
        return h * h.sigmoid()

    h = block.conv1(swish(block.norm1(x))) + (temb @ block.temb_proj.weight.T + block.temb_proj.bias)[..., None, None]
    torch.testing.assert_close(block(x, temb), x + block.conv2(swish(block.norm2(h))))


def test_attention_is_one_softmax_over_all_pixels_with_scores_over_the_root_of_channels():
    torch.manual_seed(0)
    block, x = AttentionBlock(32, groups=32), pictures(2, 32, 4)
    with torch.no_grad():
        h = block.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (block.q, block.k, block.v))  # (B, C, P)
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / 32**0.5, dim=-1)
        mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
        torch.testing.assert_close(block(x), x + block.proj_out(mixed), rtol=0, atol=1e-5)


def test_patches_fold_into_channels_and_back():
    """A patched network is the plain one of half the size on pictures folded by hand."""
    patched = small(patch=2, attn_resolutions=(2,))
    plain = small(image_size=4, in_channels=12, out_ch=12, attn_resolutions=(2,))
    plain.load_state_dict(patched.state_dict())
    x, t = pictures(), torch.tensor([3.0, 700.0])
    folded = x.reshape(2, 3, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 4, 4)
    with torch.no_grad():
        unfolded = plain(folded, t).reshape(2, 3, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 8, 8)
        assert torch.equal(patched(x, t), unfolded)


def test_fewer_groups_let_the_mean_colour_through():
    """With as many groups as channels, group norm erases a constant added to a channel; with fewer it does not."""

    def change(groups: int) -> float:
        network = small(groups=groups)
        norm = network.down[0].block[0].norm1
        h = pictures(1, 32)
        with torch.no_grad():
            return (norm(h + torch.arange(32.0)[:, None, None]) - norm(h)).abs().max().item()

    assert change(32) < 1e-4
    assert change(8) > 0.1


def test_norms_use_the_official_epsilon_and_groups():
    norms = [m for m in official("cifar10").modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {(norm.eps, norm.num_groups) for norm in norms} == {(1e-6, 32)}
