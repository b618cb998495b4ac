from __future__ import annotations

import pytest
import torch

from difflab.core.loss import antithetic_timesteps, diffusion_loss
from difflab.core.prediction import add_noise, target
from difflab.core.schedule import make_schedule

SCHEDULE = make_schedule("linear", 100)
GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.rand(6, 3, 4, 4, generator=GENERATOR) * 2 - 1
EPS = torch.randn(6, 3, 4, 4, generator=GENERATOR)
T = torch.tensor([0, 10, 30, 50, 80, 99])


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_loss_is_zero_for_the_right_answer_and_the_squared_offset_beside_it(kind):
    right = target(X0, EPS, SCHEDULE.at(T, 4), kind)
    assert diffusion_loss(lambda x, t: right, X0, T, EPS, SCHEDULE, kind) == 0
    off = diffusion_loss(lambda x, t: right + 0.5, X0, T, EPS, SCHEDULE, kind)
    assert off.item() == pytest.approx(0.25, rel=1e-6)


def test_the_network_sees_noisy_data_and_its_timesteps():
    seen = []
    diffusion_loss(lambda x, t: seen.append((x, t)) or x, X0, T, EPS, SCHEDULE, "eps")
    assert torch.equal(seen[0][0], add_noise(X0, EPS, SCHEDULE.at(T, 4)))
    assert torch.equal(seen[0][1], T)


def test_sum_is_the_mean_times_the_dimensions_of_a_sample():
    mean, total = (diffusion_loss(lambda x, t: 0.3 * x, X0, T, EPS, SCHEDULE, "eps", r) for r in ("mean", "sum"))
    assert total.item() == pytest.approx(mean.item() * 3 * 4 * 4, rel=1e-5)


def test_the_batch_is_averaged_either_way():
    for reduction in ("mean", "sum"):
        whole = diffusion_loss(lambda x, t: 0 * x, X0, T, EPS, SCHEDULE, "eps", reduction)
        each = [
            diffusion_loss(lambda x, t: 0 * x, X0[i : i + 1], T[i : i + 1], EPS[i : i + 1], SCHEDULE, "eps", reduction)
            for i in range(6)
        ]
        torch.testing.assert_close(whole, torch.stack(each).mean())


def test_error_is_measured_in_full_precision():
    right = EPS.bfloat16()
    loss = diffusion_loss(lambda x, t: right, X0, T, EPS, SCHEDULE, "eps")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (EPS - right.float()).square().mean())


@pytest.mark.parametrize("n", [1, 6, 7])
def test_antithetic_timesteps_come_in_pairs_that_mirror_each_other(n):
    t = antithetic_timesteps(n, 1000, torch.Generator().manual_seed(0))
    half = n // 2 + 1
    assert t.shape == (n,)
    assert torch.equal(t[half:], 999 - t[: n - half])


def test_antithetic_timesteps_cover_the_whole_range_evenly():
    t = antithetic_timesteps(20_000, 10, torch.Generator().manual_seed(0))
    counts = torch.bincount(t, minlength=10)
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 5 * 2**0.5 * 2000**0.5, "five standard deviations of paired counts"
