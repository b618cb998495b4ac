from __future__ import annotations

from typing import get_args

import pytest
import torch

from difflab.core.prediction import Prediction, add_noise, target, to_eps, to_x0
from difflab.core.schedule import make_schedule

SCHEDULE = make_schedule("cosine")
PLACES = [SCHEDULE.point(t) for t in (0, 300, 700, 998)]
KINDS = get_args(Prediction)


@pytest.fixture
def x0() -> torch.Tensor:
    return torch.rand(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def eps() -> torch.Tensor:
    return torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_noise_keeps_unit_variance_and_has_the_schedules_signal(x0, eps):
    at = PLACES[1]
    torch.testing.assert_close(add_noise(x0, eps, at), at.alpha * x0 + (1 - at.alpha**2) ** 0.5 * eps)


@pytest.mark.parametrize("at", PLACES, ids=lambda at: f"t{at.t:g}")
@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_gives_back_data_and_noise(kind, at, x0, eps):
    x, answer = add_noise(x0, eps, at), target(x0, eps, at, kind)
    torch.testing.assert_close(to_x0(answer, x, at, kind), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_eps(answer, x, at, kind), eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at", PLACES, ids=lambda at: f"t{at.t:g}")
def test_any_answer_survives_the_round_trip_through_x0_and_v(at, x0, eps):
    x, guess = add_noise(x0, eps, at), torch.randn_like(eps)
    through_x0 = to_x0(guess, x, at, "eps")
    through_v = target(through_x0, to_eps(through_x0, x, at, "x0"), at, "v")
    torch.testing.assert_close(to_eps(through_v, x, at, "v"), guess, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_even_a_wrong_answer_adds_up_to_the_state(kind, x0, eps):
    at = PLACES[2]
    x, guess = add_noise(x0, eps, at), torch.randn_like(eps)
    parts = at.alpha * to_x0(guess, x, at, kind) + at.sigma * to_eps(guess, x, at, kind)
    torch.testing.assert_close(parts, x, rtol=0, atol=1e-12)


def test_v_is_the_rate_of_change_along_the_angle(x0, eps):
    """With alpha = cos(phi), sigma = sin(phi), v is dx/dphi (Salimans and Ho 2022, appendix D)."""
    at, h = PLACES[1], 1e-5
    phi = torch.atan2(torch.tensor(at.sigma, dtype=torch.float64), torch.tensor(at.alpha, dtype=torch.float64))
    ahead, behind = ((phi + d).cos() * x0 + (phi + d).sin() * eps for d in (h, -h))
    torch.testing.assert_close(target(x0, eps, at, "v"), (ahead - behind) / (2 * h), rtol=0, atol=1e-9)


def test_each_sample_of_a_batch_has_its_own_place(x0, eps):
    t = torch.tensor([0, 300, 700, 998])
    together = add_noise(x0.float(), eps.float(), SCHEDULE.at(t, x0.ndim))
    alone = [add_noise(x0[i], eps[i], at) for i, at in enumerate(PLACES)]
    torch.testing.assert_close(together, torch.stack(alone).float())
