from __future__ import annotations

import pytest
import torch
from torch import nn

from difflab.nets.dit import DiT
from difflab.nets.unet2d import UNet2D
from difflab.train.config import OptimConfig
from difflab.train.muon import Muon
from difflab.train.optim import MuonWithAdam, hidden_matrices, make_optimizer, set_rate


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimisers_get_the_recipes_settings(name, kind):
    config = OptimConfig(
        name=name, lr=0.3, betas=(0.5, 0.7), eps=1e-3, weight_decay=0.1 if name != "sgd" else 0.0, amsgrad=True
    )
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    settings = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert settings["lr"] == 0.3
    if name.startswith("adam"):
        assert (settings["betas"], settings["eps"], settings["amsgrad"]) == ((0.5, 0.7), 1e-3, True)
    assert settings["weight_decay"] == config.weight_decay


def test_frozen_parameters_are_not_trained():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert len(make_optimizer(layer, OptimConfig()).param_groups[0]["params"]) == 1


# --- Muon


def muon(network: nn.Module, lr: float = 0.1, adam_lr: float = 0.01) -> MuonWithAdam:
    optimizer = make_optimizer(network, OptimConfig(name="muon", lr=lr, adam_lr=adam_lr))
    assert isinstance(optimizer, MuonWithAdam)
    return optimizer


def test_muon_moves_a_convolution_by_a_nearly_orthogonal_matrix_whatever_the_gradients_scale():
    """The update of a wide matrix is lr times one whose singular values lie near 1, as five Newton-Schulz steps leave
    them (0.68 to 1.14 by the published coefficients; bfloat16 adds about 1 %)."""
    layer = nn.Conv2d(4, 8, 3)
    for scale in (1e-3, 1e3):
        before = layer.weight.detach().clone()
        layer.weight.grad = scale * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
        layer.bias.grad = torch.ones(8)
        muon(layer).step()
        values = torch.linalg.svdvals(((before - layer.weight) / 0.1).reshape(8, -1).detach())
        assert 0.6 < values.min() <= values.max() < 1.25


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_steps_are_those_of_torchs_muon(shape):
    """torch iterates in bfloat16, whose numbers have 8 bits: five iterations differ by some percent of 1."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.1, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, nesterov=True),
    )
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    unit = 3 * 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5 / min(shape) ** 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * unit)
    assert (ours - theirs).abs().max() < 0.1 * ours.detach().abs().max()


def test_biases_take_adams_step():
    """Adam's first step is its rate times the sign of the gradient."""
    layer = nn.Conv2d(4, 8, 3)
    before = layer.bias.detach().clone()
    layer.weight.grad = torch.zeros_like(layer.weight)
    layer.bias.grad = torch.linspace(-1, 1, 8)
    muon(layer, adam_lr=0.01).step()
    torch.testing.assert_close(layer.bias.detach() - before, -0.01 * layer.bias.grad.sign(), rtol=1e-4, atol=1e-7)


def test_rates_of_both_parts_follow_one_course():
    layer = nn.Conv2d(4, 8, 3)
    optimizer = muon(layer, lr=0.1, adam_lr=0.01)
    set_rate(optimizer, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, pytest.approx(0.005)]
    layer.weight.grad, layer.bias.grad = torch.ones_like(layer.weight), torch.ones(8)
    before = layer.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(before - layer.bias.detach(), torch.full((8,), 0.005), rtol=1e-4, atol=1e-7)


def test_the_edges_of_the_unet_are_left_to_adam():
    network = UNet2D(image_size=8, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), groups=4)
    hidden = {id(p) for p in hidden_matrices(network)}
    names = {name for name, p in network.named_parameters() if id(p) in hidden}
    assert {"down.0.block.0.conv1.weight", "mid.attn_1.q.weight", "up.1.upsample.conv.weight"} <= names
    assert not [name for name in names if name.startswith(("conv_in", "conv_out", "temb.")) or name.endswith("bias")]
    assert "down.0.block.0.temb_proj.weight" in names


@pytest.mark.parametrize("told", [{"num_classes": 5}, {"cond_dim": 6}])
def test_the_edges_and_tables_of_the_dit_are_left_to_adam(told):
    network = DiT(input_size=8, hidden_size=32, depth=1, num_heads=4, conditioning="adaln-single", **told)
    hidden = {id(p) for p in hidden_matrices(network)}
    names = {name for name, p in network.named_parameters() if id(p) in hidden}
    layers = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    layers |= {"caption.q", "caption.kv", "caption.proj"} if "cond_dim" in told else set()
    assert names == {"shared.1.weight", *(f"blocks.0.{layer}.weight" for layer in layers)}


def test_muon_takes_no_closure():
    with pytest.raises(ValueError, match="closure"):
        muon(nn.Linear(2, 2)).step(lambda: 0.0)


def test_matrices_of_one_shape_are_moved_as_each_alone():
    """Several of a shape, in turn with others, with gradients of very different scales."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(6, 20), (8, 8), (6, 20), (8, 8), (20, 6)]
    values = [torch.randn(shape, generator=draw) for shape in shapes]
    together, alone = ([nn.Parameter(v.clone()) for v in values] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for _ in range(3):
        for k, (a, b) in enumerate(zip(together, alone, strict=True)):
            a.grad = 10.0 ** (3 * k - 6) * torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
