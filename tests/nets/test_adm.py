from __future__ import annotations

import pytest
import torch

from difflab.nets.adm import ADM, AttentionPool, NoisyClassifier, ResidualBlock, attend
from difflab.nets.layers import cossin_embedding
from difflab.zoo.sizes import adm_size

SMALL = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": (8,),
    "num_head_channels": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("ADM-64", 295_904_454, 541),
        ("ADM-128", 421_529_606, 493),
        ("ADM-256", 553_838_086, 567),
        ("ADM-256-uncond", 552_814_086, 566),
        ("ADM-512", 558_997_638, 645),
        ("IDDPM-32", 52_546_438, 446),
        ("IDDPM-64", 121_063_942, 450),
        ("IDDPM-64-cond", 273_049_350, 451),
        ("IDDPM-256", 113_676_678, 426),
    ],
)
def test_released_sizes_have_their_published_parameters(name, parameters, tensors):
    with torch.device("meta"):
        state = ADM(**adm_size(name)).state_dict()
    assert (sum(value.numel() for value in state.values()), len(state)) == (parameters, tensors)


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_its_formula(new_order):
    """softmax(q k / sqrt(d)) v for each head, channels of one head lying as the order says."""
    qkv = torch.randn(2, 3 * 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attend(qkv, 2, new_order)
    for head in range(2):
        if new_order:
            q, k, v = (qkv[:, part * 6 + head * 3 : part * 6 + head * 3 + 3] for part in range(3))
        else:
            q, k, v = (qkv[:, head * 9 + part * 3 : head * 9 + part * 3 + 3] for part in range(3))
        weights = torch.einsum("bcn,bcm->bnm", q, k).div(3**0.5).softmax(-1)
        torch.testing.assert_close(found[:, 3 * head : 3 * head + 3], torch.einsum("bnm,bcm->bcn", weights, v))


@pytest.mark.parametrize("scale_shift", [True, False])
def test_a_residual_block_is_its_formula(scale_shift):
    """x + conv(swish(norm(h) (1 + scale) + shift)), or in the plain form norm(h + told), with h = conv(swish(norm(x)));
    norms have eps 1e-5."""
    torch.manual_seed(0)
    block = ResidualBlock(64, 64, 8, 0.0, scale_shift)
    torch.nn.init.normal_(block.out_layers[3].weight)
    x, swished = torch.randn(2, 64, 4, 4), torch.randn(2, 8)

    def norm(h: torch.Tensor) -> torch.Tensor:
        groups = h.unflatten(1, (32, 2))
        centred = groups - groups.mean((2, 3, 4), keepdim=True)
        return (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)

    def swish(h: torch.Tensor) -> torch.Tensor:
        return h * h.sigmoid()

    conv = block.in_layers[2]
    torch.nn.init.normal_(conv.weight, std=1e-3)  # so small that eps matters
    h, told = conv(swish(norm(x))), block.emb_layers[1](swished)[..., None, None]
    h = norm(h) * (1 + told[:, :64]) + told[:, 64:] if scale_shift else norm(h + told)
    torch.testing.assert_close(block(x, swished), x + block.out_layers[3](swish(h)), rtol=1e-4, atol=1e-4)


def test_a_class_is_a_row_that_is_added_to_the_timesteps_code():
    """So a row that is the difference of two timesteps' codes makes the one of the other."""
    torch.manual_seed(0)
    network = ADM(**SMALL, num_classes=2)
    torch.nn.init.normal_(network.out[2].weight)
    x, seen = torch.randn(1, 3, 16, 16), []
    network.middle_block[0].emb_layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    code = {t: network.time_embed(cossin_embedding(torch.tensor([t]), 32, 16)) for t in (3.0, 700.0)}
    with torch.no_grad():
        network.label_emb.weight[0] = 0.0
        network.label_emb.weight[1] = (code[700.0] - code[3.0])[0]
        network(x, torch.tensor([3.0]), torch.tensor([1]))
        network(x, torch.tensor([700.0]), torch.tensor([0]))
    torch.testing.assert_close(seen[0], seen[1])


def test_an_untrained_block_passes_its_input_resampled():
    """Its last convolution begins at zero."""
    x, told = torch.randn(1, 32, 4, 4), torch.randn(1, 8)
    assert torch.equal(ResidualBlock(32, 32, 8, 0.0, True)(x, told), x)
    half = ResidualBlock(32, 32, 8, 0.0, True, "down")(x, told)
    torch.testing.assert_close(half, x.unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).mean((-1, -3)))
    double = ResidualBlock(32, 32, 8, 0.0, False, "up")(x, told)
    assert torch.equal(double[..., ::2, 1::2], x)


def test_classes_are_asked_for_where_they_belong():
    x, t = torch.zeros(1, 3, 16, 16), torch.zeros(1)
    with pytest.raises(ValueError, match="classes are needed"):
        ADM(**SMALL, num_classes=3)(x, t)
    with pytest.raises(ValueError, match="told no classes"):
        ADM(**SMALL)(x, t, torch.tensor([1]))


def test_the_classifier_pools_with_attention():
    """With projections to q and k at zero every place weighs the same, the mean beside them: so the answer is linear in
    the mean of the pictures."""
    pool = AttentionPool(2, 8, 4, 3)
    with torch.no_grad():
        pool.positional_embedding.zero_()
        pool.qkv_proj.weight[:16] = 0
        pool.qkv_proj.bias.zero_()
    x = torch.randn(2, 8, 2, 2)
    v = pool.qkv_proj.weight[16:, :, 0]
    expected = x.mean((2, 3)) @ v.T @ pool.c_proj.weight[..., 0].T + pool.c_proj.bias
    torch.testing.assert_close(pool(x), expected)
    with torch.no_grad():  # a code of places adds to each, the first one being the mean's
        pool.positional_embedding.copy_(torch.randn(8, 5))
    moved = x.mean((2, 3)) + pool.positional_embedding.mean(1)
    expected = moved @ v.T @ pool.c_proj.weight[..., 0].T + pool.c_proj.bias
    torch.testing.assert_close(pool(x), expected)
    classifier = NoisyClassifier(**SMALL, num_classes=7)
    assert classifier(torch.zeros(2, 3, 16, 16), torch.tensor([0, 5])).shape == (2, 7)
