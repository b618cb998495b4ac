"""Drawing what a sentence says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.dits import tiny_dit

import difflab
from difflab.core.guidance import Guidance
from difflab.data.captions import judge_clips, judge_scenes, read, scene_captions
from difflab.data.shapes import recognise
from difflab.data.shapes_clips import recognise_clips
from difflab.errors import DifflabError
from difflab.zoo.card import Card, TextConfig
from difflab.zoo.clips import complete
from difflab.zoo.draw import Draw, calls_of, told_of
from difflab.zoo.families import FAMILIES, ScheduleConfig, UNet3DConfig
from difflab.zoo.model import Model, build_model
from difflab.zoo.sampling import denoiser_of, sample_batches

PROMPTS = ("a red circle", "", "a large blue cross at the left")


def told(model: Model, encoder: str | None = "shapes-text", sha256: str | None = None) -> Model:
    text = None if encoder is None else TextConfig(encoder=encoder, sha256=sha256)
    return replace(model, card=model.card.model_copy(update={"text": text}))


@pytest.fixture(scope="module")
def model() -> Model:
    return told(tiny_dit(in_channels=3, learn_sigma=False, cond_dim=64))


def unet(**changes) -> Model:
    torch.manual_seed(0)
    fields = {"image_size": 8, "num_frames": 3, "dim": 8, "dim_mults": (1,), "attn_heads": 2, "attn_dim_head": 8}
    config = UNet3DConfig(**{**fields, "cond_dim": 64, **changes})
    network = FAMILIES["unet3d"].build(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    schedule = ScheduleConfig(name="cosine", timesteps=20)
    card = Card(name="tiny", family="unet3d", network=config, schedule=schedule, text=TextConfig(encoder="shapes-text"))
    return build_model(card, network.state_dict())


def raw(model: Model, n: int = 3, **how) -> torch.Tensor:
    return difflab.sample(model, n, **{"sampler": "ddim", "steps": 3, "output": "raw", **how})


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """With random weights pictures are thousands large."""
    return bool((one - other).abs().max() < 1e-4 * other.abs().max())


@pytest.mark.parametrize("tokens", [True, False])
def test_prompts_of_clips_are_told_with_their_tokens_or_without(tokens):
    model = unet(cond_tokens=tokens)
    assert model.read(PROMPTS).shape == ((3, 25, 64) if tokens else (3, 64))
    one, other, none = (raw(model, 1, prompt=text)[0] for text in ("a circle moves up", "a circle moves down", ""))
    assert not close(one, other)
    assert not close(one, none)
    continued = complete(model, Draw(steps=2, prompts=("a circle moves up",)), torch.zeros(1, 3, 1, 8, 8), range(1))
    assert continued.shape == (1, 3, 3, 8, 8)


def test_prompts_are_taken_in_turn(model):
    whole = raw(model, 7, prompt=PROMPTS, guidance=2.0)
    for i in range(7):
        alone = raw(model, 7, prompt=PROMPTS[i % 3], guidance=2.0)
        assert close(alone[i], whole[i])
        assert not close(alone[1 if i % 3 != 1 else 2], whole[1 if i % 3 != 1 else 2])


def test_a_sample_does_not_depend_on_its_batch(model):
    together = raw(model, 7, prompt=PROMPTS, guidance=2.0)
    for batch in (1, 3):
        assert close(raw(model, 7, prompt=PROMPTS, guidance=2.0, batch=batch), together)
    how = Draw(steps=3, prompts=PROMPTS)
    whole = np.concatenate(list(sample_batches(model, how, 0, range(5), 5)))
    part = np.concatenate(list(sample_batches(model, how, 0, [4, 1], 1)))
    assert np.abs(whole[[4, 1]].astype(int) - part).max() <= 1


def test_a_prompt_is_read_once_however_often_it_is_asked(model, monkeypatch):
    seen, encode = [], type(model.text_encoder).encode
    monkeypatch.setattr(
        type(model.text_encoder), "encode", lambda self, texts: (seen.extend(texts), encode(self, texts))[1]
    )
    rows = model.read(["a circle", "a square", "a circle", "a circle"])
    assert seen == ["a circle", "a square"]
    assert torch.equal(rows[0].nan_to_num(9), rows[3].nan_to_num(9))
    torch.testing.assert_close(
        rows[1:2], encode(model.text_encoder, ["a square"]), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def test_an_empty_prompt_is_no_condition_whatever_the_guidance(model):
    unconditional = raw(model, conditions=torch.full((3, 4, 64), torch.nan))
    for guidance in (1.0, 3.0):
        assert close(raw(model, prompt="", guidance=guidance), unconditional)
    assert close(raw(model, prompt="a red circle", guidance=0.0), unconditional)
    assert not close(raw(model, prompt="a red circle"), unconditional)


def test_a_prompt_is_as_good_as_the_caption_it_is_read_as(model):
    conditions = model.read(["a red circle"] * 3)
    assert close(raw(model, conditions=conditions, guidance=2.0), raw(model, prompt="a red circle", guidance=2.0))


def test_guidance_goes_from_no_caption_past_the_one_that_is_told(model):
    x, at = torch.randn(3, 3, 8, 8), model.schedule.point(500)
    asked = told_of(model, Draw(prompts=PROMPTS), 0, range(3))

    def eps(scale: float) -> torch.Tensor:
        return denoiser_of(model, Draw(guidance=Guidance(scale), prompts=PROMPTS, clip=False), asked)(x, at).eps

    hidden, plain = model.network(x, torch.full((3,), 500.0), torch.full_like(asked, torch.nan)), eps(1.0)
    torch.testing.assert_close(eps(0.0), hidden, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(eps(2.5), hidden + 2.5 * (plain - hidden), rtol=1e-3, atol=1e-3)
    assert not close(plain[0], hidden[0])
    assert calls_of(model, Draw(steps=4, guidance=Guidance(2.0), prompts=PROMPTS)) == 8
    assert calls_of(model, Draw(steps=4, prompts=PROMPTS)) == 4


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prompt": "a circle", "conditions": torch.zeros(3, 4, 64)}, "both a prompt and conditions were given"),
        ({}, "draws what a caption says; give a prompt, an empty one for any picture"),
        ({"prompt": []}, "give a prompt"),
        ({"prompt": "a dog"}, "does not know the word 'dog'"),
        ({"prompt": "a circle", "guidance_channels": 4}, "4 guided channels were asked for, but it has 3"),
        ({"prompt": "a circle", "guidance": 2.0, "classes": 3}, "is told no classes, but classes was asked for"),
        ({"conditions": torch.zeros(3, 64)}, r"conditions have shape \(3, 64\), but .* need \(3, 1 \+ tokens, 64\)"),
        ({"conditions": torch.zeros(2, 4, 64)}, "conditions have shape"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(model, how, words):
    with pytest.raises(DifflabError, match=words) as error:
        raw(model, **how)
    assert "\n" not in str(error.value)


def test_models_that_read_no_captions_refuse_a_prompt(model):
    of_classes = tiny_dit(in_channels=3)
    with pytest.raises(DifflabError, match="is told no captions; leave the prompt out"):
        raw(of_classes, prompt="a circle")
    with pytest.raises(DifflabError, match="is told no captions"):
        list(sample_batches(of_classes, Draw(steps=2, prompts=("a circle",)), 0, [0], 1))
    without = told(model, None)
    with pytest.raises(DifflabError, match="is told a vector of 64 numbers a sample; give conditions"):
        raw(without)
    with pytest.raises(DifflabError, match="is told no captions"):
        raw(without, prompt="a circle")


def test_a_model_that_never_hid_captions_cannot_be_guided_away_from_none():
    sure = told(tiny_dit(in_channels=3, learn_sigma=False, cond_dim=64, class_dropout_prob=0.0))
    with pytest.raises(DifflabError, match="trained without hiding captions"):
        raw(sure, prompt="a circle", guidance=2.0)
    assert raw(sure, prompt="a circle").shape == (3, 3, 8, 8)


def test_another_text_encoder_than_that_of_the_training_is_refused(model):
    sha256 = model.text_encoder.weights_hash()
    assert told(model, sha256=sha256).text_encoder.width == 64
    with pytest.raises(DifflabError, match="is not the text encoder this model was trained with"):
        raw(told(model, sha256="0" * 64), prompt="a circle")
    narrow = told(tiny_dit(in_channels=3, cond_dim=32))
    with pytest.raises(DifflabError, match="makes vectors of 64 numbers, but this model takes 32"):
        raw(narrow, prompt="a circle")
    with pytest.raises(DifflabError, match="no such text encoder"):
        raw(told(model, "nowhere"), prompt="a circle")


def test_the_shipped_model_draws_what_a_sentence_says():
    prompts = scene_captions(54_321, np.arange(32), 1)
    pictures = difflab.sample(difflab.load("shapes-t2i"), 32, prompt=prompts, guidance=2.0, sampler="unipc", steps=10)
    judged = judge_scenes([read(text) for text in prompts], recognise(pictures).scenes)
    right = np.all([values != 0 for values in judged.values()], axis=0)
    assert right.mean() >= 0.8


def test_the_shipped_model_of_clips_moves_as_a_sentence_says():
    prompts = [
        f"a {kind} moves {way}" for kind in ("red circle", "blue cross") for way in ("left", "right", "up", "down")
    ]
    clips = difflab.sample(difflab.load("shapes-t2v"), 8, prompt=prompts, guidance=2.0, sampler="unipc", steps=5)
    seen = recognise_clips(clips)
    judged = judge_clips([read(text) for text in prompts], seen.motions, seen.moved)
    assert (judged["direction"] == 1).mean() >= 0.8
