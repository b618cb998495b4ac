from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from difflab.core.names import BetaName, SolverSpacing, Spacing
from difflab.core.schedule import (
    betas,
    grid_of,
    half_log_snr,
    make_schedule,
    path,
    respaced_timesteps,
    solver_grid,
    timestep_grid,
)
from difflab.errors import DifflabError

# beta_k for k = 0 .. n - 1 between b0 and b1, as written in ermongroup/ddim's documentation of its schedules.
CLOSED_FORMS: dict[str, Callable[[int, int, float, float], float]] = {
    "linear": lambda k, n, b0, b1: b0 + (b1 - b0) * k / (n - 1),
    "quad": lambda k, n, b0, b1: (math.sqrt(b0) + (math.sqrt(b1) - math.sqrt(b0)) * k / (n - 1)) ** 2,
    "const": lambda k, n, b0, b1: b1,
    "jsd": lambda k, n, b0, b1: 1 / (n - k),
    "sigmoid": lambda k, n, b0, b1: b0 + (b1 - b0) / (1 + math.exp(6 - 12 * k / (n - 1))),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_betas_follow_their_closed_form(name):
    expected = [CLOSED_FORMS[name](k, 50, 0.003, 0.04) for k in range(50)]
    np.testing.assert_allclose(betas(name, 50, 0.003, 0.04), expected, rtol=1e-13)


def test_cosine_alpha_bar_is_a_squared_cosine_until_the_clip():
    def g(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [g((k + 1) / 1000) / g(0) for k in range(999)]
    np.testing.assert_allclose(make_schedule("cosine").alpha_bar[:999], expected, rtol=1e-12)
    assert betas("cosine")[-1] == 0.999, "the last variance would be 1 without the clip"


def test_linear_alpha_bar_has_the_published_values():
    bar = make_schedule("linear").alpha_bar
    assert bar[0] == pytest.approx(0.9999, rel=1e-12)
    assert bar[900] == pytest.approx(2.70244520e-4, rel=1e-6)
    assert bar[999] == pytest.approx(4.03582977e-5, rel=1e-6)


@pytest.mark.parametrize("name", get_args(BetaName))
def test_alpha_bar_falls_from_nearly_one(name):
    bar = make_schedule(name).alpha_bar
    assert np.all(np.diff(bar) < 0)
    assert 0.97 < bar[0] < 1
    assert bar[-1] >= 0


def test_jsd_ends_in_pure_noise():
    last = make_schedule("jsd").point(999)
    assert (last.alpha, last.sigma) == (0.0, 1.0)


def test_unknown_schedule_is_refused_with_the_nearest_name():
    with pytest.raises(DifflabError, match=r"'cosin' is not known.*'cosine'"):
        betas("cosin")


def test_points_keep_the_total_variance():
    schedule = make_schedule("cosine")
    points = [schedule.point(t) for t in range(-1, 1000)]
    np.testing.assert_allclose([p.alpha**2 + p.sigma**2 for p in points], 1.0, rtol=1e-15)
    np.testing.assert_allclose([p.alpha**2 for p in points[1:]], schedule.alpha_bar, rtol=1e-14)


def test_timestep_minus_one_is_clean_data():
    assert make_schedule("linear").point(-1) == (-1.0, 1.0, 0.0)


def test_a_batch_of_places_agrees_with_single_points():
    schedule = make_schedule("linear")
    t = torch.arange(1000)
    places = schedule.at(t, ndim=4)
    points = [schedule.point(k) for k in range(1000)]
    assert places.alpha.shape == places.sigma.shape == (1000, 1, 1, 1)
    assert torch.equal(places.t, t)
    np.testing.assert_allclose(places.alpha.flatten(), [p.alpha for p in points], rtol=1e-7)
    np.testing.assert_allclose(places.sigma.flatten(), [p.sigma for p in points], rtol=1e-7)


def test_path_leads_from_noise_to_clean_data():
    schedule = make_schedule("linear")
    points = path(schedule, 10, "uniform")
    assert [p.t for p in points] == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0, -1]
    assert points == [schedule.point(int(p.t)) for p in points]


@pytest.mark.parametrize("spacing", sorted({*get_args(Spacing)} - {*get_args(SolverSpacing)}))
@pytest.mark.parametrize("timesteps", [1, 2, 10, 97, 1000])
def test_grids_have_exactly_as_many_different_timesteps_as_steps(spacing, timesteps):
    for steps in range(2 if spacing == "respaced" else 1, timesteps + 1):
        grid = timestep_grid(timesteps, steps, spacing)
        assert len(grid) == steps, steps
        assert np.all(np.diff(grid) > 0), steps
        assert grid[0] >= 0, steps
        assert grid[-1] < timesteps, steps
        assert grid.dtype == np.int64


@pytest.mark.parametrize("steps", [1, 7, 15, 60, 333, 600, 999])
def test_mended_uniform_grid_divides_the_range_as_evenly_as_integers_can(steps):
    grid = timestep_grid(1000, steps, "uniform")
    gaps = np.diff([*grid, 1000])
    assert grid[0] == 0
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("timesteps", [10, 96, 1000])
def test_mended_uniform_grid_is_the_official_one_where_steps_divide(timesteps):
    sound = [steps for steps in range(1, timesteps + 1) if timesteps % steps == 0]
    for steps in sound:
        official = timestep_grid(timesteps, steps, "uniform", official_grid=True)
        np.testing.assert_array_equal(timestep_grid(timesteps, steps, "uniform"), official)


def test_mended_quad_grid_is_the_official_one_where_nothing_repeats():
    grids = {steps: timestep_grid(1000, steps, "quad", official_grid=True) for steps in range(1, 1001)}
    sound = {steps: grid for steps, grid in grids.items() if len(set(grid)) == steps}
    assert {1, 10, 20} <= sound.keys()
    for steps, official in sound.items():
        np.testing.assert_array_equal(timestep_grid(1000, steps, "quad"), official)


@pytest.mark.parametrize("steps", [50, 100, 200, 999])
def test_mended_quad_grid_moves_timesteps_up_no_further_than_needed(steps):
    official = timestep_grid(1000, steps, "quad", official_grid=True)
    expected: list[int] = []
    for t in official:
        expected.append(max(t, expected[-1] + 1 if expected else 0))
    assert timestep_grid(1000, steps, "quad").tolist() == expected


QUAD_10 = [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
QUAD_20 = [0, 2, 8, 19, 35, 55, 79, 108, 141, 179, 221, 268, 319, 374, 434, 498, 567, 640, 718, 800]
UNIFORM_7 = [0, 142, 284, 426, 568, 710, 852, 994]


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("uniform", 10, list(range(0, 1000, 100))),
        ("uniform", 7, UNIFORM_7),
        ("quad", 10, QUAD_10),
        ("quad", 20, QUAD_20),
    ],
)
def test_official_grids_are_those_of_the_official_code(spacing, steps, expected):
    assert timestep_grid(1000, steps, spacing, official_grid=True).tolist() == expected


