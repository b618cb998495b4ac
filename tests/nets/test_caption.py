"""Captions in memory, and in the networks that are told them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from difflab.nets.caption import Caption, CaptionAttention, CaptionEmbedding, pack, unpack
from difflab.nets.dit import DESIGNS, DiT
from difflab.nets.unet3d import UNet3D

WIDTH = 6
WAYS = [(design, way) for design in DESIGNS for way in ("cross-attention", "in-context")]
SMALL = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 4, "learn_sigma": False, "cond_dim": WIDTH}


def captions(*lengths: int, room: int = 5) -> torch.Tensor:
    """Captions (B, 1 + room, WIDTH) of so many tokens; of -1 there is none."""
    packed = torch.randn(len(lengths), 1 + room, WIDTH, generator=torch.Generator().manual_seed(5))
    for row, length in zip(packed, lengths, strict=True):
        row[1 + length :] = math.nan
    return packed


def dit(design: str, way: str) -> DiT:
    torch.manual_seed(0)
    return DiT(**SMALL, conditioning=design, caption=way)


def unet(**changes) -> UNet3D:
    torch.manual_seed(0)
    fields = {"image_size": 8, "dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8}
    return UNet3D(**{**fields, "cond_dim": WIDTH, "cond_tokens": True, **changes})


def opened(network: nn.Module) -> nn.Module:
    """With no weight left at zero, so that the output depends on everything."""
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.3, generator=generator)
    return network.eval()


def asked(network: nn.Module, packed: torch.Tensor) -> torch.Tensor:
    """Its answer for some noisy samples, told these captions."""
    shape = (len(packed), 3, 3, 8, 8) if isinstance(network, UNet3D) else (len(packed), 4, 8, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return network(x, torch.tensor([3.0, 500.0, 999.0])[: len(packed)], packed)


@pytest.fixture(
    scope="module", params=[*WAYS, "reference", "paper"], ids=lambda p: p if isinstance(p, str) else "+".join(p)
)
def network(request) -> nn.Module:
    if request.param == "reference":
        return opened(unet())
    if request.param == "paper":
        return opened(unet(attn_resolutions=(4,), strict_mask=True))
    return opened(dit(*request.param))


def test_a_caption_that_is_packed_and_unpacked_is_the_same_where_there_is_one():
    packed = captions(1, 3, 5)
    caption = unpack(packed, torch.full((WIDTH,), 7.0), torch.full((WIDTH,), 8.0))
    assert caption.present.sum(1).tolist() == [1, 3, 5]
    assert torch.equal(caption.vector, packed[:, 0])
    assert torch.equal(caption.tokens[caption.present], packed[:, 1:][caption.present])
    again = pack(caption)
    assert again.isnan().any(2).sum(1).tolist() == [4, 2, 0]
    assert torch.equal(again.nan_to_num(99.0), packed.nan_to_num(99.0))


@pytest.mark.parametrize("lacks", ["all", "vector", "tokens"])
def test_what_a_caption_lacks_is_taken_from_the_null(lacks):
    packed = captions(3, 2)
    if lacks != "tokens":
        packed[0, 0] = math.nan
    if lacks != "vector":
        packed[0, 1:] = math.nan
    null_vector, null_token = torch.full((WIDTH,), 7.0), torch.full((WIDTH,), 8.0)
    caption = unpack(packed, null_vector, null_token)
    if lacks != "tokens":
        assert torch.equal(caption.vector[0], null_vector)
    if lacks != "vector":
        assert torch.equal(caption.tokens[0][caption.present[0]], null_token[None])
    assert caption.present.sum(1).tolist() == [3 if lacks == "vector" else 1, 2]
    assert torch.equal(caption.vector[1], packed[1, 0])
    assert caption.tokens.isfinite().all()


@pytest.mark.parametrize("shape", [(2, WIDTH), (2, 1, WIDTH), (2, 4, WIDTH + 1), (2, 4, 4, WIDTH)])
def test_what_is_no_caption_is_refused(shape):
    with pytest.raises(ValueError, match=rf"captions are \(B, 1 \+ tokens, {WIDTH}\)"):
        unpack(torch.zeros(shape), torch.zeros(WIDTH), torch.zeros(WIDTH))
    for network in (dit("adaln-zero", "cross-attention"), unet()):
        with pytest.raises(ValueError, match="captions are"):
            asked(network, torch.zeros(shape))


def test_attention_to_a_caption_is_that_to_the_tokens_that_are_there():
    torch.manual_seed(0)
    attend, x, tokens = CaptionAttention(8, 2, WIDTH), torch.randn(2, 4, 8), torch.randn(2, 5, WIDTH)
    present = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    for one, said, there, found in zip(x, tokens, present, attend(x, tokens, present), strict=True):
        k, v = attend.kv(said[there]).chunk(2, dim=1)
        heads = []
        for q, k_h, v_h in zip(attend.q(one).split(4, 1), k.split(4, 1), v.split(4, 1), strict=True):
            heads.append((q @ k_h.T / math.sqrt(4)).softmax(1) @ v_h)
        torch.testing.assert_close(found, attend.proj(torch.cat(heads, 1)))


def test_absent_tokens_never_matter(network):
    packed = captions(2, 4, -1)
    answer = asked(network, packed)
    assert answer.isfinite().all()
    longer = torch.cat([packed, torch.full((3, 4, WIDTH), math.nan)], dim=1)
    torch.testing.assert_close(asked(network, longer), answer, rtol=1e-4, atol=1e-5)
    partly = torch.where(
        packed.isnan().cumsum(2) > 1, 1e3, packed
    )  # one NaN makes a token absent, whatever else it holds
    assert not torch.equal(partly.isnan(), packed.isnan())
    torch.testing.assert_close(asked(network, partly), answer, rtol=1e-4, atol=1e-5)


def test_hidden_captions_are_all_alike_and_unlike_any_other(network):
    long, short = captions(-1, -1, -1), captions(-1, -1, -1, room=1)
    torch.testing.assert_close(asked(network, long), asked(network, short), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(asked(network, captions(5, 5, 5)), asked(network, long), atol=1e-3)


@pytest.mark.parametrize("row", [0, 2])
def test_vector_and_tokens_matter_to_their_own_sample_alone(network, row):
    packed = captions(3, 2, 4)
    answer = asked(network, packed)
    changed = packed.clone()
    changed[1, row] += 1.0
    found = asked(network, changed)
    assert not torch.allclose(found[1], answer[1], atol=1e-4)
    torch.testing.assert_close(found[::2], answer[::2], rtol=1e-4, atol=1e-5)
    changed[1] = math.nan
    torch.testing.assert_close(asked(network, changed)[::2], answer[::2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(asked(network, packed[:1])[0], answer[0], rtol=1e-4, atol=1e-5)


def test_what_is_absent_leaves_gradients_finite(network):
    network.zero_grad()
    asked(network, captions(2, -1, 5)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    nulls = [p for name, p in network.named_parameters() if "null" in name]
    assert nulls
    assert all(p.grad.any() for p in nulls)


def test_without_hidden_captions_the_null_is_not_learned(network):
    network.zero_grad()
    asked(network, captions(2, 1, 5)).square().mean().backward()
    assert not any(p.grad.any() for name, p in network.named_parameters() if "null" in name)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("way", ["cross-attention", "in-context"])
def test_recomputed_activations_give_the_same_gradients(design, way):
    network, gradients = opened(dit(design, way)), []
    for network.checkpointing in (False, True):
        network.zero_grad()
        asked(network, captions(2, -1, 5)).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("network", [dit("adaln-single", "cross-attention"), unet()], ids=["dit", "unet3d"])
def test_tokens_change_nothing_at_first_and_are_not_deaf_for_ever(network):
    """The output layer of a DiT is zero at first, too, which would hide it."""
    if isinstance(network, DiT):
        nn.init.normal_(network.final_layer.linear.weight)
    packed, other = captions(2, 4, 5), captions(2, 4, 5)
    other[:, 1:] = packed[:, 1:].flip(2)
    answer = asked(network, packed)
    assert answer.any()
    torch.testing.assert_close(asked(network, other), answer)
    answer.square().mean().backward()
    layers = [module.proj.weight.grad for module in network.modules() if isinstance(module, CaptionAttention)]
    assert layers
    assert all(grad.any() for grad in layers)


@pytest.mark.parametrize("design", ["adaln-zero", "in-context"])
def test_tokens_in_context_travel_along_and_are_taken_away(design):
    network, seen = opened(dit(design, "in-context")), []
    network.blocks[1].register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    network.final_layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    assert asked(network, captions(2, 4, 5)).shape == (3, 4, 8, 8)
    assert seen == [16 + 5 + 2 * (design == "in-context"), 16]
    assert not [module for module in network.modules() if isinstance(module, CaptionAttention)]


@pytest.mark.parametrize("depth", [1, 3])
def test_one_modulation_for_all_blocks_has_the_parameters_that_pixart_counts(depth):
    """A block of width D has attention 4 D^2 + 4 D, MLP 8 D^2 + 5 D, attention to the caption 4 D^2 + 4 D, and a table
    of 6 D in the place of a layer of 6 D^2 + 6 D, of which there is one for all."""
    d, p, c = 32, 2, 4
    network = DiT(**{**SMALL, "depth": depth}, conditioning="adaln-single")
    blocks = depth * (16 * d**2 + 13 * d + 6 * d)
    shared = 6 * d**2 + 6 * d
    embeddings = (p * p * c * d + d) + (256 * d + d + d**2 + d) + 2 * (WIDTH * d + d + d**2 + d) + 2 * WIDTH
    final = (2 * d**2 + 2 * d) + (d * p * p * c + p * p * c)
    assert sum(q.numel() for q in network.parameters()) == blocks + shared + embeddings + final
    own = DiT(**{**SMALL, "depth": depth}, conditioning="adaln-zero")
    spared = sum(q.numel() for q in own.parameters()) - sum(q.numel() for q in network.parameters())
    assert spared == (depth - 1) * shared - depth * 6 * d


def test_blocks_that_share_a_modulation_differ_by_their_tables():
    """With tables and the shared layer made those of a network with layers of its own, both are the same function."""
    single, zero = opened(dit("adaln-single", "cross-attention")), opened(dit("adaln-zero", "cross-attention"))
    state = {name: value for name, value in single.state_dict().items() if not name.startswith("shared")}
    for i, block in enumerate(single.blocks):
        layer = single.shared.linear
        state.pop(f"blocks.{i}.scale_shift_table")
        state[f"blocks.{i}.adaLN_modulation.1.weight"] = layer.weight
        state[f"blocks.{i}.adaLN_modulation.1.bias"] = layer.bias + block.scale_shift_table.flatten()
    zero.load_state_dict(state)
    torch.testing.assert_close(asked(zero, captions(2, -1, 5)), asked(single, captions(2, -1, 5)), rtol=1e-4, atol=1e-5)


def test_what_is_embedded_keeps_what_is_there():
    torch.manual_seed(0)
    embed, packed = CaptionEmbedding(WIDTH, 8), captions(2, -1)
    found = embed(packed)
    assert isinstance(found, Caption)
    assert found.present.tolist() == [[True, True, False, False, False], [True, False, False, False, False]]
    torch.testing.assert_close(found.vector[0], embed.vector(packed[0, 0]))
    torch.testing.assert_close(found.vector[1], embed.vector(embed.null[0]))
    torch.testing.assert_close(found.tokens[1, 0], embed.tokens(embed.null[1]))
