from __future__ import annotations

import pytest
import torch
from torch import Tensor

from difflab.core.denoiser import Denoiser
from difflab.core.guidance import Guided
from difflab.core.schedule import make_schedule


class Network:
    """Answers with an affine function of all it is told, and remembers the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x * (1 + condition[:, None, None, None]) + t[:, None, None, None] / 1000


X = torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10.0, 500.0, 990.0], dtype=torch.float64)
ASKED, NULL = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def guided(scale: float, channels: slice = slice(None)) -> Tensor:
    return Guided(Network(), ASKED, NULL, scale, channels)(X, T)


def test_scale_one_is_the_conditional_network_alone():
    assert torch.equal(guided(1.0), Network()(X, T, ASKED))


@pytest.mark.parametrize(("scale", "batches"), [(1.0, [3]), (2.0, [6])])
def test_scale_one_is_one_pass_and_others_one_double_batch(scale, batches):
    network = Network()
    Guided(network, ASKED, NULL, scale)(X, T)
    assert network.batches == batches


def test_scale_zero_is_unconditional():
    torch.testing.assert_close(guided(0.0), Network()(X, T, NULL), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.25, 1.5, 7.0])
def test_the_answer_is_linear_in_the_scale(scale):
    conditional, null = Network()(X, T, ASKED), Network()(X, T, NULL)
    torch.testing.assert_close(guided(scale), null + scale * (conditional - null), rtol=0, atol=1e-12)


def test_channels_outside_the_slice_stay_conditional():
    conditional = Network()(X, T, ASKED)
    answer = guided(4.0, channels=slice(3))
    assert torch.equal(answer[:, 3:], conditional[:, 3:])
    torch.testing.assert_close(answer[:, :3], guided(4.0)[:, :3])


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_guiding_any_prediction_guides_the_noise_estimate(kind):
    at = make_schedule("linear").point(400)

    def estimate(scale: float) -> Tensor:
        return Denoiser(Guided(Network(), ASKED, NULL, scale), kind)(X, at).eps

    torch.testing.assert_close(estimate(3.0), estimate(0.0) + 3.0 * (estimate(1.0) - estimate(0.0)), rtol=0, atol=1e-12)
