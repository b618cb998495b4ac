from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.dits import tiny_dit

import difflab
from difflab.core.guidance import Guidance
from difflab.errors import DifflabError
from difflab.zoo.draw import Draw, calls_of, labels_of, plan
from difflab.zoo.families import ScheduleConfig
from difflab.zoo.sampling import sample_batches


@pytest.fixture(scope="module")
def model():
    return tiny_dit(in_channels=3)


def draw(**changes) -> Draw:
    return Draw(**{"sampler": "ddpm", "steps": 4, **changes})


def test_plain_defaults_are_those_of_the_official_script(model):
    x_T, noise = torch.randn(1, 3, 8, 8), [torch.randn(1, 3, 8, 8)] * 250
    plain = difflab.sample(model, x_T=x_T, noise=noise, output="raw", classes=2)
    told = difflab.sample(
        model, x_T=x_T, noise=noise, output="raw", classes=2, sampler="ddpm", steps=250, spacing="respaced"
    )
    assert torch.equal(plain, told)


@pytest.mark.parametrize("classes", ["random", "balanced", (4, 1, 0)])
def test_class_and_picture_of_a_sample_do_not_depend_on_its_batch(model, classes):
    how = draw(classes=classes, guidance=Guidance(3.0))
    whole = labels_of(model, how, 3, range(9))
    assert torch.equal(torch.cat([labels_of(model, how, 3, [i]) for i in range(9)]), whole)
    together = np.concatenate(list(sample_batches(model, how, 3, range(6), 6)))
    alone = np.concatenate(list(sample_batches(model, how, 3, range(6), 1)))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_random_classes_are_even_and_change_with_the_seed(model):
    found = labels_of(model, draw(), 0, range(2000))
    counts = torch.bincount(found, minlength=5)
    assert (counts - 400).abs().max() < 5 * (2000 * 0.2 * 0.8) ** 0.5
    assert not torch.equal(found, labels_of(model, draw(), 1, range(2000)))
    assert labels_of(model, draw(classes="balanced"), 0, range(7)).tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_guidance_at_one_is_the_model_and_beyond_it_differs(model):
    def at(scale: float) -> torch.Tensor:
        return difflab.sample(model, 2, sampler="ddim", steps=3, classes=1, guidance=scale, output="raw")

    assert not torch.allclose(at(1.0), at(3.0))


