from __future__ import annotations

import math

import pytest
import torch

from difflab.nets.dit import DESIGNS, DiT, Told, position_table
from difflab.zoo.families import DiTConfig
from difflab.zoo.sizes import DIT_NAMES, dit_size

SMALL = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
# Trainable parameters, in the order S, B, L, XL and patch 2, 4, 8, with 1000 classes and a learned variance.
PUBLISHED = {
    "DiT-XL/2": 674_834_720, "DiT-XL/4": 675_000_704, "DiT-XL/8": 675_664_640,
    "DiT-L/2": 457_840_672, "DiT-L/4": 457_988_224, "DiT-L/8": 458_578_432,
    "DiT-B/2": 130_315_808, "DiT-B/4": 130_426_496, "DiT-B/8": 130_869_248,
    "DiT-S/2": 32_865_056, "DiT-S/4": 32_920_448, "DiT-S/8": 33_142_016,
}  # fmt: skip


def built(**changes) -> DiT:
    torch.manual_seed(0)
    return DiT(**{**SMALL, **changes})


def inputs(n: int = 3, channels: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, 8, 8, generator=generator), torch.tensor([3.0, 500.0, 999.0])[:n], torch.arange(n)


def opened(network: DiT) -> DiT:
    """With no weight left at zero, so that the output depends on everything."""
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1, generator=generator)
    return network


@pytest.mark.parametrize("name", DIT_NAMES)
def test_published_sizes_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        network = DiT(**DiTConfig(**dit_size(name)).model_dump())
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("design", "millions"), [("in-context", 449), ("cross-attention", 598), ("adaln", 601), ("adaln-zero", 675)]
)
def test_the_other_designs_have_the_papers_number_of_parameters(design, millions):
    with torch.device("meta"):
        network = DiT(conditioning=design)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def normed(h: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights, eps 1e-6."""
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("design", ["adaln-zero", "adaln-single", "adaln"])
def test_a_branch_is_shifted_scaled_and_gated_as_the_paper_has_it(design):
    """x + gate branch(norm(x) (1 + scale) + shift), of attention, then of the MLP; without -zero the gate is 1."""
    block = opened(built(conditioning=design)).blocks[0]
    x, c, shared = 0.01 * torch.randn(2, 16, 32), torch.randn(2, 32), torch.randn(2, 6, 32)  # so small that eps matters
    if design == "adaln-single":
        shift, scale, gate, shift2, scale2, gate2 = (shared + block.scale_shift_table)[:, :, None].unbind(1)
    else:
        parts = block.adaLN_modulation.linear(c)[:, None].split(32, dim=-1)
        shift, scale, gate, shift2, scale2, gate2 = parts if design == "adaln-zero" else (*parts[:2], 1, *parts[2:], 1)
    expected = x + gate * block.attn(normed(x) * (1 + scale) + shift)
    expected = expected + gate2 * block.mlp(normed(expected) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, Told(c, torch.randn(2, 2, 32), shared)), expected)


def test_a_branch_that_attends_to_the_condition_is_added_between_the_two():
    block = built(conditioning="cross-attention").blocks[0]
    x, sequence = torch.randn(2, 16, 32), torch.randn(2, 2, 32)
    expected = x + block.attn(normed(x))
    expected = expected + block.cross(normed(expected), sequence)
    expected = expected + block.mlp(normed(expected))
    torch.testing.assert_close(block(x, Told(torch.randn(2, 32), sequence)), expected)


def test_places_are_told_by_the_table_alone():
    """Without it, pictures whose patches are exchanged have answers whose patches are."""
    network, (x, t, y) = opened(built()), inputs()

    def differs() -> bool:
        answer, rolled = network(x, t, y), network(x.roll(2, -1), t, y)
        return not torch.allclose(answer.roll(2, -1), rolled, atol=1e-5)

    assert differs()
    network.pos_embed.zero_()
    assert not differs()


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_every_design_answers_nothing_at_first(design, learn_sigma):
    x, t, y = inputs()
    answer = built(conditioning=design, learn_sigma=learn_sigma)(x, t, y)
    assert answer.shape == (3, 8 if learn_sigma else 4, 8, 8)
    assert not answer.any()


def test_only_with_zero_gates_is_a_block_the_identity_at_first():
    tokens, c = torch.randn(2, 16, 32), torch.randn(2, 32)
    for design in DESIGNS:
        block = built(conditioning=design).blocks[0]
        told = Told(c, torch.randn(2, 2, 32), torch.randn(2, 6, 32) if DESIGNS[design].shared else None)
        same = torch.equal(block(tokens, told), tokens)
        assert same == (design == "adaln-zero"), design


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_hears_timestep_and_class_and_nothing_of_its_neighbours(design):
    network = opened(built(conditioning=design)).eval()
    x, t, y = inputs()
    answer = network(x, t, y)
    for changed in ((x, t.flip(0), y), (x, t, y.flip(0))):
        other = network(*changed)
        assert not torch.allclose(other[0], answer[0], atol=1e-5)
        torch.testing.assert_close(other[1], answer[1], rtol=1e-5, atol=1e-6)
    for i in range(3):
        torch.testing.assert_close(
            network(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], answer[i], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("design", DESIGNS)
def test_recomputed_activations_give_the_same_gradients(design):
    network, (x, t, y) = opened(built(conditioning=design)), inputs()
    gradients = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        network(x, t, y).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-8)


def test_patches_are_cut_and_put_back_in_place():
    """With the network's inside replaced by the identity on patches, the output is the input."""
    network = built(hidden_size=16, num_heads=4, depth=1, learn_sigma=False)  # 16 = 2 x 2 x 4: a patch fits a token
    with torch.no_grad():
        weight = torch.eye(16).reshape(16, 2, 2, 4).permute(0, 3, 1, 2)  # token: rows, columns, channel fastest
        network.x_embedder.proj.weight.copy_(weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(network._unpatchify(network.x_embedder(x)), x)


def test_positions_are_coded_columns_first():
    table = position_table(8, 3)
    code = [[math.sin(m), math.sin(m / 100), math.cos(m), math.cos(m / 100)] for m in range(3)]
    assert table.shape == (9, 8)
    for row in range(3):
        for column in range(3):
            assert table[3 * row + column].tolist() == pytest.approx(code[column] + code[row])


def test_a_row_for_no_class_is_there_only_if_classes_are_hidden():
    assert built().y_embedder.embedding_table.num_embeddings == 6
    assert built(class_dropout_prob=0.0).y_embedder.embedding_table.num_embeddings == 5


def test_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"takes inputs of shape \(4, 8, 8\), not \(3, 8, 8\)"):
        built()(*inputs(channels=3))
    with pytest.raises(ValueError, match="not divisible by patch_size"):
        built(patch_size=3)
