from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from tests import tiny_text
from tests.tiny_coco import CAPTIONS as SAID
from tests.tiny_coco import write_coco

import difflab
from difflab.data.latents import CAPTIONS, Latents
from difflab.data.sources import open_data
from difflab.errors import DifflabError
from difflab.train.config import DiffusionRecipe
from difflab.train.feed import Feed
from difflab.train.latents import store_latents
from difflab.train.run import train
from difflab.zoo.text import TransformersEncoder

pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_text.clip(tmp_path_factory.mktemp("models") / "clip", length=48))


def recipe(source, encoder: str, network: dict | None = None, **changes) -> DiffusionRecipe:
    small = {"input_size": 16, "in_channels": 3, "patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
    fields = {
        "name": "told", "family": "dit", "text_encoder": encoder, "variance": "learned",
        "network": {**small, "cond_dim": 24, **(network or {})},
        "data": {"source": str(source), "size": 16}, "steps": 3, "batch": 4, "sample_every": 3, "ema_rate": 0.1,
    }  # fmt: skip
    return DiffusionRecipe.model_validate({**fields, **changes})


@pytest.mark.parametrize("caption", ["cross-attention", "in-context"])
def test_a_model_of_captions_is_trained_and_asked(tmp_path, coco, clip, caption, monkeypatch):
    asked: Counter[str] = Counter()
    plain = TransformersEncoder.encode
    monkeypatch.setattr(TransformersEncoder, "encode", lambda self, texts: (asked.update(texts), plain(self, texts))[1])
    read, losses = [], []
    path = train(
        recipe(coco, clip, {"caption": caption}), tmp_path / "run",
        watch=lambda progress: losses.append(float(progress.loss)), reads=lambda done, of: read.append((done, of)),
    )  # fmt: skip
    assert np.isfinite(losses).all()
    assert read == [(6, 6)]  # "a cat" is said twice
    assert asked == Counter(dict.fromkeys(open_captions(coco), 1))
    assert (tmp_path / "run" / "samples" / "0000003.png").is_file()
    model = difflab.load(str(path))
    assert (model.card.text.encoder, len(model.card.text.sha256)) == (clip, 64)
    x = difflab.sample(model, n=2, prompt="a red cat", guidance=2.0, steps=3)
    assert (x.shape, x.dtype) == ((2, 16, 16, 3), np.uint8)


def open_captions(coco) -> list[str]:
    dataset = open_data(coco)
    return list(dict.fromkeys(text for i in range(3) for text in dataset.captions_of(i)))


def test_a_second_run_asks_nothing_and_learns_alike(tmp_path, coco, clip, monkeypatch):
    first, again = [], []
    train(recipe(coco, clip), tmp_path / "one", watch=lambda progress: first.append(float(progress.loss)))

    def refuse(self, texts):
        raise AssertionError(f"asked for {texts}")

    monkeypatch.setattr(TransformersEncoder, "encode", refuse)
    train(recipe(coco, clip), tmp_path / "two", watch=lambda progress: again.append(float(progress.loss)))
    assert again == first


def test_a_width_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, coco, clip):
    with pytest.raises(DifflabError, match=r"makes vectors of 24 numbers, but network.cond_dim is 32; set it to 24"):
        train(recipe(coco, clip, {"cond_dim": 32}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "home").exists()


def test_data_without_captions_are_refused(tmp_path, coco, clip):
    with pytest.raises(DifflabError, match=r"have no captions"):
        train(recipe("", clip, data={"source": str(coco / "train2017"), "size": 16, "split": None}), tmp_path / "run")


def test_every_caption_of_a_picture_comes_up(coco):
    feed = Feed(open_data(coco, size=16), 3, seed=0, captions=True)
    seen = {text for step in range(20) for text in feed.at(step).captions}
    assert seen == set(open_captions(coco))
    assert feed.at(5).captions == Feed(open_data(coco, size=16), 3, seed=0, captions=True).at(5).captions


def test_stored_latents_keep_the_captions_and_train(tmp_path, coco, clip):
    out = tmp_path / "latents"
    assert store_latents(str(coco), "shapes-vae", out, size=32) == 3
    assert json.loads((out / CAPTIONS).read_text())[0] == SAID[3]
    found, dataset = Latents(out), open_data(coco)
    assert [found.captions_of(i) for i in range(3)] == [dataset.captions_of(i) for i in range(3)]
    told = recipe(
        out, clip, {"input_size": 8, "in_channels": 4, "patch_size": 2}, autoencoder="shapes-vae",
        data={"source": str(out), "split": None},
    )  # fmt: skip
    model = difflab.load(str(train(told, tmp_path / "run")))
    assert difflab.sample(model, n=1, prompt="a dog", steps=2).shape == (1, 32, 32, 3)


def test_latents_without_captions_have_none_and_damaged_ones_are_refused(tmp_path, coco, clip):
    out = tmp_path / "latents"
    store_latents(str(coco / "train2017"), "shapes-vae", out, size=32)
    assert not (out / CAPTIONS).exists()
    assert Latents(out).captions_of(0) == ()
    network = {"input_size": 8, "in_channels": 4, "patch_size": 2}
    told = recipe(out, clip, network, autoencoder="shapes-vae", data={"source": str(out), "split": None})
    with pytest.raises(DifflabError, match="have no captions"):
        train(told, tmp_path / "run")
    for text in ("[", "[[]]", '[["a"], ["b"], [3]]', "3"):
        (out / CAPTIONS).write_text(text)
        with pytest.raises(DifflabError, match="these captions of latents are damaged"):
            Latents(out).captions_of(0)


def test_real_captions(tmp_path, clip, shared_data):
    if not (shared_data / "coco").is_dir():
        pytest.skip("the real MS-COCO samples are not here")
    data = {"source": str(shared_data / "coco"), "size": 16, "split": "val2017"}
    longer = str(tiny_text.clip(tmp_path / "longer", length=120))
    train(recipe(data["source"], longer, data=data), tmp_path / "run")
    (folder,) = (tmp_path / "home" / "captions").iterdir()
    assert len(list(folder.iterdir())) == 1
