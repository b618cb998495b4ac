"""Completing and continuing clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from difflab.core.denoiser import Estimate
from difflab.core.noise import SeededNoise
from difflab.core.reconstruction import Reconstruction
from difflab.core.sampler import DDIM, final, trajectory
from difflab.core.schedule import make_schedule, path
from difflab.data.shapes_clips import recognise_clips
from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.clips import Extension, batches_of, blocks_of, complete, extend
from difflab.zoo.draw import Draw
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet3DConfig
from difflab.zoo.load import load
from difflab.zoo.model import Model, build_model
from difflab.zoo.sampling import sample, seeded_noise

CORRELATION = 0.8


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = UNet3DConfig(image_size=8, num_frames=6, dim=8, dim_mults=(1, 2), attn_heads=1, attn_dim_head=8)
    card = Card(name="tiny", family="unet3d", network=config, schedule=ScheduleConfig(name="cosine", timesteps=20))
    return build_model(card, FAMILIES["unet3d"].build(config).state_dict())


def exact(x, at):
    """The estimate for two frames of one pixel, each standard normal, correlated: linear in x, so all is known."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=x.dtype)
    gain = (
        at.alpha * covariance @ torch.linalg.inv(at.alpha**2 * covariance + at.sigma**2 * torch.eye(2, dtype=x.dtype))
    )
    x0 = torch.einsum("ij,bcjhw->bcihw", gain, x)
    return Estimate(x0, (x - at.alpha * x0) / at.sigma)


def completed(weight: float, n: int = 4000, known: float = 1.5) -> torch.Tensor:
    noise = SeededNoise(0, range(n), (1, 2, 1, 1))
    guided = Reconstruction(exact, torch.full((n, 1, 1, 1, 1), known), noise, weight)
    steps = path(make_schedule("cosine", 200), 100, "trailing")
    return final(trajectory(guided, DDIM(1.0), steps, noise))[:, 0, 1, 0, 0]


def test_guidance_brings_the_other_frame_nearer_to_its_law():
    """Given a = 1.5 the other frame is normal around 0.8 x 1.5, spread 0.6. Replacement alone lags behind; guidance
    follows better, if not fully, since the variance it takes for a given z is not that of this pair."""
    far = {weight: completed(weight) for weight in (0.0, 1.0, 2.0)}
    misses = [abs(far[weight].mean().item() - CORRELATION * 1.5) for weight in (0.0, 1.0, 2.0)]
    assert misses[2] < misses[1] < misses[0]
    assert misses[1] < 0.7 * misses[0]
    assert far[1.0].std().item() == pytest.approx((1 - CORRELATION**2) ** 0.5, abs=0.05)


def test_the_estimate_is_moved_by_the_gradient():
    """Against finite differences."""
    torch.manual_seed(0)
    weights = torch.randn(3, 3, dtype=torch.float64)

    def curved(x, at):
        x0 = torch.tanh(torch.einsum("ij,bcjhw->bcihw", weights, x))
        return Estimate(x0, (x - at.alpha * x0) / at.sigma)

    known, x = torch.randn(2, 1, 1, 1, 1, dtype=torch.float64), torch.randn(2, 1, 3, 1, 1, dtype=torch.float64)
    at = make_schedule("cosine", 100).point(40)

    class Fixed:
        def draw(self, k):
            return torch.ones(2, 1, 3, 1, 1, dtype=torch.float64)

    guided = Reconstruction(curved, known, Fixed(), weight=1.7)(x, at)
    z = torch.cat([at.alpha * known + at.sigma, x[:, :, 1:]], dim=2)

    def error(z):
        return (known - curved(z, at).x0[:, :, :1]).square().flatten(1).sum(1)

    for j in (1, 2):
        step = torch.zeros_like(z)
        step[:, :, j] = 1e-6
        slope = (error(z + step) - error(z - step)) / 2e-6
        expected = curved(z, at).x0[:, 0, j, 0, 0] - 1.7 * at.alpha / 2 * slope
        torch.testing.assert_close(guided.x0[:, 0, j, 0, 0], expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(at.alpha * guided.x0 + at.sigma * guided.eps, z)
    torch.testing.assert_close(guided.x0[:, :, :1], known)


def test_completed_clips_begin_as_given_and_do_not_depend_on_the_batch(model):
    known = torch.rand(3, 3, 2, 8, 8) * 2 - 1
    draw = Draw("ddpm", 5)
    whole = complete(model, draw, known, range(3))
    assert whole.shape == (3, 3, 6, 8, 8)
    torch.testing.assert_close(whole[:, :, :2], known)
    alone = complete(model, draw, known[1:2], range(1, 2))
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-3)


def test_clips_go_on_as_long_as_asked(model):
    draw = Draw("ddim", 3)
    begun = sample(model, n=2, sampler="ddim", steps=3, output="raw")
    longer = extend(model, draw, begun, 15, 2, range(2))
    assert longer.shape == (2, 3, 15, 8, 8)
    torch.testing.assert_close(longer[:, :, :6], begun)
    second = complete(model, draw, begun[:, :, -2:], range(2), block=1)
    torch.testing.assert_close(longer[:, :, 6:10], second[:, :, 2:])
    third = complete(model, draw, longer[:, :, 8:10], range(2), block=2)
    torch.testing.assert_close(longer[:, :, 10:14], third[:, :, 2:])
    assert torch.equal(extend(model, draw, begun, 4, 2, range(2)), begun[:, :, :4])