@pytest.mark.parametrize(
    ("guidance", "calls"),
    [(Guidance(), 4), (Guidance(2.0), 8), (Guidance(2.0, high=1.0), None), (Guidance(2.0, low=1e9), 4)],
)
def test_a_guided_step_asks_twice_and_one_outside_the_interval_once(model, guidance, calls):
    how, seen = draw(guidance=guidance, classes=(1,)), []
    hook = model.network.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    list(sample_batches(model, how, 0, range(3), 3))
    hook.remove()
    assert sum(seen) == 3 * calls_of(model, how)
    if calls is not None:
        assert calls_of(model, how) == calls
    else:
        assert 4 < calls_of(model, how) < 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": (5,)}, None),  # "no class" may be asked for
        ({"classes": (6,)}, r"class 6 was asked for, but its classes are 0 to 4 \(5 is 'no class'\)"),
        ({"classes": (-1,)}, "class -1 was asked for"),
        ({"classes": ()}, "no class was asked for"),
        ({"classes": "ballanced"}, "'ballanced' is not known.*balanced"),
        ({"guidance": Guidance(2.0, channels=4)}, "4 guided channels were asked for, but it has 3"),
        ({"steps": 1}, "at timestep 0 alone"),
        ({"steps": 1, "spacing": "trailing"}, "a learned variance lies between those of two steps"),
        ({"respacing": "ddim300"}, "no integer stride"),
        ({"respacing": "ten"}, "is not understood"),
        ({"eta": 0.5}, "eta is 0.5, but it is a setting of the sampler ddim alone"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(model, changes, words):
    if words is None:
        plan(model, draw(**changes))
        return
    with pytest.raises(DifflabError, match=words):
        plan(model, draw(**changes))


def test_without_a_row_for_no_class_there_is_no_guidance():
    model = tiny_dit(in_channels=3, class_dropout_prob=0.0)
    with pytest.raises(DifflabError, match="trained without hiding classes"):
        plan(model, draw(guidance=Guidance(2.0)))
    plan(model, draw())


def test_a_model_that_is_told_no_classes_refuses_them():
    from difflab.zoo.card import Card
    from difflab.zoo.families import FAMILIES, UNet2DConfig
    from difflab.zoo.model import build_model

    config = UNet2DConfig(image_size=8, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    model = build_model(Card(name="u", network=config), FAMILIES["unet2d"].build(config).state_dict())
    for changes, words in (({"guidance": Guidance(2.0)}, "guidance 2"), ({"classes": (1,)}, "classes was|classes")):
        with pytest.raises(DifflabError, match=f"is told no classes, but {words}"):
            plan(model, Draw(steps=2, **changes))
    assert labels_of(model, Draw(), 0, range(3)) is None


def test_respacing_takes_the_place_of_steps_and_spacing(model):
    x_T = torch.randn(1, 3, 8, 8)
    one = difflab.sample(model, x_T=x_T, sampler="ddim", classes=0, respacing="4", output="raw")
    two = difflab.sample(model, x_T=x_T, sampler="ddim", classes=0, steps=4, output="raw")
    assert torch.equal(one, two)


def test_gamma_and_corrector_are_settings_of_a_draw(model):
    plain = calls_of(model, draw(sampler="ddpm", steps=4))
    assert calls_of(model, draw(sampler="ddpm", steps=4, corrector=0.1)) == 2 * plain - 1
    a, b = (difflab.sample(model, 2, sampler="ddpm", steps=3, classes=1, gamma=g, output="raw") for g in (0.0, 1.0))
    assert not torch.equal(a, b)
    for changes, words in (
        ({"sampler": "ddim", "gamma": 0.5}, "setting of the sampler ddpm"),
        ({"corrector": 2.0}, "corrector is 2"),
        ({"percentile": 0.0}, "percentile is 0"),
    ):
        with pytest.raises(DifflabError, match=words):
            plan(model, draw(**changes))


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"sampler": "heun"}, 7),
        ({"sampler": "heun", "corrector": 0.1}, 10),
        ({"sampler": "unipc"}, 4),
        ({"sampler": "dpmpp-2m-sde", "spacing": "karras"}, 4),
    ],
)
def test_calls_of_solvers_are_counted_as_they_are_made(model, changes, calls):
    """Of four steps the last one, which lands on clean data, asks once."""
    seen, how = [], draw(**changes, classes=(1,))
    hook = model.network.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    next(sample_batches(model, how, 0, range(3), 3))
    hook.remove()
    assert sum(seen) == 3 * calls_of(model, how) == 3 * calls


@pytest.mark.parametrize("sampler", ["heun", "dpmpp-2m", "dpmpp-2m-sde", "unipc"])
def test_solvers_draw_the_same_in_any_batch(model, sampler):
    how = draw(sampler=sampler, steps=5)
    together, alone = (np.concatenate(list(sample_batches(model, how, 3, range(4), n))) for n in (4, 1))
    assert np.abs(together.astype(int) - alone).max() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "unipc", "corrector": 0.3}, "unipc goes by estimates of steps before"),
        ({"sampler": "dpmpp-2m", "steps": 100, "spacing": "quad", "official_grid": True}, "a timestep twice"),
    ],
)
def test_what_solvers_cannot_follow_is_refused(model, changes, words):
    with pytest.raises(DifflabError, match=words):
        plan(model, draw(**changes))


def test_solvers_do_not_begin_in_pure_noise():
    """cosine's even steps begin at sigma / alpha 20,000: where its spacing is not told, a solver takes its own."""
    cosine = tiny_dit(in_channels=3)
    cosine = replace(cosine, card=cosine.card.model_copy(update={"schedule": ScheduleConfig(name="cosine")}))
    with pytest.raises(DifflabError, match=r"heun would begin at sigma / alpha 2\.03e\+04.*take the spacing karras"):
        plan(cosine, draw(sampler="heun", spacing="trailing"))
    assert plan(cosine, draw(sampler="heun"))[1][0].alpha > 0.006
