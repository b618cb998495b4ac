"""Trainings of text encoders, and of models that are told captions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import difflab
from difflab.data.captions import WORDS, clip_captions, judge_clips, judge_scenes, read, scene_captions
from difflab.data.shapes import Shapes, recognise
from difflab.data.shapes_clips import ShapesClips, recognise_clips
from difflab.errors import DifflabError
from difflab.train.answers import READ
from difflab.train.config import folder_of, parse_recipe, read_recipe
from difflab.train.draws import Draws
from difflab.train.feed import Batch, Feed, captions_in
from difflab.train.loop import CHECKPOINT, Trainer
from difflab.train.motions_denoiser import MotionsDenoiser, known_of_captions
from difflab.train.objective import DiffusionObjective, TextObjective
from difflab.train.run import train
from difflab.zoo.text import open_text_encoder

RECIPES = Path(__file__).parents[2] / "recipes"
TEXT = {"name": "words", "kind": "text", "width": 32, "depth": 1, "heads": 2, "data": {"source": "shapes"},
        "optim": {"name": "adamw", "lr": 4e-3}, "steps": 4, "batch": 64, "save_every": 1}  # fmt: skip
PICTURES = {
    "name": "pictures", "family": "dit", "batch": 4, "steps": 3, "save_every": 1, "sample_every": 100, "ema_rate": 0.2,
    "network": {
        "input_size": 16, "patch_size": 4, "in_channels": 3, "hidden_size": 16, "depth": 1, "num_heads": 2,
        "learn_sigma": False, "cond_dim": 64, "conditioning": "adaln-single",
    },
    "schedule": {"timesteps": 20}, "text_encoder": "shapes-text",
    "data": {"source": "shapes", "size": 16, "flip": False},
}  # fmt: skip
CLIPS = {
    "name": "clips", "family": "unet3d", "batch": 2, "steps": 3, "save_every": 1, "sample_every": 100, "ema_rate": 0.2,
    "network": {
        "image_size": 16, "num_frames": 3, "dim": 8, "dim_mults": [1], "attn_heads": 1, "attn_dim_head": 8, "patch": 4,
        "strict_mask": True, "use_sparse_linear_attn": False, "cond_dim": 64, "cond_tokens": True,
    },
    "schedule": {"name": "cosine", "timesteps": 20}, "text_encoder": "shapes-text",
    "data": {"source": "shapes", "size": 16, "frames": 3, "flip": False},
}  # fmt: skip
KINDS = {"text": TEXT, "pictures": PICTURES, "clips": CLIPS}


def recipe(kind: str, **changes):
    """With `network` and `data` changed in part."""
    fields = KINDS[kind]
    within = {name: {**fields[name], **changes.pop(name)} for name in ("network", "data") if name in changes}
    return parse_recipe({**fields, **within, **changes}, kind)


def drawn(asked, captions: list[str], seed: int = 0) -> tuple[torch.Tensor, ...]:
    """What a step draws of so many black samples with these captions."""
    frames = () if asked.data.frames is None else (asked.data.frames,)
    pictures = np.zeros((len(captions), *frames, asked.data.size, asked.data.size, 3), np.uint8)
    batch = Batch(pictures, np.zeros(len(captions), int), np.arange(len(captions)), captions=captions)
    return DiffusionObjective(asked).draw(batch, Draws(seed, 0, len(batch.indices)), torch.device("cpu"))


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_cut_ends_with_the_bits_of_one_that_is_not(kind, tmp_path):
    asked = recipe(kind)

    def stop(progress):
        if progress.step == 2:
            raise Stop

    whole = train(asked, tmp_path / "whole")
    with pytest.raises(Stop):
        train(asked, tmp_path / "cut", watch=stop)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    cut = train(asked, tmp_path / "cut", resume=True)
    load = open_text_encoder if kind == "text" else difflab.load
    a, b = (load(str(path)).network.state_dict() for path in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("kind", "size"), [("pictures", (2, 16, 16, 3)), ("clips", (2, 3, 16, 16, 3))])
def test_a_finished_model_says_what_reads_its_captions_and_draws_what_they_say(kind, size, tmp_path):
    model = difflab.load(train(recipe(kind, sample_every=2), tmp_path))
    encoder = open_text_encoder("shapes-text")
    assert (model.card.text.encoder, model.card.text.sha256) == ("shapes-text", encoder.weights_hash())
    assert (model.card.network.classes, model.card.classes) == (None, ())
    assert difflab.sample(model, 2, prompt=["a circle", ""], steps=2, guidance=2.0).shape == size
    assert len(list((tmp_path / "samples").iterdir())) == 1
    assert "captions read by shapes-text" in model.card.summary()


def test_a_finished_text_encoder_opens_and_reads(tmp_path):
    asked = recipe("text")
    path = train(asked, tmp_path)
    encoder = open_text_encoder(str(path))
    assert (encoder.card.name, encoder.width, encoder.card.network.words) == ("words", 32, WORDS)
    assert encoder.card.training["recipe"] == asked.model_dump(mode="json")
    assert encoder.encode(["a red circle"]).shape == (1, 25, 32)
    assert folder_of(asked) == "text"


def test_a_text_encoder_learns_to_read(tmp_path):
    losses = []
    train(recipe("text", steps=30, batch=128, save_every=30), tmp_path, watch=lambda p: losses.append(p.loss.item()))
    guessing = sum(np.log(answers) for answers in READ.values())
    assert losses[0] > 0.7 * guessing
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_text_encoder_sees_sentences_about_scenes_and_clips_and_answers_of_each():
    asked = recipe("text", batch=7)
    objective = TextObjective(asked)
    batch = Feed(Shapes(32), 7, 0).at(3)
    numbers, *targets = objective.draw(batch, Draws(0, 0, len(batch.indices)), torch.device("cpu"))
    table = {number: word for word, number in objective.network.numbers.items()}
    texts = [" ".join(table[n] for n in row if n > 1) for row in numbers.tolist()]
    assert ["moves" in text for text in texts] == [True, False, True, False, True, False, True]
    assert texts[1::2] == scene_captions(0, batch.indices[1::2])
    assert texts[::2] == clip_captions(0, batch.indices[::2])
    answers = dict(zip(READ, targets, strict=True))
    for i, claim in enumerate(map(read, texts)):
        assert answers["first kind"][i] == 1 + claim.things[0].kind
        assert answers["direction"][i] == (0 if claim.direction is None else 1 + claim.direction)
        assert (answers["second kind"][i] > 0) == (len(claim.things) == 2)


def test_pictures_that_nobody_looks_at_are_not_drawn(monkeypatch):
    """And what a text encoder sees is the same as beside them."""
    fields = {"kind": "text", "name": "t", "data": {"source": "shapes", "flip": False}, "steps": 1}
    objective, draws = TextObjective(parse_recipe(fields, "t")), Draws(0, 3, 4)
    beside = objective.draw(Feed(Shapes(), 4, 0).at(3), draws, torch.device("cpu"))
    monkeypatch.setattr(Shapes, "batch", lambda *_: pytest.fail("pictures were drawn"))
    blind = objective.draw(Feed(Shapes(), 4, 0, looks=objective.looks).at(3), draws, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(beside, blind, strict=True))


def test_a_text_encoder_may_see_one_sentence_at_a_time(tmp_path):
    assert train(recipe("text", batch=1, steps=1), tmp_path).exists()


@pytest.mark.parametrize("kind", ["pictures", "clips"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_captions_are_hidden_as_often_as_is_said(kind, share):
    asked, telling = (
        recipe(kind, network={"class_dropout_prob": share}),
        {"pictures": scene_captions, "clips": clip_captions},
    )
    texts = telling[kind](0, np.arange(400))
    told = drawn(asked, texts)[3]
    hidden = told.isnan().flatten(1).all(1)
    assert hidden.float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)
    whole = open_text_encoder("shapes-text").encode(texts)
    torch.testing.assert_close(told[~hidden], whole[~hidden], rtol=1e-4, atol=1e-5, equal_nan=True)
    assert not torch.equal(hidden, drawn(asked, texts, seed=1)[3].isnan().flatten(1).all(1)) or not share


def test_a_network_that_reads_no_tokens_is_told_vectors():
    asked = recipe("clips", network={"cond_tokens": False, "class_dropout_prob": 0.0})
    texts = clip_captions(0, np.arange(3))
    torch.testing.assert_close(drawn(asked, texts)[3], open_text_encoder("shapes-text").encode(texts)[:, 0])


@pytest.mark.parametrize("dataset", [Shapes(16, seed=5), ShapesClips(16, 2, seed=5)])
def test_every_device_is_told_the_captions_of_its_own_samples(dataset):
    whole = Feed(dataset, 6, 3, captions=True).at(4)
    assert len(set(whole.captions)) > 1
    parts = [Feed(dataset, 3, 3, captions=True, rank=rank, world=2).at(4).captions for rank in range(2)]
    assert parts[0] + parts[1] == whole.captions
    assert Feed(dataset, 6, 3).at(4).captions is None


def test_captions_are_true_of_the_pictures_and_clips_they_come_with():
    pictures = Feed(Shapes(32, seed=5), 64, 3, captions=True).at(4)
    judged = judge_scenes([read(text) for text in pictures.captions], recognise(pictures.pictures).scenes)
    assert all((values != 0).all() for values in judged.values())
    clips = Feed(ShapesClips(32, 8, seed=5), 64, 3, captions=True).at(4)
    seen = recognise_clips(clips.pictures)
    judged = judge_clips([read(text) for text in clips.captions], seen.motions, seen.moved)
    assert all((values != 0).all() for values in judged.values())


def test_one_of_several_captions_is_picked_and_an_item_may_have_none():
    class Pictures:
        """With captions, and not of `shapes`."""

        description, classes = "pictures with captions", None

        def captions_of(self, index: int) -> tuple[str, ...]:
            return tuple(f"{index} {which}" for which in range(index))

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Shapes(16)[index]

    pictures = Pictures()
    assert captions_in(pictures, np.array([0, 1, 2, 2]), np.array([0.9, 0.0, 0.0, 0.99])) == ["", "1 0", "2 0", "2 1"]
    feed = Feed(pictures, 3, 0, captions=True)
    batches = [feed.at(step) for step in range(40)]
    for batch in batches:
        for index, text in zip(batch.indices, batch.captions, strict=True):
            assert text.split()[:1] == ([str(index)] if index else [])
    seen = [text for batch in batches for text in batch.captions]
    assert seen.count("") == seen.count("1 0") == 40
    assert 8 < seen.count("2 0") < 32
    assert [batch.captions for batch in batches] == [
        Feed(pictures, 3, 0, captions=True).at(s).captions for s in range(40)
    ]


def test_the_exact_target_is_the_mean_of_what_the_caption_says():
    """A network that answers so has no error; one that answers by other captions has."""
    asked = recipe("clips", network={"image_size": 32, "class_dropout_prob": 0.5}, data={"size": 32}, target="exact",
                   prediction="x0")  # fmt: skip
    texts = clip_captions(3, np.arange(8))
    objective, exact, schedule = DiffusionObjective(asked), MotionsDenoiser(3), asked.schedule.build()
    clips = ShapesClips(32, 3, seed=3).batch(np.arange(8))[0]
    batch = Batch(clips, np.zeros(8, int), np.arange(8), captions=texts)
    x0, _, eps, told, known = objective.draw(batch, Draws(0, 0, len(batch.indices)), torch.device("cpu"))
    t, hidden = torch.full((8,), 18), told.isnan().flatten(1).all(1)
    assert 0 < hidden.sum() < 8
    said = known_of_captions(["" if h else text for h, text in zip(hidden, texts, strict=True)])
    assert torch.equal(known, said)

    def error(known: torch.Tensor) -> float:
        def answer(x, t, _told):
            return exact(x, schedule.at(t, 5), known).x0

        return objective.loss(answer, (x0, t, eps, told, said)).item()

    assert error(said) < 1e-8
    assert error(said.roll(1, 0)) > 1e-4
    assert error(torch.full_like(said, -1)) > 1e-4


def test_parts_of_a_batch_have_the_loss_of_the_whole():
    asked = recipe("clips", network={"image_size": 32}, data={"size": 32}, target="exact", prediction="x0")
    objective, texts = DiffusionObjective(asked), clip_captions(3, np.arange(4))
    torch.manual_seed(0)
    network, parts = objective.build(), drawn(asked, texts)
    halves = [objective.loss(network, tuple(value[k : k + 2] for value in parts)) for k in (0, 2)]
    torch.testing.assert_close(torch.stack(halves).mean(), objective.loss(network, parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("pictures", {"network": {"cond_dim": None}}, "set network.cond_dim to its width"),
        ("pictures", {"text_encoder": None}, "network.cond_dim is 64, but nothing makes vectors of captions"),
        ("pictures", {"network": {"num_classes": 20}}, "told captions instead of classes; leave num_classes out"),
        ("pictures", {"data": {"flip": True}}, "a mirrored scene is not what its caption says"),
        ("clips", {"data": {"flip": True}}, "a mirrored scene is not what its caption says"),
        ("pictures", {"network": {"input_size": 32}, "data": {"size": 32}, "target": "exact"},
         "of pictures the exact mean is known without them alone; choose target: data"),
        ("clips", {"network": {"num_classes": 16}}, "only captions have tokens; give cond_dim, and no num_classes"),
        ("clips", {"network": {"cond_dim": None}}, "only captions have tokens"),
        ("clips", {"network": {"attn_heads": 3}}, "3 heads that attend to tokens need a multiple"),
        ("clips", {"network": {"cond_tokens": False, "num_classes": 16}}, "told no captions; set network.cond_dim"),
        ("text", {"data": {"source": "cifar10"}}, "only the language of shapes is learned; set shapes"),
        ("text", {"heads": 3}, "width is 32, but 3 heads need a multiple of 3"),
        ("text", {"length": 1}, "length"),
        ("text", {"words": ["dog"]}, "words"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(kind, changes, words):
    with pytest.raises(DifflabError, match=words) as told:
        recipe(kind, **changes)
    assert "\n" not in str(told.value)


def test_an_encoder_of_another_width_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DifflabError, match=r"shapes-text makes vectors of 64 numbers, but network.cond_dim is 32"):
        train(recipe("pictures", network={"cond_dim": 32}), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_data_without_captions_are_refused(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((16, 16, 3), 90 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(DifflabError, match=r"has a text_encoder, but the data .* have no captions"):
        train(recipe("pictures", data={"source": str(tmp_path), "split": None}), tmp_path / "out")


def test_an_average_of_a_text_encoder_is_not_kept(tmp_path):
    """So that what is saved is what was trained."""
    trainer = Trainer(recipe("text"), Shapes(32), tmp_path)
    list(trainer.run())
    assert trainer.ema is None
    assert all(torch.equal(v, trainer.bare.state_dict()[name]) for name, v in trainer.averaged_state().items())


def without_saves(values) -> dict:
    free = {"log_every", "save_every", "sample_every", "start"}
    return {name: value for name, value in values.model_dump().items() if name not in free}


@pytest.mark.parametrize("name", ["shapes-t2i", "shapes-t2v"])
def test_what_ships_was_trained_by_its_recipe_and_then_as_its_comment_says(name):
    path, card = RECIPES / f"{name}.yaml", difflab.load(name).card
    first = parse_recipe(dict(card.training["before"]["recipe"]), name)
    assert without_saves(read_recipe(path)) == without_saves(first)
    comment = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    command = re.search(rf"`difflab train recipes/{name}.yaml ([^`]*)`", comment).group(1)
    second = parse_recipe(dict(card.training["recipe"]), name)
    assert without_saves(read_recipe(path, command.split())) == without_saves(second)
    assert (card.training["before"]["steps"], card.training["steps"]) == (first.steps, second.steps)
    assert card.network == second.network == first.network
    assert (card.text.encoder, card.text.sha256) == (
        first.text_encoder,
        open_text_encoder("shapes-text").weights_hash(),
    )


def test_the_text_encoder_that_ships_was_trained_by_its_recipe():
    card, asked = open_text_encoder("shapes-text").card, read_recipe(RECIPES / "shapes-text.yaml")
    assert without_saves(parse_recipe(dict(card.training["recipe"]), "card")) == without_saves(asked)
    assert card.network == TextObjective(asked).config