def test_the_weight_reaches_every_block(model):
    draw, begun = Draw("ddim", 3), torch.rand(1, 3, 6, 8, 8) * 2 - 1
    longer = extend(model, draw, begun, 10, 2, range(1), weight=0.0)
    only_put = complete(model, draw, begun[:, :, -2:], range(1), weight=0.0, block=1)
    torch.testing.assert_close(longer[:, :, 6:], only_put[:, :, 2:])
    assert not torch.allclose(longer[:, :, 6:], extend(model, draw, begun, 10, 2, range(1))[:, :, 6:])


@pytest.mark.parametrize(("length", "blocks"), [(3, 1), (6, 1), (7, 2), (10, 2), (11, 3), (14, 3), (15, 4)])
def test_blocks_are_as_many_as_are_needed(model, length, blocks):
    """Clips of 6 frames, of which each after the first adds 4."""
    assert blocks_of(model, length, 2) == blocks


def test_extended_clips_do_not_depend_on_the_batch(model):
    draw = Draw("ddpm", 3)
    how = Extension(9, 2)
    whole, alone = (np.concatenate(list(batches_of(model, draw, 5, range(2, 5), n, how))) for n in (3, 1))
    assert whole.shape == (3, 9, 8, 8, 3)
    assert np.abs(whole.astype(int) - alone).max() <= 1


def test_known_frames_get_fresh_noise_at_every_place_apart_from_that_of_the_steps():
    """And estimates are clamped where that is asked for, known frames excepted."""
    asked = []

    class Recorded:
        def draw(self, k):
            asked.append(k)
            return torch.zeros(1, 1, 2, 1, 1)

    known, schedule = torch.full((1, 1, 1, 1, 1), 3.0), make_schedule("cosine", 100)
    for clip, bound in ((True, 1.0), (False, 5.0)):
        guided = Reconstruction(lambda z, at: Estimate(5.0 + 0.0 * z, z), known, Recorded(), 1.0, clip)
        places = [schedule.point(t) for t in (10, 9, 9)]  # of two calls at one place the second sees what the first did
        estimates = [guided(torch.zeros(1, 1, 2, 1, 1), at).x0 for at in places]
        assert [float(x0[0, 0, 1]) for x0 in estimates] == [bound] * 3
        assert float(estimates[0][0, 0, 0]) == 3.0
    assert asked == [asked[0], asked[0] + 1] * 2
    assert asked[0] >= 1 << 32


def test_blocks_have_noise_of_their_own_and_one_class(model, monkeypatch):
    """No block shares its noise with another, nor with samples of other seeds; the class of a clip stays."""
    draws = [seeded_noise(model, seed, [3], block).draw(0) for seed in (0, 1, 2) for block in (0, 1, 2)]
    assert len({x.numpy().tobytes() for x in draws}) == 9
    told = []
    monkeypatch.setattr("difflab.zoo.clips.told_of", lambda model, draw, seed, indices: told.append(seed))
    extend(model, Draw("ddim", 2), torch.zeros(2, 3, 6, 8, 8), 15, 2, range(2), seed=7)
    assert told == [7, 7, 7]


def test_the_shipped_model_moves_shapes_as_asked():
    """By chance a quarter of the directions and of the kinds would be right, four of sixteen."""
    shipped = load("shapes-unet3d")
    clips = sample(shipped, n=16, sampler="ddim", steps=16, spacing="trailing", classes="balanced")
    seen, asked = recognise_clips(clips), np.arange(16)
    assert (seen.moved & (seen.motions.direction == asked % 4)).sum() >= 12
    assert (seen.motions.kind == asked // 4).sum() >= 13
    assert sample(shipped.with_frames(5), n=1, steps=2).shape == (1, 5, 32, 32, 3)


def test_clips_of_any_length_begin_with_the_same_noise(model):
    short, long = (seeded_noise(model.with_frames(frames), 0, range(3)).draw(2) for frames in (4, 9))
    assert torch.equal(short, long[:, :, :4])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_of_guidance_are_numbers_from_zero(model, weight):
    with pytest.raises(DifflabError, match="weight of reconstruction guidance"):
        complete(model, Draw("ddim", 2), torch.zeros(1, 3, 2, 8, 8), range(1), weight=weight)


def test_ddim_clamps_on_a_schedule_that_ends_in_almost_no_signal(model):
    """The reference clamps with every sampler; else DDIM's first step magnifies what eps is off two thousandfold."""
    card = model.card.model_copy(update={"schedule": ScheduleConfig(name="cosine-9999"), "prediction": "eps"})
    usual = replace(model, card=card)
    x = sample(usual, n=2, sampler="ddim", steps=5, output="raw")
    assert x.abs().max() <= 1.0
    assert sample(usual, n=2, sampler="ddim", steps=5, output="raw", clip=False).abs().max() > 10


@pytest.mark.parametrize("given", [0, 6, 9])
def test_as_many_or_more_frames_than_the_window_are_refused(model, given):
    with pytest.raises(DifflabError, match=f"{given} frames were given, but it draws clips of 6"):
        complete(model, Draw("ddim", 3), torch.zeros(1, 3, given, 8, 8), range(1))


def test_an_overlap_that_leaves_nothing_is_refused(model):
    for overlap in (0, 6):
        with pytest.raises(DifflabError, match=f"overlap is {overlap}, but must lie between 1 and 5"):
            extend(model, Draw("ddim", 3), torch.zeros(1, 3, 6, 8, 8), 12, overlap, range(1))
    with pytest.raises(DifflabError, match="only 1 frames are there"):
        extend(model, Draw("ddim", 3), torch.zeros(1, 3, 1, 8, 8), 12, 2, range(1))
