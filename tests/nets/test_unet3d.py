from __future__ import annotations

import math

import pytest
import torch

from difflab.nets.unet3d import ChannelRMS, Clip, ClipGroupNorm, ResidualBlock, UNet3D
from difflab.nets.unet3d_attention import LinearAttention, relative_buckets, rotary_phases, rotate

SMALL = {"image_size": 16, "dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8}


def network(**changes) -> UNet3D:
    torch.manual_seed(0)
    return UNet3D(**{**SMALL, **changes}).eval()


def clips(n=2, frames=5, side=16, channels=3) -> torch.Tensor:
    return torch.randn(n, channels, frames, side, side, generator=torch.Generator().manual_seed(1))


def ask(net: UNet3D, x: torch.Tensor, **options) -> torch.Tensor:
    with torch.no_grad():
        return net(x, torch.full((len(x),), 3.0), **options)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_any_number_of_frames_and_any_side_that_can_be_halved(frames):
    assert ask(network(), clips(frames=frames, side=12)).shape == (2, 3, frames, 12, 12)


def test_a_block_of_places_at_a_time_is_all_places_at_once(monkeypatch):
    net, x = network(), clips()
    whole = ask(net, x)
    monkeypatch.setattr("difflab.nets.unet3d_attention._AT_ONCE", 1)
    torch.testing.assert_close(ask(net, x), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"attn_resolutions": (8,)}])
def test_fused_attention_is_the_plain_products(changes, monkeypatch):
    """What GPUs and long clips use, with the bias by relative position."""
    net, x = network(**changes), clips()
    torch.nn.init.normal_(net.position_bias.weight)
    plain = ask(net, x)
    monkeypatch.setattr("difflab.nets.unet3d_attention._FEW_FRAMES", 0)
    torch.testing.assert_close(ask(net, x), plain, rtol=1e-4, atol=1e-5)
    net.position_bias.weight.data.zero_()
    assert not torch.allclose(ask(net, x), plain, atol=1e-3)


def test_patches_fold_into_channels_and_back():
    """A patched network is the plain one of half the size on frames folded by hand, attention at the same places."""
    patched = network(patch=2, attn_resolutions=(4,), init_kernel_size=3)
    plain = network(image_size=8, channels=12, attn_resolutions=(4,), init_kernel_size=3)
    plain.load_state_dict(patched.state_dict())
    x = clips(side=16)[..., :12]
    folded = x.reshape(2, 3, 5, 8, 2, 6, 2).permute(0, 1, 4, 6, 2, 3, 5).reshape(2, 12, 5, 8, 6)
    back = ask(plain, folded).reshape(2, 3, 2, 2, 5, 8, 6).permute(0, 1, 4, 5, 2, 6, 3).reshape(2, 3, 5, 16, 12)
    torch.testing.assert_close(ask(patched, x), back, rtol=1e-5, atol=1e-6)


def test_gradients_flow_as_without_blocks():
    net, x = network(), clips()
    recorded = net(x, torch.full((2,), 3.0))
    torch.testing.assert_close(recorded, ask(net, x), rtol=1e-4, atol=1e-5)
    recorded.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("changes", [{}, {"norm": "group", "resnet_groups": 2}, {"attn_resolutions": (8,)}])
def test_samples_of_a_batch_do_not_touch(changes):
    net, x = network(**changes), clips()
    torch.testing.assert_close(ask(net, x)[:1], ask(net, x[:1]), rtol=1e-4, atol=1e-5)


def test_only_frames_that_are_linked_touch():
    """With a strict mask a frame alone sees nothing of the others; without one the first attention mixes them."""
    x = clips(n=1)
    changed = x.clone()
    changed[:, :, 0] += 1.0
    alone = torch.ones(1, dtype=torch.bool)
    for strict, touched in ((True, False), (False, True)):
        net = network(strict_mask=strict)
        gap = (ask(net, x, alone=alone) - ask(net, changed, alone=alone))[:, :, 1:].abs().max()
        assert (gap > 0) == touched


