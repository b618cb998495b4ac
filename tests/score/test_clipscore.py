from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny_text

from difflab.errors import DifflabError
from difflab.score.clipscore import ClipScorer, Preprocessing

hf = pytest.importorskip("transformers")

TEXTS = ["a cat", "two red dog", "a photo of a dog", "red", "of a cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_text.clip(tmp_path_factory.mktemp("models") / "clip", length=48)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, 40, 52, 3), dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)


def test_cosines_are_those_of_clips_own_forward(folder, images):
    network, tokenizer = hf.CLIPModel.from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
    squares = []
    for image in images:  # 40x52 -> 32x41 -> 32x32
        small = Image.fromarray(image).resize((41, 32), Image.Resampling.BICUBIC)
        squares.append(np.asarray(small.crop((4, 0, 36, 32))))
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.tensor((np.stack(squares) / 255 - mean) / std, dtype=torch.float32).movedim(-1, 1)
    words = tokenizer([f"A photo depicts {text}" for text in TEXTS], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = network(pixel_values=pixels, **words).logits_per_image / network.logit_scale.exp()
    found = ClipScorer(str(folder)).cosines(images, TEXTS)
    assert (found.dtype, found.shape) == (np.float64, (5,))
    np.testing.assert_allclose(found, logits.diagonal().numpy(), atol=1e-5)
    assert found.std() > 1e-3


def test_scores_are_the_papers(folder, images, monkeypatch):
    scorer = ClipScorer(str(folder))
    cosines = np.random.default_rng(0).normal(0.1, 0.2, 600)
    monkeypatch.setattr(ClipScorer, "cosines", lambda self, images, texts: cosines)
    score = scorer.scores(images, TEXTS)
    pairs = 2.5 * np.maximum(cosines, 0)
    half = 1.96 * pairs.std(ddof=1) / np.sqrt(600)  # what a bootstrap of so many comes to
    assert (score.metric, score.n) == ("CLIPScore", 600)
    assert score.value == pytest.approx(pairs.mean())
    assert score.low == pytest.approx(pairs.mean() - half, abs=0.15 * half)
    assert score.high == pytest.approx(pairs.mean() + half, abs=0.15 * half)
    told = score.passport["features"]
    assert (told["name"], told["w"], told["prefix"], len(told["sha256"])) == (str(folder), 2.5, "A photo depicts ", 64)
    assert told["preprocessing"]["crop"] == 32
    assert json.loads(json.dumps(score.passport)) is not None


def test_the_prefix_counts_and_is_told(folder, images):
    plain, usual = ClipScorer(str(folder), prefix=""), ClipScorer(str(folder))
    assert plain.passport()["prefix"] == ""
    assert not np.allclose(plain.cosines(images, TEXTS), usual.cosines(images, TEXTS), atol=1e-3)
    np.testing.assert_allclose(
        plain.cosines(images, [f"A photo depicts {text}" for text in TEXTS]), usual.cosines(images, TEXTS), atol=1e-6
    )


def test_a_pair_does_not_depend_on_the_others(folder, images, monkeypatch):
    scorer = ClipScorer(str(folder))
    together = scorer.cosines(images, TEXTS)
    monkeypatch.setattr("difflab.score.clipscore._AT_ONCE", 2)
    np.testing.assert_allclose(scorer.cosines(images, TEXTS), together, atol=1e-6)
    np.testing.assert_allclose(scorer.cosines(images[3:4], TEXTS[3:4]), together[3:4], atol=1e-6)


def test_pictures_are_prepared_as_transformers_does(rng):
    processor = hf.models.clip.image_processing_pil_clip.CLIPImageProcessorPil()
    for shape in ((300, 431), (431, 300), (17, 12), (224, 224)):
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        due = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(Preprocessing()(image[None]).numpy(), due, atol=1e-5)


@pytest.mark.parametrize("form", ["new", "old"])
def test_the_models_own_numbers_are_used(tmp_path, images, form):
    folder = tiny_text.clip(tmp_path / "clip", length=48)
    told = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    sizes = {"new": ({"shortest_edge": 36}, {"height": 32, "width": 32}), "old": (36, 32)}[form]
    told |= {"size": sizes[0], "crop_size": sizes[1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert ClipScorer(str(folder)).preprocessing == Preprocessing(36, 32, (0.5, 0.5, 0.5), (0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"size": {"height": 32, "width": 32}}', "is damaged"),
        (
            '{"size": 224, "crop_size": 224}',
            "to 224 pixels from 224 by filter 3, but this model takes 32",
        ),
        ('{"resample": 2}', "by filter 2"),
    ],
)
def test_numbers_that_are_not_the_models_are_refused(tmp_path, text, match):
    folder = tiny_text.clip(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(DifflabError, match=match):
        ClipScorer(str(folder))


def test_long_captions_are_cut_with_a_warning(folder, images):
    with pytest.warns(UserWarning, match=r"a caption has \d+ tokens with its prefix, but only the first 48 are read"):
        ClipScorer(str(folder)).cosines(images[:1], ["a photo of a red dog and two cats and more and more of them"])


def test_mistakes_get_a_sentence(folder, images, tmp_path, monkeypatch):
    scorer = ClipScorer(str(folder))
    with pytest.raises(DifflabError, match=r"uint8 pictures of shape \(N, H, W, 3\), but got float64"):
        scorer.cosines(images / 255, TEXTS)
    with pytest.raises(DifflabError, match="there are 5 pictures and 4 captions"):
        scorer.cosines(images, TEXTS[:4])
    with pytest.raises(DifflabError, match="at least 2 pairs, but there are 1"):
        scorer.scores(images[:1], TEXTS[:1])
    with pytest.raises(DifflabError, match="is of the kind clip_text_model, but a CLIP model of pictures and text"):
        ClipScorer(str(tiny_text.clip_text(tmp_path / "text")))
    with pytest.raises(DifflabError, match="cannot be read"):
        ClipScorer(str(tmp_path))
    with pytest.raises(DifflabError, match="no such folder; give one"):
        ClipScorer("/no/such/folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DifflabError, match=r"nobody/nothing: this CLIP model is not in .* cache on this machine"):
        ClipScorer("nobody/nothing")
    monkeypatch.setattr("difflab.hub.find_spec", lambda name: None)
    with pytest.raises(DifflabError, match=r"needs transformers, which is not installed; install it with"):
        ClipScorer(str(folder))
