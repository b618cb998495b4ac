"""Samplers against mathematics: exact denoisers for Gaussian data make every step affine, so laws are pushed through
analytically and nothing is estimated by drawing."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from difflab.core.denoiser import Denoiser, Estimate, Told
from difflab.core.exact import GaussianDenoiser
from difflab.core.noise import GivenNoise, SeededNoise
from difflab.core.sampler import DDIM, SAMPLERS, Ancestral, Langevin, final, method, trajectory
from difflab.core.schedule import Point, Schedule, make_schedule, path
from difflab.core.step import Sampler
from difflab.errors import DifflabError

MEAN, VARIANCE = 0.7, 0.25
DENOISE = GaussianDenoiser(MEAN, VARIANCE)
SCHEDULE = make_schedule("linear")
PAIRS = [(SCHEDULE.point(t), SCHEDULE.point(s)) for t, s in [(999, 900), (500, 400), (500, 499), (10, 0), (0, -1)]]
NAMED_PAIRS = pytest.mark.parametrize(("now", "nxt"), PAIRS, ids=[f"{a.t:g}to{b.t:g}" for a, b in PAIRS])


def cosine_path(steps: int) -> list[Point]:
    """steps + 1 places with alpha = cos(0.995 pi t / 2), evenly from t = 1 to t = 0.02."""
    t = np.linspace(0.02, 1, steps + 1)
    schedule = Schedule(np.cos(0.995 * np.pi * t / 2) ** 2)
    return [schedule.point(k) for k in reversed(range(steps + 1))]


def affine(sampler: Sampler, denoise, now: Point, nxt: Point, noise: bool = True) -> tuple[float, float, float]:
    """A step on affine beliefs is x -> a x + b + s z: read (a, b, s) off three evaluations."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64) if noise else None
    at_zero, at_one, with_noise = sampler.step(denoise, x, now, nxt, z, None).x[:, 0].tolist()
    return at_one - at_zero, at_zero, with_noise - at_zero


def law_at_the_end(sampler: Sampler, points: list[Point]) -> tuple[float, float]:
    """Mean and variance after all steps, from the exact law at the first point."""
    mean, variance = points[0].alpha * MEAN, points[0].alpha ** 2 * VARIANCE + points[0].sigma ** 2
    for now, nxt in pairwise(points):
        a, b, s = affine(sampler, DENOISE, now, nxt)
        mean, variance = a * mean + b, a**2 * variance + s**2
    return mean, variance


def x0_known(value: float, at: Point):
    """A denoiser that is sure of its clean estimate."""
    return lambda x, at: Estimate(torch.full_like(x, value), (x - at.alpha * value) / at.sigma)


def variance_error(eta: float, steps: int) -> float:
    points = cosine_path(steps)
    expected = points[-1].alpha ** 2 * VARIANCE + points[-1].sigma ** 2
    return law_at_the_end(DDIM(eta), points)[1] / expected - 1


# --- one step


@NAMED_PAIRS
def test_ancestral_step_draws_from_the_posterior(now, nxt):
    """Bayes: N(x_s; alpha_s x0, sigma_s^2) times N(x_t; r x_s, beta), with r = alpha_t / alpha_s and beta = 1 - r^2."""
    x0, r = 0.3, now.alpha / nxt.alpha
    beta = now.sigma**2 - r**2 * nxt.sigma**2
    a, b, s = affine(Ancestral("small"), x0_known(x0, now), now, nxt)
    variance = 1 / (r**2 / beta + 1 / nxt.sigma**2) if nxt.sigma else 0.0
    on_x = variance * r / beta
    on_x0 = variance * nxt.alpha / nxt.sigma**2 if nxt.sigma else 1.0
    assert a == pytest.approx(on_x, abs=1e-12)
    assert b == pytest.approx(on_x0 * x0, abs=1e-12)
    assert s**2 == pytest.approx(variance, abs=1e-12)


@NAMED_PAIRS
def test_ddim_with_eta_one_is_the_ancestral_sampler(now, nxt):
    known = x0_known(0.3, now)
    np.testing.assert_allclose(
        affine(DDIM(1.0), known, now, nxt), affine(Ancestral("small"), known, now, nxt), atol=1e-14
    )