@pytest.mark.parametrize(("steps", "labels"), [(7, 8), (15, 16), (60, 63), (150, 167), (300, 334), (600, 1000)])
def test_official_uniform_grid_is_too_long_where_steps_do_not_divide(steps, labels):
    assert len(timestep_grid(1000, steps, "uniform", official_grid=True)) == labels


@pytest.mark.parametrize(("steps", "labels"), [(50, 49), (100, 96), (200, 187), (1000, 688)])
def test_official_quad_grid_repeats_itself(steps, labels):
    grid = timestep_grid(1000, steps, "quad", official_grid=True)
    assert len(grid) == steps
    assert len(set(grid)) == labels


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_other_grids_equal_those_of_diffusers(spacing):
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    for steps in (1, 2, 7, 10, 50, 333, 1000):
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.numpy()[:steps]  # their trailing grid can gain a timestep below zero by rounding
        np.testing.assert_array_equal(timestep_grid(1000, steps, spacing)[::-1], theirs)


@pytest.mark.parametrize("steps", [2, 7, 10, 250, 999, 1000])
def test_respaced_timesteps_are_even_and_have_both_ends(steps):
    kept = respaced_timesteps(1000, str(steps))
    assert (len(kept), kept[0], kept[-1]) == (steps, 0, 999)
    assert np.abs(kept - np.linspace(0, 999, steps)).max() <= 0.5 + 1e-6


def test_respaced_sections_are_even_each_for_itself():
    """Of 1,000 timesteps in three sections the first is one longer."""
    kept = respaced_timesteps(1000, "3,1,4")
    assert kept.tolist() == [0, 166, 333, 334, 667, 778, 888, 999]


def test_ddims_respacing_is_a_whole_stride_from_zero():
    assert np.array_equal(respaced_timesteps(1000, "ddim50"), np.arange(0, 1000, 20))
    with pytest.raises(DifflabError, match="no integer stride leaves exactly 300 of 1000"):
        respaced_timesteps(1000, "ddim300")


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(DifflabError, match=f"steps is {steps}, but must lie between 1 and .* 1000"):
        timestep_grid(1000, steps)


