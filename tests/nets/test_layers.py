from __future__ import annotations

import math

import pytest
import torch

from difflab.nets.layers import cossin_embedding, silu, sincos_embedding


@pytest.mark.parametrize("t", [0.0, 1.0, 37.0, 499.5, 999.0])
@pytest.mark.parametrize("dim", [4, 32, 33])
def test_embedding_is_sines_then_cosines_at_geometric_rates(t, dim):
    half = dim // 2
    angles = [t * 10_000 ** (-k / (half - 1)) for k in range(half)]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * (dim % 2)
    found = sincos_embedding(torch.tensor([t]), dim)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], torch.tensor(expected), rtol=0, atol=2e-4)  # angles are rounded to float32


@pytest.mark.parametrize("span", [8, 7])
def test_the_other_embedding_is_cosines_then_sines_at_the_rates_of_its_span(span):
    angles = [37.0 * 10_000 ** (-k / span) for k in range(8)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    torch.testing.assert_close(
        cossin_embedding(torch.tensor([37]), 16, span)[0], torch.tensor(expected), rtol=0, atol=2e-5
    )


def test_integers_and_floats_are_the_same_timesteps():
    t = torch.tensor([0, 5, 999])
    assert torch.equal(sincos_embedding(t, 16), sincos_embedding(t.float(), 16))


def test_silu_is_x_times_sigmoid_and_spares_its_input_while_gradients_are_recorded():
    x = torch.linspace(-3, 3, 7)
    expected = x * torch.sigmoid(x)
    kept = x.clone()
    torch.testing.assert_close(silu(x), expected)
    assert torch.equal(x, kept)
    with torch.no_grad():
        torch.testing.assert_close(silu(x), expected)
