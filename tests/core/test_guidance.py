from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from difflab.core.denoiser import Denoiser
from difflab.core.guidance import Guidance, Guided
from difflab.core.schedule import make_schedule
from difflab.errors import DifflabError


class Network:
    """Answers with an affine function of all it is told, and remembers the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x * (1 + condition[:, None, None, None]) + t[:, None, None, None].to(x.dtype) / 1000


SCHEDULE = make_schedule("linear")
AT = SCHEDULE.point(500)
X = torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ASKED, NULL = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def guided(scale: float, at=AT, network=None, **how) -> Tensor:
    return Guided(network or Network(), ASKED, NULL, Guidance(scale, **how), SCHEDULE.timesteps)(X, at)


def plain(condition: Tensor, at=AT) -> Tensor:
    return Network()(X, torch.full((3,), at.t), condition)


def test_scale_one_is_the_conditional_network_alone():
    assert torch.equal(guided(1.0), plain(ASKED))


@pytest.mark.parametrize(("scale", "batches"), [(1.0, [3]), (2.0, [6])])
def test_scale_one_is_one_pass_and_others_one_double_batch(scale, batches):
    network = Network()
    guided(scale, network=network)
    assert network.batches == batches


def test_scale_zero_is_unconditional():
    torch.testing.assert_close(guided(0.0), plain(NULL), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.25, 1.5, 7.0])
def test_the_answer_is_linear_in_the_scale(scale):
    conditional, null = plain(ASKED), plain(NULL)
    torch.testing.assert_close(guided(scale), null + scale * (conditional - null), rtol=0, atol=1e-12)


def test_channels_beyond_those_guided_stay_conditional():
    answer = guided(4.0, channels=3)
    assert torch.equal(answer[:, 3:], plain(ASKED)[:, 3:])
    torch.testing.assert_close(answer[:, :3], guided(4.0)[:, :3])


def test_a_learned_variance_stays_conditional_whatever_is_guided():
    wrapped = Guided(Network(), ASKED, NULL, Guidance(4.0), SCHEDULE.timesteps, predicted=2)(X, AT)
    assert torch.equal(wrapped[:, 2:], plain(ASKED)[:, 2:])
    torch.testing.assert_close(wrapped[:, :2], guided(4.0)[:, :2])


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_guiding_any_prediction_guides_the_noise_estimate(kind):
    def estimate(scale: float) -> Tensor:
        return Denoiser(Guided(Network(), ASKED, NULL, Guidance(scale), SCHEDULE.timesteps), kind)(X, AT).eps

    torch.testing.assert_close(estimate(3.0), estimate(0.0) + 3.0 * (estimate(1.0) - estimate(0.0)), rtol=0, atol=1e-12)


def test_outside_its_interval_guidance_is_off_and_costs_one_pass():
    level = AT.sigma / AT.alpha
    for low, high, batches in ((0.0, level, [6]), (level, 2 * level, [3]), (0.5 * level, 2 * level, [6])):
        network = Network()
        answer = guided(3.0, network=network, low=low, high=high)
        assert network.batches == batches, "guided where low < level <= high"
        assert torch.equal(answer, guided(3.0)) == (batches == [6])


@pytest.mark.parametrize("course", ["linear", "cosine"])
def test_a_course_goes_from_nothing_to_twice_and_keeps_the_mean(course):
    how = Guidance(3.0, course=course)
    scales = [how.scale_at(SCHEDULE.point(t), 1000) for t in range(1000)]
    assert scales[999] == pytest.approx(1.0, abs=1e-12)
    assert scales[0] == pytest.approx(1.0 + 2 * 2.0, abs=1e-12)
    assert scales == sorted(scales, reverse=True)
    assert sum(scales) / 1000 == pytest.approx(3.0, abs=1e-9)


def test_full_rescaling_restores_the_deviation_of_the_conditional_output():
    conditional, answer = plain(ASKED), guided(6.0, rescale=1.0)
    torch.testing.assert_close(answer.flatten(1).std(1), conditional.flatten(1).std(1))
    raw = guided(6.0)
    half = guided(6.0, rescale=0.5)
    torch.testing.assert_close(half, 0.5 * (raw + answer))


@pytest.mark.parametrize(
    "how",
    [
        {"scale": -1.0}, {"scale": math.nan}, {"scale": math.inf}, {"rescale": 1.5}, {"channels": 0},
        {"low": 2.0, "high": 1.0}, {"low": -1.0}, {"low": math.nan},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(how):
    with pytest.raises(DifflabError):
        Guidance(**how)
