from __future__ import annotations

import numpy as np
import pytest

from difflab.errors import DifflabError
from difflab.score import manifold
from difflab.score.manifold import manifolds


def gaussian(n: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, 8)) * scale + shift).astype(np.float32)


def brute(real: np.ndarray, fake: np.ndarray, k: int, strict: bool) -> tuple[float, float, float, float]:
    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(float) - b[None], axis=2)

    reach = [np.sort(distances(x, x), axis=1)[:, k] for x in (real, fake)]
    across = distances(fake, real)
    inside = np.less if strict else np.less_equal
    in_real, in_fake = inside(across, reach[0][None]), inside(across, reach[1][:, None])
    coverage = inside(across.min(0), reach[0]).mean()
    return in_real.any(1).mean(), in_fake.any(0).mean(), in_real.sum() / (k * len(fake)), coverage


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_are_what_their_definitions_say(k, strict, monkeypatch):
    monkeypatch.setattr(manifold, "_ROWS", 7)
    monkeypatch.setattr(manifold, "_COLUMNS", 11)
    real, fake = gaussian(60), gaussian(45, 0.5, 0.8, seed=1)
    found = manifolds(real, fake, k, strict=strict)
    expected = brute(real, fake, k, strict)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_sides_change_places_as_precision_and_recall_do():
    real, fake = gaussian(80), gaussian(70, 0.4, seed=1)
    one, other = manifolds(real, fake), manifolds(fake, real)
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_narrow_samples_are_precise_and_miss_most_wide_ones_are_the_other_way_round():
    real = gaussian(300)
    narrow, wide = manifolds(real, gaussian(300, scale=0.3, seed=1)), manifolds(real, gaussian(300, scale=3.0, seed=2))
    assert narrow.precision > 0.95
    assert narrow.recall < 0.3
    assert wide.precision < 0.4
    assert wide.recall > 0.8


def test_far_away_nothing_is_covered_and_a_copy_is_covered_altogether():
    real = gaussian(50)
    far = manifolds(real, real + 100)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    same = manifolds(real, real.copy(), 5, strict=True)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)


def test_a_point_on_a_balls_surface_is_inside_for_adm_and_outside_for_prdc():
    """Balls of radius 1 around 0 and 1; a sample at 2."""
    real, fake = np.array([[0.0], [1.0]]), np.array([[2.0], [10.0]])
    assert manifolds(real, fake, 1).precision == 0.5
    assert manifolds(real, fake, 1, strict=True).precision == 0.0


@pytest.mark.parametrize(("n", "m"), [(3, 50), (50, 3)])
def test_too_few_samples_are_refused(n, m):
    with pytest.raises(DifflabError, match="more than 3 samples on each side"):
        manifolds(gaussian(m), gaussian(n))


def test_other_widths_are_refused():
    with pytest.raises(DifflabError, match=r"\d and \d features"):
        manifolds(gaussian(10), gaussian(10)[:, :4])


def test_leaving_a_group_out_is_the_comparison_without_its_rows():
    real, fake = gaussian(90), gaussian(60, 0.3, 0.9, seed=1)
    found = manifolds(real, fake, 3)
    group = np.arange(60) * manifold.GROUPS // 60
    for g in range(manifold.GROUPS):
        rest = manifolds(real, fake[group != g], 3)
        assert found.recall_without[g] == pytest.approx(rest.recall, abs=1e-6)
        assert found.coverage_without[g] == pytest.approx(rest.coverage, abs=1e-6)


def test_known_reaches_change_nothing():
    real, fake = gaussian(90), gaussian(60, 0.3, seed=1)
    one, two = manifolds(real, fake), manifolds(real, fake, reach=manifold.reaches(real, 3))
    assert (one.precision, one.density, one.coverage) == (two.precision, two.density, two.coverage)
