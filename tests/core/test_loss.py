from __future__ import annotations

import pytest
import torch

from difflab.core.exact import GaussianDenoiser
from difflab.core.loss import antithetic_timesteps, diffusion_loss, lognormal_timesteps
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


def test_lognormal_timesteps_have_that_median_and_spread_of_noise():
    """Of a fine schedule ln(sigma / alpha) is normal, and pairs lie as far above as below the median."""
    schedule = make_schedule("cosine", 4000)
    t = lognormal_timesteps(20_001, schedule, 0.8, 1.1, torch.Generator().manual_seed(0))
    alpha_bar = torch.from_numpy(schedule.alpha_bar)[t]
    level = 0.5 * ((1 - alpha_bar) / alpha_bar).log()
    assert t.shape == (20_001,)
    assert level.mean().item() == pytest.approx(0.8, abs=0.01)  # of pairs: only rounding to timesteps is left
    assert level.std().item() == pytest.approx(1.1, abs=0.02)
    assert ((level < 0.8).double().mean()).item() == pytest.approx(0.5, abs=0.01)
    beyond = lognormal_timesteps(50, make_schedule("cosine"), 60.0, 1.0)
    assert torch.equal(beyond, torch.full((50,), 999))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_the_exact_mean_as_target_leaves_zero_loss_for_the_exact_denoiser(kind):
    exact = GaussianDenoiser(0.3, 0.25)

    def best(x, t):
        at = SCHEDULE.at(t, 4)
        return target(*exact(x, at)[:2], at, kind)

    args = X0, T, EPS, SCHEDULE, kind
    assert diffusion_loss(best, *args, denoiser=exact).item() == pytest.approx(0, abs=1e-8)
    assert diffusion_loss(best, *args).item() > 0.01, "drawn data and noise leave the posterior's variance"


def test_exact_and_drawn_targets_differ_by_the_posterior_variance_whatever_the_network():
    """E|f - x0|^2 = E|f - E[x0|x]|^2 + Var(x0|x), here s2 sigma^2 / (alpha^2 s2 + sigma^2) for Gaussian data."""
    n, variance, generator = 400_000, 0.25, torch.Generator().manual_seed(1)
    x0 = 0.3 + variance**0.5 * torch.randn(n, 1, generator=generator)
    eps, t = torch.randn(n, 1, generator=generator), torch.full((n,), 40)
    at = SCHEDULE.point(40)
    expected = variance * at.sigma**2 / (at.alpha**2 * variance + at.sigma**2)
    for network in (lambda x, t: 0 * x, lambda x, t: 0.7 * x + 0.1):
        drawn, exact = (
            diffusion_loss(network, x0, t, eps, SCHEDULE, "x0", denoiser=d)
            for d in (None, GaussianDenoiser(0.3, variance))
        )
        assert (drawn - exact).item() == pytest.approx(expected, rel=0.01)


def test_weighed_like_v_an_x0_network_has_the_loss_of_the_v_network_it_is():
    at = SCHEDULE.at(T, 4)
    loud = at.sigma.flatten() > 0.3
    guess = 0.3 * X0
    x = add_noise(X0, EPS, at)
    as_v = (at.alpha * x - guess) / at.sigma
    x0_loss = diffusion_loss(lambda *_: guess[loud], X0[loud], T[loud], EPS[loud], SCHEDULE, "x0", weighting="v")
    v_loss = diffusion_loss(lambda *_: as_v[loud], X0[loud], T[loud], EPS[loud], SCHEDULE, "v")
    torch.testing.assert_close(x0_loss, v_loss)


def test_the_weight_stops_growing_where_there_is_little_noise():
    t = torch.zeros(6, dtype=torch.int64)
    flat, weighed = (diffusion_loss(lambda x, t: 0 * x, X0, t, EPS, SCHEDULE, "x0", weighting=w) for w in ("flat", "v"))
    torch.testing.assert_close(weighed, flat / 0.3**2)
