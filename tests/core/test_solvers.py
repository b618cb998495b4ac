"""Few-step solvers against mathematics, and against diffusers where it has the same."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from difflab.core.denoiser import Estimate
from difflab.core.exact import GaussianDenoiser, MixtureDenoiser
from difflab.core.noise import GivenNoise
from difflab.core.sampler import DDIM, SAMPLERS, final, trajectory
from difflab.core.schedule import Point, half_log_snr, make_schedule, path, path_of, timestep_grid
from difflab.core.solvers import DPMSolver, DPMSolverSDE, Heun, UniPC

SCHEDULE = make_schedule("linear")
MIXTURE = MixtureDenoiser(torch.tensor([[0.9, -0.5], [-0.6, 0.2]], dtype=torch.float64), 0.05, torch.tensor([0.3, 0.7]))
START = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def end(sampler, points, start=START, noise=()):
    return final(trajectory(MIXTURE, sampler, points, GivenNoise(start, list(noise))))


def test_the_first_degree_is_ddim():
    """DPM-Solver-1 is DDIM (Lu et al. 2022a, section 4.1), whichever of x0 and eps it interpolates."""
    points = path(SCHEDULE, 12, "logsnr")
    for predicts in ("x0", "eps"):
        torch.testing.assert_close(end(DPMSolver(1, predicts), points), end(DDIM(), points), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("predicts", ["x0", "eps"])
def test_the_third_degree_is_that_of_dpm_solvers_code(predicts):
    """Its multistep third-order update, in its own notation: D1 and D2 from three estimates, and phi_1 to phi_3."""
    points = [SCHEDULE.point(t) for t in (900, 700, 400, 150)]
    x, states, visited, memory = START, [START], [], None
    for now, nxt in itertools.pairwise(points):
        step = DPMSolver(3, predicts).step(MIXTURE, x, now, nxt, None, memory)
        visited.insert(0, getattr(step.estimate, predicts))
        x, memory = step.x, step.memory
        states.append(x)
    s, t = points[-2:]
    lambdas = [half_log_snr(point) for point in points[::-1]]
    h, h0, h1 = -np.diff(lambdas)
    r0, r1 = h0 / h, h1 / h
    near, far = (visited[0] - visited[1]) / r0, (visited[1] - visited[2]) / r1
    d1, d2 = near + r0 / (r0 + r1) * (near - far), (near - far) / (r0 + r1)
    if predicts == "x0":
        phi1 = math.expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        expected = t.sigma / s.sigma * states[-2] - t.alpha * (phi1 * visited[0] - phi2 * d1 + phi3 * d2)
    else:
        phi1 = math.expm1(h)
        phi2 = phi1 / h - 1
        phi3 = phi2 / h - 0.5
        expected = t.alpha / s.alpha * states[-2] - t.sigma * (phi1 * visited[0] + phi2 * d1 + phi3 * d2)
    torch.testing.assert_close(states[-1], expected, rtol=1e-9, atol=1e-12)


def test_the_second_degree_follows_a_straight_line_up_to_the_third_power_of_the_step():
    """Where x0 = a + b lambda, d(x / sigma) / d lambda = e^lambda x0 has the integral e^lambda (a - b + b lambda). 2M
    weighs the slope by (e^h - 1) h / 2 where it should be less: so its error falls eightfold as h halves."""
    a, b = 0.3, -0.2

    def denoise(x, at: Point):
        x0 = torch.full_like(x, a + b * half_log_snr(at))
        return Estimate(x0, (x - at.alpha * x0) / at.sigma)

    def integral(level):
        return math.exp(level) * (a - b + b * level)

    errors = []
    for h in (0.2, 0.1, 0.05):
        before, now, nxt = (SCHEDULE.point(SCHEDULE.timestep_at(0.5 + k * h)) for k in (-1, 0, 1))
        x = torch.tensor([0.4], dtype=torch.float64)
        memory = DPMSolver().step(denoise, x, before, now, None, None).memory
        found = DPMSolver().step(denoise, x, now, nxt, None, memory).x
        exact = nxt.sigma * (x / now.sigma + integral(half_log_snr(nxt)) - integral(half_log_snr(now)))
        errors.append(abs(float(found - exact)))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("steps", [2, 5, 10, 25])
def test_unipc_is_diffusers_own(steps):
    """Its UniPC of order 2, B2, corrector on, on integer timesteps that end in clean data."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", solver_order=2,
        solver_type="bh2", lower_order_final=True, final_sigmas_type="zero", timestep_spacing="trailing",
    )  # fmt: skip
    theirs.set_timesteps(steps)
    grid = np.array(theirs.timesteps)[::-1]
    points = path_of(SCHEDULE, grid)
    x = START.clone()
    for t, at in zip(theirs.timesteps, points, strict=False):
        x = theirs.step(MIXTURE(x, at).eps, t, x).prev_sample
    np.testing.assert_array_equal(grid, timestep_grid(1000, steps, "trailing"))
    torch.testing.assert_close(end(UniPC(), points), x, rtol=2e-4, atol=2e-5)  # diffusers has float32 levels