def test_unknown_spacing_is_refused_with_the_nearest_name():
    with pytest.raises(DifflabError, match=r"'trailling' is not known.*'trailing'"):
        timestep_grid(1000, 10, "trailling")


def test_spacing_without_official_form_is_refused():
    with pytest.raises(DifflabError, match="'trailing' has no official grid"):
        timestep_grid(1000, 10, "trailing", official_grid=True)


def test_the_cut_off_cosine_has_its_log_snr_at_both_ends_and_the_middle():
    """l(u) = -2 ln tan(A u + B), from 20 to -20, with 0 half way (Ho et al. 2022)."""
    schedule = make_schedule("cosine-logsnr", 1000)
    logsnr = np.log(schedule.alpha_bar / (1 - schedule.alpha_bar))
    assert logsnr[-1] == pytest.approx(-20.0, abs=0.01)
    assert logsnr[499] == pytest.approx(0.0, abs=1e-6)
    near = math.atan(math.exp(-10))
    angle = near + (np.arange(1, 1001) / 1000) * (math.atan(math.exp(10)) - near)
    np.testing.assert_allclose(logsnr, -2 * np.log(np.tan(angle)), rtol=1e-5, atol=1e-5)


# --- grids of few-step solvers

_PUBLISHED = {  # labels of 10 steps on 1000 linear betas, by DPM-Solver's code in float32
    "time-uniform": [999, 899.1, 799.2, 699.3, 599.4, 499.5, 399.6, 299.7, 199.8, 99.9],
    "logsnr": [999, 898.295, 784.819, 652.594, 492.121, 302.316, 138.047, 51.726, 16.805, 3.953],
    "time-quadratic": [999, 814.702, 649.159, 502.372, 374.339, 265.061, 174.539, 102.772, 49.759, 15.502],
}


@pytest.mark.parametrize("spacing", _PUBLISHED)
def test_solver_grids_are_those_of_dpm_solver(spacing):
    np.testing.assert_allclose(solver_grid(make_schedule("linear"), 10, spacing)[::-1], _PUBLISHED[spacing], atol=0.01)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine-9999", "cosine-logsnr", "jsd"])
@pytest.mark.parametrize("spacing", get_args(SolverSpacing))
def test_solver_grids_have_as_many_timesteps_as_steps(schedule, spacing):
    for steps in (1, 2, 10, 100):
        grid = grid_of(make_schedule(schedule), steps, spacing)
        assert len(grid) == steps
        assert np.all(np.diff(grid) > 0)
        assert grid[0] >= 0
        assert grid[-1] <= 999


def test_karras_is_even_in_the_seventh_root_of_the_noise_level():
    schedule = make_schedule("linear")
    points = [schedule.point(t) for t in solver_grid(schedule, 12, "karras")]
    np.testing.assert_allclose(np.diff([(p.sigma / p.alpha) ** (1 / 7) for p in points], 2), 0, atol=1e-4)
    assert (points[0].t, points[-1].t) == (0, 999)


def test_solvers_begin_where_dpm_solver_does():
    """The cosine schedule of 1000 keeps 996 timesteps, that of 4000 keeps 3984 (DPM-Solver's code)."""
    for timesteps, kept in ((1000, 996), (4000, 3984)):
        schedule = make_schedule("cosine", timesteps)
        for spacing in get_args(SolverSpacing):
            assert solver_grid(schedule, 10, spacing)[-1] == pytest.approx(kept - 1, abs=1e-6)


def test_between_timesteps_log_alpha_is_linear():
    schedule = make_schedule("linear")
    for t in (0.25, 500.5, 998.75):
        a, b = (math.log(schedule.point(math.floor(t) + i).alpha) for i in (0, 1))
        assert math.log(schedule.point(t).alpha) == pytest.approx(a + (t - math.floor(t)) * (b - a), rel=1e-12)
        assert schedule.timestep_at(half_log_snr(schedule.point(t))) == pytest.approx(t, abs=1e-9)
    assert schedule.timestep_at(99.0) == 0
    assert schedule.timestep_at(-99.0) == 999
    assert half_log_snr(schedule.point(-1)) == math.inf


def test_solver_grids_refuse_what_cannot_be():
    with pytest.raises(DifflabError, match="steps is 1001, but must lie between 1 and"):
        solver_grid(make_schedule("linear"), 1001, "logsnr")
    with pytest.raises(DifflabError, match=r"'logsrn' is not known\. Did you mean 'logsnr'"):
        grid_of(make_schedule("linear"), 10, "logsrn")
    with pytest.raises(DifflabError, match="logsnr' has no official grid"):
        grid_of(make_schedule("linear"), 10, "logsnr", official_grid=True)
