"""Building and sampling, with a tiny network of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.noise import SeededNoise
from difflab.core.sampler import final
from difflab.errors import DifflabError
from difflab.hashing import hash_weights
from difflab.zoo.codec import decode
from difflab.zoo.draw import Draw
from difflab.zoo.families import ScheduleConfig
from difflab.zoo.model import Model, build_model
from difflab.zoo.sampling import sample, sample_batches, seeded_noise, walk

SHAPE = (3, 8, 8)


@pytest.fixture
def model(card, state) -> Model:
    """Read as v, which keeps the answers of a random network in range."""
    return build_model(card.model_copy(update={"prediction": "v"}), state)


# --- building


def test_a_built_model_is_ready_to_answer(model):
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.shape == SHAPE


def test_the_schedule_is_the_cards(card, state):
    model = build_model(
        card.model_copy(update={"schedule": ScheduleConfig(name="const", timesteps=3, beta_end=0.5)}), state
    )
    assert model.schedule.alpha_bar.tolist() == [0.5, 0.25, 0.125]


def test_a_missing_weight_is_named(card, state):
    del state["mid.attn_1.q.weight"]
    with pytest.raises(DifflabError, match=r"mid\.attn_1\.q\.weight \(64, 64, 1, 1\) is missing"):
        build_model(card, state)


def test_a_misshapen_weight_is_named(card, state):
    state["conv_in.bias"] = torch.zeros(7)
    with pytest.raises(DifflabError, match=r"conv_in\.bias has shape \(7,\), but this configuration needs \(32,\)"):
        build_model(card, state)


def test_a_weight_too_many_is_named(card, state):
    with pytest.raises(DifflabError, match=r"1 weights do not belong .* label_emb\.weight"):
        build_model(card, {**state, "label_emb.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(32, dtype=torch.complex64), torch.zeros(32).to_sparse(), torch.zeros(32, device="meta")],
    ids=["complex", "sparse", "meta"],
)
def test_a_weight_that_is_no_plain_tensor_is_named(card, state, weight):
    state["conv_in.bias"] = weight
    with pytest.raises(DifflabError, match=r"file\.pth: the weight conv_in\.bias is no plain tensor"):
        build_model(card, state, where="file.pth")


def test_a_weight_beyond_float32_is_named(card, state):
    state["conv_in.bias"] = torch.full((32,), 1e300, dtype=torch.float64)
    with pytest.raises(DifflabError, match=r"conv_in\.bias holds NaN or infinite values"):
        build_model(card, state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_weight_is_named(card, state, value):
    state["conv_in.weight"][0, 0, 0, 0] = value
    with pytest.raises(DifflabError, match=r"conv_in\.weight holds NaN or infinite"):
        build_model(card, state)


def test_the_hash_of_weights_depends_on_names_shapes_and_values_alone():
    a = torch.arange(6.0)
    state = {"a": a.reshape(2, 3), "b": a}
    same = {"b": a.clone(), "a": a.reshape(2, 3).t().contiguous().t()}
    assert hash_weights(same) == hash_weights(state)
    others = [{"a": a.reshape(3, 2), "b": a}, {"a": a.reshape(2, 3), "c": a}, {"a": a.reshape(2, 3), "b": a + 1e-6}]
    assert len({hash_weights(s) for s in [state, *others]}) == 4


# --- sampling


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("settings", [{}, {"eta": 0.7}, {"sampler": "ddpm"}], ids=["ddim", "eta", "ddpm"])
def test_sample_i_is_the_same_in_any_batch(model, batch, settings):
    whole = sample(model, 9, steps=4, seed=5, batch=9, **settings)
    parts = sample(model, 9, steps=4, seed=5, batch=batch, **settings)
    assert whole.shape == (9, 8, 8, 3)
    assert whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1, "sums in another order may round to the next level"


def test_start_noise_is_the_same_bit_for_bit_in_any_batch(model):
    whole = seeded_noise(model, 5, range(64)).draw(0)
    for batch in (1, 7):
        parts = [seeded_noise(model, 5, range(i, min(i + batch, 64))).draw(0) for i in range(0, 64, batch)]
        assert torch.equal(torch.cat(parts), whole)


def test_samples_with_given_indices_are_those_of_a_longer_run(model):
    draw = Draw(steps=3, eta=1.0)
    parts = list(sample_batches(model, draw, 5, [6, 2, 8], batch=2))
    assert [len(p) for p in parts] == [2, 1]
    whole = sample(model, 9, steps=3, eta=1.0, seed=5)
    assert np.abs(np.concatenate(parts).astype(int) - whole[[6, 2, 8]]).max() <= 1


def test_other_seeds_and_settings_give_other_samples(model):
    runs = [
        {},
        {"seed": 1},
        {"steps": 4},
        {"eta": 1.0},
        {"spacing": "trailing"},
        {"sampler": "ddpm"},
        {"sampler": "ddpm-noisy"},
    ]
    samples = [sample(model, 2, output="raw", **{"steps": 3, **run}) for run in runs]
    assert all(not torch.equal(a, b) for i, a in enumerate(samples) for b in samples[:i])


def test_given_noise_equal_to_the_seeded_noise_gives_the_same_samples(model):
    noise = SeededNoise(5, range(3), SHAPE)
    given = sample(model, x_T=noise.draw(0), noise=[noise.draw(k) for k in (1, 2)], steps=3, eta=1.0, output="raw")
    assert torch.equal(given, sample(model, 3, steps=3, eta=1.0, seed=5, output="raw"))


def test_given_noise_is_split_among_batches_like_its_samples(model):
    start, *noise = torch.randn(3, 5, *SHAPE, generator=torch.Generator().manual_seed(0))
    whole, parts = (sample(model, x_T=start, noise=noise, steps=3, eta=1.0, batch=b, output="raw") for b in (5, 2))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4)


def test_pixels_are_the_raw_samples_decoded(model):
    raw = sample(model, 2, steps=2, output="raw")
    assert raw.shape == (2, *SHAPE)
    assert raw.dtype == torch.float32
    assert np.array_equal(sample(model, 2, steps=2), decode(raw))


def test_one_step_from_the_last_label_is_the_clean_estimate(model):
    """A single DDIM step lands on x0 = alpha x - sigma v, computed here by hand."""
    x, at = seeded_noise(model, 0, range(2)).draw(0), model.schedule.point(999)
    with torch.no_grad():
        v = model.network(x, torch.full((2,), 999.0))
    expected = at.alpha * x - at.sigma * v
    torch.testing.assert_close(sample(model, 2, steps=1, spacing="trailing", output="raw"), expected)


def test_ddpm_clips_its_estimates_and_ddim_does_not_unless_told(model):
    def largest(**settings) -> float:
        noise = seeded_noise(model, 0, range(2))
        return max(step.estimate.x0.abs().max().item() for step in walk(model, Draw(steps=3, **settings), noise))

    assert largest() > 1
    assert largest(sampler="ddpm", clip=False) > 1
    assert largest(sampler="ddpm") <= 1
    assert largest(clip=True) <= 1


def test_the_cards_variance_is_ddpms(card, state):
    def end(variance: str, sampler: str) -> torch.Tensor:
        model = build_model(card.model_copy(update={"prediction": "v", "variance": variance}), state)
        return final(walk(model, Draw(sampler, steps=3), seeded_noise(model, 0, range(2))))

    assert torch.equal(end("large", "ddpm"), end("large", "ddpm-noisy"))
    assert not torch.equal(end("small", "ddpm"), end("large", "ddpm"))
    assert torch.equal(end("small", "ddpm-noisy"), end("large", "ddpm-noisy"))


def test_the_official_grid_takes_more_steps_than_asked_for(model):
    steps = list(walk(model, Draw(steps=7, official_grid=True), seeded_noise(model, 0, range(1))))
    assert len(steps) == 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "n is 0"),
        ({}, "n is None"),
        ({"x_T": torch.zeros(2, 3, 8, 9)}, r"x_T has shape \(2, 3, 8, 9\), but this model needs \(n, 3, 8, 8\)"),
        ({"x_T": torch.zeros(2, *SHAPE), "n": 3}, "n is 3, but x_T holds 2"),
        ({"n": 1, "sampler": "dimm"}, "'ddim'"),
        ({"n": 1, "sampler": "ddpm", "eta": 0.5}, "eta is 0.5, but it is a setting of the sampler ddim alone"),
        ({"n": 1, "eta": 1.5}, "eta is 1.5"),
        ({"n": 1, "steps": 1001}, "steps is 1001"),
        ({"n": 1, "spacing": "quadd"}, "'quad'"),
        ({"x_T": torch.zeros(1, *SHAPE), "eta": 1.0, "steps": 3}, "step 1 draws noise, but only 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, settings, words):
    with pytest.raises(DifflabError, match=words):
        sample(model, **settings)


def test_wrong_settings_are_refused_before_anything_is_computed(model):
    with pytest.raises(DifflabError):
        walk(model, Draw(steps=0), seeded_noise(model, 0, range(1)))