def test_ddim_with_eta_one_has_the_posterior_variance_to_the_last_bit():
    for now, nxt in pairwise(path(SCHEDULE, 50)):
        s = np.array(
            [affine(sampler, x0_known(1.0, now), now, nxt)[2] ** 2 for sampler in (DDIM(1.0), Ancestral("small"))]
        )
        assert abs(s[0] - s[1]) <= 2.3e-16


@NAMED_PAIRS
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_ddim_step_has_the_right_law_whatever_eta(eta, now, nxt):
    """With x0 known, x_s must be N(alpha_s x0, sigma_s^2): eta moves variance from the old noise to the new."""
    x0 = 0.3
    a, b, s = affine(DDIM(eta), x0_known(x0, now), now, nxt)
    assert a * now.alpha * x0 + b == pytest.approx(nxt.alpha * x0, abs=1e-13)
    assert a**2 * now.sigma**2 + s**2 == pytest.approx(nxt.sigma**2, abs=1e-13)


@NAMED_PAIRS
def test_etas_noise_is_proportional_to_eta(now, nxt):
    full = affine(DDIM(1.0), DENOISE, now, nxt)[2]
    assert affine(DDIM(0.4), DENOISE, now, nxt)[2] == pytest.approx(0.4 * full, abs=1e-15)
    assert affine(DDIM(0.0), DENOISE, now, nxt)[2] == 0.0


@NAMED_PAIRS
def test_a_circulating_misprint_of_sigma_exceeds_the_variance_there_is(now, nxt):
    """sqrt((1 - a_s) / (1 - a_t)) sqrt((1 - a_t) / a_s) at eta 1; the last factor of eq. 16 is sqrt(1 - a_t / a_s)."""
    available = nxt.sigma**2
    misprint = (nxt.sigma / now.sigma * now.sigma / nxt.alpha) ** 2
    assert affine(DDIM(1.0), DENOISE, now, nxt)[2] ** 2 <= available
    assert misprint > available or available == 0.0


@pytest.mark.parametrize(("now", "nxt"), PAIRS[:-1])
def test_large_variance_is_what_the_forward_process_adds(now, nxt):
    a, b, s = affine(SAMPLERS["ddpm-noisy"].build(0.0, "small"), DENOISE, now, nxt)
    assert s**2 == pytest.approx(1 - (now.alpha / nxt.alpha) ** 2, rel=1e-12)
    assert (a, b) == affine(Ancestral("small"), DENOISE, now, nxt)[:2], "only the noise term differs"


@pytest.mark.parametrize(("share", "power"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (-0.5, -0.5), (2.0, 2.0)])
def test_learned_variance_lies_between_small_and_large_in_log_space(share, power):
    now, nxt = PAIRS[1]

    def denoise(x: Tensor, at: Point) -> Estimate:
        return DENOISE(x, at)._replace(variance_share=torch.full_like(x, share))

    small, large = (affine(Ancestral(v), DENOISE, now, nxt)[2] ** 2 for v in ("small", "large"))
    learned = affine(Ancestral("learned"), denoise, now, nxt)[2] ** 2
    assert learned == pytest.approx(small * (large / small) ** power, rel=1e-9)


def test_learned_variance_without_a_variance_output_is_refused():
    with pytest.raises(DifflabError, match="no variance output: choose small or large"):
        affine(Ancestral("learned"), DENOISE, *PAIRS[1])


@pytest.mark.parametrize("sampler", [DDIM(0.0), DDIM(0.5), DDIM(1.0), Ancestral("small"), Ancestral("large")], ids=repr)
def test_a_repeated_timestep_moves_nothing(sampler):
    at = SCHEDULE.point(300)
    a, b, s = affine(sampler, DENOISE, at, at)
    assert a == pytest.approx(1.0, abs=1e-12)
    assert b == pytest.approx(0.0, abs=1e-12)
    assert s == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("sampler", [DDIM(0.0), DDIM(0.7), Ancestral("small"), Ancestral("large")], ids=repr)
