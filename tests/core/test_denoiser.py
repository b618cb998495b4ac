from __future__ import annotations

from typing import get_args

import pytest
import torch

from difflab.core.denoiser import Denoiser, Told, threshold
from difflab.core.prediction import Prediction, target
from difflab.core.schedule import make_schedule

AT = make_schedule("linear").point(600)


def _x() -> torch.Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", get_args(Prediction))
def test_the_networks_answer_is_read_as_what_it_predicts(kind):
    x0, eps = _x().flip(0), _x()
    x = AT.alpha * x0 + AT.sigma * eps
    estimate = Denoiser(Told(lambda x, t: target(x0, eps, AT, kind)), kind)(x, AT)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=2e-5)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=2e-5)
    assert estimate.variance_share is None


def test_the_network_is_told_the_timestep_once_a_sample_as_float():
    seen = []
    Denoiser(Told(lambda x, t: seen.append(t) or x))(_x(), AT)
    assert torch.equal(seen[0], torch.full((4,), 600.0))
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize("kind", get_args(Prediction))
def test_clipping_bounds_x0_and_moves_eps_along(kind):
    x = 3 * _x()
    estimate = Denoiser(Told(lambda x, t: 2 * x), kind, clip=True)(x, AT)
    unclipped = Denoiser(Told(lambda x, t: 2 * x), kind)(x, AT)
    assert unclipped.x0.abs().max() > 1
    assert torch.equal(estimate.x0, unclipped.x0.clamp(-1, 1))
    torch.testing.assert_close(AT.alpha * estimate.x0 + AT.sigma * estimate.eps, x)


def test_dynamic_thresholding_brings_a_sample_to_its_percentile_where_that_is_above_one():
    """Saharia et al. (2022): clamped to [-s, s] and divided by s, each sample by its own."""
    x0 = torch.linspace(-4, 4, 101).repeat(2, 1) * torch.tensor([[1.0], [0.1]])  # at 0.9: 3.6, and 0.36, which is below
    estimate = Denoiser(Told(lambda x, t: x0), "x0", percentile=0.9)(x0, AT)
    torch.testing.assert_close(estimate.x0[0], (x0[0] / 3.6).clamp(-1, 1))
    assert torch.equal(estimate.x0[1], x0[1])
    torch.testing.assert_close(AT.alpha * estimate.x0 + AT.sigma * estimate.eps, x0)


def test_without_clipping_nothing_is_bounded_and_the_parts_still_add_up():
    x = 3 * _x()
    estimate = Denoiser(Told(lambda x, t: 0.5 * x))(x, AT)
    assert estimate.x0.abs().max() > 1
    torch.testing.assert_close(AT.alpha * estimate.x0 + AT.sigma * estimate.eps, x)


def test_dynamic_thresholding_bounds_each_sample_by_its_own_percentile():
    """Saharia et al. (2022), section 2.3: three of four values of the first sample are 3 or less; those of the second
    are 0.5 or less, so that its bound is 1."""
    x0 = torch.tensor([[-4.0, -2.0, 0.0, 1.0, 3.0], [-0.5, 0.25, 0.0, 1.5, -0.1]])
    expected = torch.tensor([[-1.0, -2 / 3, 0.0, 1 / 3, 1.0], [-0.5, 0.25, 0.0, 1.0, -0.1]])
    torch.testing.assert_close(threshold(x0, 0.75), expected)


def test_learned_variance_is_the_second_half_of_the_channels_as_a_share():
    x = _x()
    raw = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(4, 1, 1, 1).expand(x.shape)
    estimate = Denoiser(Told(lambda x, t: torch.cat([0.1 * x, raw], 1)), learned_variance=True)(x, AT)
    assert torch.equal(estimate.eps, 0.1 * x)
    assert estimate.variance_share[:, 0, 0, 0].tolist() == [0.0, 0.5, 1.0, 2.0], "(v + 1) / 2, not clamped"


def test_a_network_in_half_precision_leaves_the_state_in_its_own():
    estimate = Denoiser(Told(lambda x, t: x.bfloat16()))(_x(), AT)
    assert estimate.x0.dtype == estimate.eps.dtype == torch.float32