def test_pictures_beside_a_clip_touch_nothing_and_their_order_does_not_matter():
    """Joint training: 4 frames of a clip, then 3 pictures."""
    net, x = network(strict_mask=True), clips(frames=7)
    answer = ask(net, x, images=3)
    torch.testing.assert_close(answer[:, :, :4], ask(net, x[:, :, :4]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answer[:, :, 5:6], ask(net, x[:, :, 5:6]), rtol=1e-4, atol=1e-5)
    swapped = ask(net, x[:, :, [0, 1, 2, 3, 6, 5, 4]], images=3)
    torch.testing.assert_close(swapped[:, :, [6, 5, 4]], answer[:, :, 4:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="strict_mask"):
        ask(network(), x, images=3)
    with pytest.raises(ValueError, match="need norm rms"):
        ask(network(strict_mask=True, norm="group", resnet_groups=2), x, images=3)
    paper = network(attn_resolutions=(8,))  # has no attention before the masked ones
    torch.testing.assert_close(
        ask(paper, x[:, :, [0, 1, 2, 3, 6, 5, 4]], images=3)[:, :, :4], ask(paper, x, images=3)[:, :, :4]
    )


def test_the_papers_form_attends_at_its_resolutions_alone():
    net = network(attn_resolutions=(8,), use_sparse_linear_attn=True)
    assert [down.spatial is not None for down in net.downs] == [False, True]
    assert [up.temporal is not None for up in net.ups] == [True, False]
    assert net.init_temporal is None
    assert ask(net, clips()).shape == (2, 3, 5, 16, 16)


def test_hidden_conditions_are_the_null_vector():
    net = network(cond_dim=4)
    x = clips()
    null = net.null_condition.detach().expand(2, 4)
    torch.testing.assert_close(ask(net, x, condition=torch.full((2, 4), math.nan)), ask(net, x, condition=null))
    classes = network(cond_dim=4, num_classes=3)
    null = classes.null_condition.detach().expand(2, 4)
    torch.testing.assert_close(ask(classes, x, condition=torch.tensor([3, 3])), ask(classes, x, condition=null))
    code = classes.class_table.weight.detach()[[2, 0]]
    torch.testing.assert_close(ask(classes, x, condition=torch.tensor([2, 0])), ask(classes, x, condition=code))


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (torch.zeros(1, 3, 4, 15, 16), {}, "multiples of 2"),
        (torch.zeros(1, 1, 4, 16, 16), {}, r"clips \(B, 3, F, H, W\)"),
        (torch.zeros(1, 3, 0, 16, 16), {}, "clips"),
        (torch.zeros(1, 3, 4, 16, 16), {"condition": torch.zeros(1, 4)}, "told no condition"),
    ],
)
def test_what_does_not_fit_is_refused(x, options, words):
    with pytest.raises(ValueError, match=words):
        ask(network(), x, **options)


def test_group_norm_is_over_all_frames():
    """Against torch's, on clips with an axis of frames."""
    norm = ClipGroupNorm(2, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 4, 4)
    folded = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    found = norm(folded, 3).unflatten(0, (2, 3)).transpose(1, 2)
    expected = torch.nn.functional.group_norm(x, 2, norm.weight, norm.bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_norm_of_channels_leaves_a_root_mean_square_of_gamma():
    norm, h = ChannelRMS(6), torch.randn(4, 6, 3, 3)
    torch.testing.assert_close(norm(h, 2).square().mean(1), torch.ones(4, 3, 3))
    torch.nn.init.constant_(norm.gamma, 3.0)
    torch.testing.assert_close(norm(h, 2), 3.0 * h / h.square().mean(1, keepdim=True).sqrt())


def test_a_residual_block_is_its_formula():
    """h + swish(norm(conv(swish(norm(conv(h)) (1 + scale) + shift)))), told scale first, alike for all frames."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 4, "rms", 4)
    h, swished = torch.randn(6, 8, 4, 4), torch.randn(2, 4)

    def part(block: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
        return block.norm(block.proj(h), 3)

    def swish(h: torch.Tensor) -> torch.Tensor:
        return h * h.sigmoid()

    told = (swished @ block.mlp.weight.T + block.mlp.bias)[[0, 0, 0, 1, 1, 1]][..., None, None]
    inner = swish(part(block.block1, h) * (1 + told[:, :8]) + told[:, 8:])
    torch.testing.assert_close(block(h, swished, Clip(3, (3, 3))), h + swish(part(block.block2, inner)))


def test_linear_attention_is_its_formula():
    """softmax(q over features) / sqrt(d) @ (softmax(k over places)' v) for each head."""
    torch.manual_seed(0)
    layer, h = LinearAttention(8, 2), torch.randn(3, 8, 4, 5)
    tokens = h.flatten(2).transpose(1, 2)
    q, k, v = layer.to_qkv(layer.norm(tokens)).unflatten(-1, (3, 2, 32)).unbind(2)
    told = torch.einsum("nphd,nphe->nhde", k.softmax(1), v)
    mixed = torch.einsum("nphd,nhde->nphe", q.softmax(-1) / 32**0.5, told).flatten(2)
    expected = h + layer.to_out(mixed).transpose(1, 2).view_as(h)
    torch.testing.assert_close(layer(h), expected)


def test_a_condition_comes_after_the_timesteps_code():
    net = network(cond_dim=3)
    condition = torch.randn(2, 3)
    code = net._embed(torch.tensor([3.0, 700.0]), condition)
    assert code.shape == (2, 35)
    assert torch.equal(code[:, 32:], condition)


def test_pairs_turn_more_slowly_the_further_they_lie_back():
    """By p 10000^(-2 j / R) in frame p."""
    turned = rotate(torch.tensor([1.0, 0.0] * 4).expand(3, 8), rotary_phases(3, 8, torch.device("cpu")))
    for frame in range(3):
        angles = [frame * 10_000 ** (-2 * pair / 8) for pair in range(4)]
        expected = [f(a) for a in angles for f in (math.cos, math.sin)]
        torch.testing.assert_close(turned[frame], torch.tensor(expected))


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(8), torch.randn(8)
    phases = rotary_phases(9, 8, torch.device("cpu"))
    turned_q, turned_k = rotate(q.expand(9, 8), phases), rotate(k.expand(9, 8), phases)
    scores = turned_q @ turned_k.T
    for distance in (-3, 0, 4):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(9), rtol=1e-5, atol=1e-6)


def test_buckets_of_the_future_follow_those_of_the_past():
    table = relative_buckets(40)
    past = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10, 11, 11, *[12] * 4, *[13] * 3, *[14] * 4, *[15] * 13]
    assert table[39].tolist() == past[::-1]
    assert table[0, 1:].tolist() == [16 + bucket for bucket in past[1:]]