def test_steps_on_gaussian_data_are_affine(sampler):
    now, nxt = PAIRS[1]
    a, b, s = affine(sampler, DENOISE, now, nxt)
    x, z = torch.randn(2, 100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sampler.step(DENOISE, x, now, nxt, z, None).x
    torch.testing.assert_close(found, a * x + b + s * z, rtol=0, atol=1e-13)


def test_ddim_at_eta_one_survives_rounding_below_zero():
    """From nearly pure noise all variance is new noise, and sigma'^2 - s^2 rounds to less than nothing now and then."""
    known = x0_known(0.3, SCHEDULE.point(999))
    for bar in np.linspace(0.8, 0.99, 500):
        now, nxt = Schedule(np.array([bar, 1e-16])).point(1), Schedule(np.array([bar])).point(0)
        assert affine(DDIM(1.0), known, now, nxt)[2] == pytest.approx(nxt.sigma, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_ddim_agrees_with_diffusers(kind, eta):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        prediction_type={"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[kind],
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True, steps_offset=0,
    )  # fmt: skip
    theirs.set_timesteps(10)
    start, *noise = torch.randn(11, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def network(x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * torch.tanh(x + t[:, None, None, None] / 1000)

    x = start
    for t, z in zip(theirs.timesteps, noise, strict=True):
        x = theirs.step(network(x, t.float().expand(2)), t, x, eta=eta, variance_noise=z).prev_sample
    ours = final(
        trajectory(Denoiser(Told(network), kind), DDIM(eta), path(SCHEDULE, 10, "leading"), GivenNoise(start, noise))
    )
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


# --- the whole way


@pytest.mark.parametrize(
    "sampler", [m.build(0.0, "small") for m in SAMPLERS.values() if m.build(0.0, "small").order], ids=repr
)
def test_samplers_converge_at_their_declared_order(sampler):
    """log2 of the error at the end of the probability flow falls by `order` when the number of steps doubles."""
    x = torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64)
    counts, errors = [256, 512, 1024], []
    for steps in counts:
        points = cosine_path(steps)
        end = final(trajectory(DENOISE, sampler, points, GivenNoise(x, [])))
        errors.append((end - DENOISE.flow(x, points[0], points[-1])).abs().max().item())
    slope = np.polyfit(np.log2(counts), np.log2(errors), 1)[0]
    assert slope == pytest.approx(-sampler.order, abs=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_mean_is_exact_at_any_number_of_steps(eta):
    for steps in (1, 4, 50):
        points = cosine_path(steps)
        assert law_at_the_end(DDIM(eta), points)[0] == pytest.approx(points[-1].alpha * MEAN, abs=2e-15 * steps)


@pytest.mark.parametrize(("eta", "error"), [(0.0, -0.011), (0.5, -0.014), (1.0, -0.027)])
def test_the_variance_is_too_small_by_the_known_amount(eta, error):
    assert variance_error(eta, 256) == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_error_of_the_variance_halves_when_steps_double(eta):
    assert variance_error(eta, 256) / variance_error(eta, 512) == pytest.approx(2.0, abs=0.1)


class Counting:
    """Standard normal noise that remembers which draws were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def draw(self, k: int) -> Tensor:
        self.asked.append(k)
        return SeededNoise(0, range(2), (3,)).draw(k)


@pytest.mark.parametrize(
    ("sampler", "asked"), [(DDIM(0.0), [0]), (DDIM(0.5), [0, 1, 2, 3]), (Ancestral("large"), [0, 1, 2, 3])], ids=repr
)
def test_step_k_uses_draw_k_and_the_last_step_none(sampler, asked):
    noise = Counting()
    final(trajectory(DENOISE, sampler, path(SCHEDULE, 4), noise))
    assert noise.asked == asked


@pytest.mark.parametrize("sampler", [DDIM(0.0), DDIM(1.0), Ancestral("small"), Ancestral("large")], ids=repr)
def test_the_last_step_lands_on_the_clean_estimate(sampler):
    *_, last = trajectory(DENOISE, sampler, path(SCHEDULE, 5), SeededNoise(0, [0], (3,)))
    torch.testing.assert_close(last.x, last.estimate.x0, rtol=0, atol=1e-6)


def test_the_trajectory_keeps_no_history():
    class Tracked(Iterator):
        """Hands steps on and holds them weakly."""

        def __init__(self) -> None:
            self.steps = trajectory(DENOISE, DDIM(1.0), path(SCHEDULE, 50), SeededNoise(0, [0], (3,)))
            self.seen: list[weakref.ref] = []

        def __next__(self):
            step = next(self.steps)
            self.seen += [weakref.ref(step.x), weakref.ref(step.estimate.x0)]
            return step

    tracked, most = Tracked(), 0
    for _ in tracked:
        gc.collect(0)
        most = max(most, sum(ref() is not None for ref in tracked.seen))
    assert len(tracked.seen) == 100
    assert most <= 4, "this step's tensors and those of the step before"


def test_no_gradients_are_recorded():
    weight = torch.ones(1, requires_grad=True)
    steps = trajectory(Denoiser(Told(lambda x, t: weight * x)), DDIM(), path(SCHEDULE, 2), SeededNoise(0, [0], (3,)))
    assert not final(steps).requires_grad


def test_a_trajectory_without_steps_has_no_end():
    with pytest.raises(ValueError, match="at least one step"):
        final(iter(()))


# --- what is refused


@pytest.mark.parametrize("eta", [-0.1, 1.0001, math.nan])
def test_eta_outside_zero_to_one_is_refused(eta):
    with pytest.raises(DifflabError, match=r"eta is .* between 0 .* and 1"):
        DDIM(eta)


def test_unknown_sampler_is_refused_with_the_nearest_name():
    with pytest.raises(DifflabError, match=r"'dimm' is not known.*'ddim'"):
        method("dimm")


def test_only_samplers_that_draw_noise_say_so():
    assert [DDIM(0.0).stochastic, DDIM(0.1).stochastic, Ancestral().stochastic] == [False, True, True]


def test_every_sampler_has_the_name_that_users_choose_by():
    from typing import get_args

    from difflab.core.names import SamplerName

    assert set(SAMPLERS) == set(get_args(SamplerName))


@pytest.mark.parametrize(("now", "nxt"), PAIRS[:3], ids=["999", "500", "one"])
def test_gamma_goes_from_the_small_variance_to_the_large_one(now, nxt):
    """In log space: half way is the geometric mean (Ho et al. 2022, eq. 5)."""
    spread = {gamma: affine(Ancestral(gamma=gamma), DENOISE, now, nxt)[2] for gamma in (0.0, 0.5, 1.0)}
    small, large = (affine(Ancestral(variance), DENOISE, now, nxt)[2] for variance in ("small", "large"))
    assert spread[0.0] == pytest.approx(small, rel=1e-12)
    assert spread[1.0] == pytest.approx(large, rel=1e-12)
    assert spread[0.5] == pytest.approx(math.sqrt(small * large), rel=1e-9)
    with pytest.raises(DifflabError, match=r"gamma is 1\.2"):
        Ancestral(gamma=1.2)


def test_the_corrector_leaves_the_law_alone_to_first_order():
    """On Gaussian data the step is affine: mean and variance are exact, and off by the square of the step alone."""
    at = SCHEDULE.point(400)
    mean, var = at.alpha * MEAN, at.alpha**2 * VARIANCE + at.sigma**2
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    misses = []
    for size in (0.2, 0.1):
        zero, one, noisy = (v.item() for v in Langevin(size)(DENOISE, x, at, z))
        slope, spread = one - zero, noisy - zero
        assert zero + slope * mean == pytest.approx(mean, rel=1e-9)
        misses.append(slope**2 * var + spread**2 - var)
    assert misses[0] / misses[1] == pytest.approx(4.0, rel=1e-6)
    assert abs(misses[1]) < 0.01 * var


def test_the_corrector_acts_between_steps_with_noise_of_its_own():
    """Not after the step that lands on clean data; its draws are no step's."""
    asked = []

    class Watched:
        def draw(self, k):
            asked.append(k)
            return torch.zeros(1, 1)

    list(trajectory(DENOISE, Ancestral(), path(SCHEDULE, 3), Watched(), Langevin(0.1)))
    steps, corrections = [k for k in asked if k < 1 << 32], [k for k in asked if k >= 1 << 32]
    assert steps == [0, 1, 2]
    assert len(corrections) == len(set(corrections)) == 2
