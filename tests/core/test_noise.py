from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from difflab.core.noise import GivenNoise, SeededNoise, seeded_classes, slerp
from difflab.errors import DifflabError

SHAPE = (3, 4, 4)


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("draw", [0, 5])
def test_sample_i_gets_the_same_noise_in_any_batch(batch, draw):
    whole = SeededNoise(3, range(64), SHAPE).draw(draw)
    parts = [SeededNoise(3, range(i, min(i + batch, 64)), SHAPE).draw(draw) for i in range(0, 64, batch)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.shape == (64, *SHAPE)
    assert whole.dtype == torch.float32


def test_order_of_asking_does_not_matter():
    forwards, backwards = SeededNoise(0, [4, 9], SHAPE), SeededNoise(0, [9, 4], SHAPE)
    late = backwards.draw(2), backwards.draw(1)
    early = forwards.draw(1), forwards.draw(2)
    assert torch.equal(early[0], late[1].flip(0))
    assert torch.equal(early[1], late[0].flip(0))


def test_other_seeds_indices_and_draws_give_unrelated_noise():
    keys = list(itertools.product((0, 1, 2**64 - 2, 2**64 - 1), (0, 1, 2), (0, 1, 2)))
    values = np.stack([SeededNoise(seed, [i], (4096,)).draw(k)[0].numpy() for seed, i, k in keys])
    correlations = np.corrcoef(values)[~np.eye(len(keys), dtype=bool)]
    assert np.abs(correlations).max() < 6 / math.sqrt(4096), "six standard errors of a correlation"


def test_classes_come_from_a_stream_that_no_draw_has():
    """Else a sample's class would hang together with its noise: both are made of the upper bits of a stream's first
    number, of which a normal number's size is."""
    classes = np.array(seeded_classes(0, range(2000), 3))
    for draw in range(4):
        size = SeededNoise(0, range(2000), (1,)).draw(draw)[:, 0].abs().numpy()
        means = np.array([size[classes == c].mean() for c in range(3)])
        assert np.abs(means - size.mean()).max() < 5 * size.std() / math.sqrt(2000 / 3), draw


@pytest.mark.parametrize("other", [(0, 1), (1, 0)], ids=["next draw", "next index"])
def test_no_stream_is_another_one_shifted(other):
    index, k = other
    a, b = SeededNoise(0, [0], (4096,)).draw(0), SeededNoise(0, [index], (4096,)).draw(k)
    assert len(np.intersect1d(a, b)) < 0.01 * 4096, "shifted streams would share nearly all of their values"


def test_noise_is_standard_normal():
    values = SeededNoise(0, range(50), (4000,)).draw(1).numpy().ravel()
    n = len(values)
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-4


def test_given_noise_comes_back_in_order():
    start, first, second = torch.arange(3).float().reshape(3, 1)
    noise = GivenNoise(start, [first, second])
    assert [noise.draw(k).item() for k in range(3)] == [0.0, 1.0, 2.0]


def test_too_little_given_noise_is_refused_naming_the_step():
    noise = GivenNoise(torch.zeros(1, 2), [torch.zeros(1, 2)])
    with pytest.raises(DifflabError, match="step 2 draws noise, but only 1 arrays"):
        noise.draw(2)


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(SeededNoise(0, [i], (3, 8, 8)).draw(0).double() for i in (0, 1))


def test_slerp_begins_and_ends_at_its_latents(latents):
    z1, z2 = latents
    torch.testing.assert_close(slerp(z1, z2, 0.0), z1, rtol=0, atol=1e-14)
    torch.testing.assert_close(slerp(z1, z2, 1.0), z2, rtol=0, atol=1e-14)


def test_slerp_keeps_the_norm_of_orthogonal_latents(latents):
    z1, z2 = latents
    z2 = z2 - (z1 * z2).sum() / z1.square().sum() * z1
    z2 = z2 * (z1.norm() / z2.norm())
    for share in (0.1, 0.5, 0.8):
        assert slerp(z1, z2, share).norm() == pytest.approx(float(z1.norm()), rel=1e-12)


def test_slerp_turns_at_an_even_rate():
    angle = 1.1
    z1, z2 = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    for share in (0.25, 0.5, 0.9):
        x, y = slerp(z1, z2, share).tolist()
        assert math.atan2(y, x) == pytest.approx(share * angle, rel=1e-12)


def test_slerp_between_equal_latents_stays_there(latents):
    z = latents[0]
    torch.testing.assert_close(slerp(z, z.clone(), 0.3), z)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_stream_has_are_refused(seed):
    with pytest.raises(DifflabError, match=r"seed is .* must lie between 0 and"):
        SeededNoise(seed, [0], (2,))