@pytest.mark.parametrize("steps", [2, 5, 10, 25])
def test_the_stochastic_solver_is_diffusers_own(steps):
    """Its sde-dpmsolver++ of order 2, midpoint, with the same noise, on integer timesteps that end in clean data."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", solver_order=2,
        algorithm_type="sde-dpmsolver++", solver_type="midpoint", euler_at_final=True, final_sigmas_type="zero",
        timestep_spacing="trailing",
    )  # fmt: skip
    theirs.set_timesteps(steps)
    points = path_of(SCHEDULE, np.array(theirs.timesteps)[::-1])
    draw = torch.Generator().manual_seed(2)
    noise = [torch.randn(START.shape, generator=draw, dtype=torch.float64) for _ in range(steps)]
    x = START.clone()
    for t, at, z in zip(theirs.timesteps, points, noise, strict=False):
        x = theirs.step(MIXTURE(x, at).eps, t, x, variance_noise=z).prev_sample
    found = end(DPMSolverSDE(), points, noise=noise[:-1])
    torch.testing.assert_close(found, x, rtol=2e-4, atol=2e-5)  # diffusers has float32 levels


def test_the_stochastic_solver_has_the_right_law():
    """With x0 known, x_s must be N(alpha_s x0, sigma_s^2)."""
    x0 = 0.3
    for t, s in ((999, 900), (500, 400), (10, 0)):
        now, nxt = SCHEDULE.point(t), SCHEDULE.point(s)

        def denoise(x, at: Point):
            return Estimate(torch.full_like(x, x0), (x - at.alpha * x0) / at.sigma)

        x = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        zero, one, noisy = DPMSolverSDE().step(denoise, x, now, nxt, z, None).x.tolist()
        assert zero + (one - zero) * now.alpha * x0 == pytest.approx(nxt.alpha * x0, abs=1e-12)
        assert (one - zero) ** 2 * now.sigma**2 + (noisy - zero) ** 2 == pytest.approx(nxt.sigma**2, abs=1e-12)


def test_the_stochastic_solver_meets_the_data_where_ddpm_of_as_many_steps_does_not():
    """Ten steps to Gaussian data: the end's variance is nearer to the data's."""
    denoise, points = GaussianDenoiser(0.0, 0.25), path(SCHEDULE, 10, "logsnr")
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(20_000, 1, generator=draw, dtype=torch.float64)
    noise = [torch.randn(start.shape, generator=draw, dtype=torch.float64) for _ in range(9)]
    spread = {}
    for name in ("dpmpp-2m-sde", "ddpm"):
        x = final(trajectory(denoise, SAMPLERS[name].build(0.0, "small"), points, GivenNoise(start, noise)))
        spread[name] = abs(float(x.var()) / 0.25 - 1)
    assert spread["dpmpp-2m-sde"] < spread["ddpm"] / 3


@pytest.mark.parametrize(
    ("sampler", "steps", "calls"), [(Heun(), 40, 79), (DPMSolver(), 10, 10), (UniPC(), 10, 10)], ids=repr
)
def test_few_calls_beat_as_many_of_ddim(sampler, steps, calls):
    """On a mixture, against DDIM of 1000 steps. Heun, which pays twice for a step, needs some to be ahead."""
    exact = end(DDIM(), path(SCHEDULE, 1000, "trailing"))
    ways = (sampler, path(SCHEDULE, steps, "logsnr")), (DDIM(), path(SCHEDULE, calls, "logsnr"))
    errors = [(end(*way) - exact).abs().mean() for way in ways]
    assert errors[0] < errors[1] / 2


def test_heun_asks_twice_but_at_the_end():
    asked = []

    def counting(x, at):
        asked.append(at.t)
        return MIXTURE(x, at)

    points = path(SCHEDULE, 4, "trailing")
    final(trajectory(counting, Heun(), points, GivenNoise(START, [])))
    assert asked == [999, 749, 749, 499, 499, 249, 249]
