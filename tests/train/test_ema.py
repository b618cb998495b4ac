from __future__ import annotations

import pytest
import torch
from torch import nn

from difflab.train.ema import EMA


def network(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_average_after_n_steps_has_geometric_weights():
    """shadow_n = r^n p_0 + (1 - r) sum_k r^(n - k) p_k"""
    rate, values = 0.9, [1.0, -2.0, 0.5, 3.0]
    layer = network(values[0])
    ema = EMA(layer, rate)
    for value in values[1:]:
        nn.init.constant_(layer.weight, value)
        ema.update(layer)
    n = len(values) - 1
    expected = rate**n * values[0] + (1 - rate) * sum(rate ** (n - k) * values[k] for k in range(1, n + 1))
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 5.0), (1.0, 2.0)])
def test_rate_zero_follows_and_rate_one_stays(rate, expected):
    layer = network(2.0)
    ema = EMA(layer, rate)
    nn.init.constant_(layer.weight, 5.0)
    ema.update(layer)
    assert ema.state_dict()["weight"].item() == expected


def test_the_shadow_is_a_copy_and_updates_leave_the_network_alone():
    layer = network(2.0)
    ema = EMA(layer, 0.5)
    nn.init.constant_(layer.weight, 4.0)
    assert ema.state_dict()["weight"].item() == 2.0
    ema.update(layer)
    assert layer.weight.item() == 4.0


def test_frozen_parameters_are_not_averaged():
    layer = nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    assert EMA(layer, 0.5).state_dict().keys() == {"weight"}


def test_a_saved_average_goes_on_as_if_never_stopped():
    layer, other = network(1.0), network(7.0)
    first, second = EMA(layer, 0.9), EMA(other, 0.9)
    nn.init.constant_(layer.weight, 2.0)
    first.update(layer)
    for name, value in first.state_dict().items():
        second.state_dict()[name].copy_(value)
    for ema in (first, second):
        ema.update(layer)
    assert torch.equal(first.state_dict()["weight"], second.state_dict()["weight"])
