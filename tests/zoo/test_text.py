from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny_text

from difflab.errors import DifflabError
from difflab.zoo.text import mean_pooled, open_text_encoder

hf = pytest.importorskip("transformers")

LONG = "a photo of a red dog and two cats and more and more of them and no end"
ENCODERS = {  # how it is made, the tokens of "a cat" with their marks, the most it takes
    "clip-text": (tiny_text.clip_text, 6, 16),
    "clip": (tiny_text.clip, 6, 16),
    "pipeline": (tiny_text.pipeline, 6, 16),
    "t5": (tiny_text.t5, 7, 120),
    "t5-whole": (lambda folder: tiny_text.t5(folder, hf.T5ForConditionalGeneration), 7, 120),
    "bert": (tiny_text.bert, 4, 16),
    "bert-words": (lambda folder: tiny_text.bert(folder, hf.BertForMaskedLM), 4, 16),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_kind_is_opened_and_reads(tmp_path, kind):
    make, tokens, length = ENCODERS[kind]
    encoder = open_text_encoder(str(make(tmp_path / kind)))
    assert (encoder.width, encoder.length) == (24, length)
    made = encoder.encode(["a cat", "", "a red dog", " "])
    assert made.shape == (4, 1 + length, 24)
    assert made.dtype == torch.float32
    there = ~made.isnan().any(2)
    assert there[0].tolist() == [True] * (1 + tokens) + [False] * (length - tokens)
    assert not there[[1, 3]].any()
    assert made[[1, 3]].isnan().all()
    assert (made[0, :3] - made[2, :3]).abs().amax(1)[0] > 1e-3  # the vectors say different things
    alone = encoder.encode(["a red dog"])
    torch.testing.assert_close(alone[0], made[2], equal_nan=True, rtol=1e-5, atol=1e-5)
    again = open_text_encoder(str(tmp_path / kind))  # nothing in it is drawn at random
    assert again.weights_hash() == encoder.weights_hash()


def test_clip_says_what_its_own_forward_says(tmp_path):
    folder = tiny_text.clip(tmp_path / "clip")
    network, tokenizer = hf.CLIPModel.from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
    made = open_text_encoder(str(folder)).encode(["a red dog"])
    with torch.no_grad():
        said = network.text_model(**tokenizer(["a red dog"], return_tensors="pt"))
    count = said.last_hidden_state.shape[1]
    torch.testing.assert_close(made[0, 0], said.pooler_output[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made[0, 1 : 1 + count], said.last_hidden_state[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("make", "kind"), [(tiny_text.t5, "T5EncoderModel"), (tiny_text.bert, "BertModel")])
def test_others_say_the_mean_of_their_tokens(tmp_path, make, kind):
    folder = make(tmp_path / "it")
    network, tokenizer = getattr(hf, kind).from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
    made = open_text_encoder(str(folder)).encode(["a red dog", "a photo of two red cat"])
    with torch.no_grad():
        hidden = network(**tokenizer(["a red dog"], return_tensors="pt")).last_hidden_state
    mean = hidden.mean(1) if kind.startswith("T5") else mean_pooled(hidden, torch.ones(hidden.shape[:2], dtype=bool))
    torch.testing.assert_close(made[0, 0], mean[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made[0, 1 : 1 + hidden.shape[1]], hidden[0], rtol=1e-5, atol=1e-5)


def test_what_is_too_long_is_cut_with_a_warning(tmp_path):
    encoder = open_text_encoder(str(tiny_text.clip_text(tmp_path / "clip")))
    with pytest.warns(UserWarning, match=r"clip: a caption has \d+ tokens, but only the first 16 are read") as caught:
        made = encoder.encode([LONG, "a cat"])
    assert caught[0].filename == __file__
    assert not made[0].isnan().any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(encoder.encode(["a cat"])[0], made[1], equal_nan=True, rtol=1e-5, atol=1e-5)


def test_a_model_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DifflabError, match="is of the kind gpt2, but a text encoder is needed"):
        open_text_encoder(str(tiny_text.gpt2(tmp_path / "gpt2")))
    with pytest.raises(DifflabError, match=r"has no config\.json"):
        open_text_encoder(str(tmp_path))


def test_a_missing_weight_is_refused_and_not_drawn(tmp_path):
    folder = tiny_text.clip_text(tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if "fc1.weight" in name)
    state.pop(gone)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DifflabError, match=r"cannot be read \(the weight .*fc1.weight is missing\)"):
        open_text_encoder(str(folder))


@pytest.mark.parametrize("names", [("model.safetensors",), ("tokenizer.json", "tokenizer_config.json")])
def test_an_incomplete_folder_is_refused(tmp_path, names):
    folder = tiny_text.clip_text(tmp_path / "clip")
    for name in names:
        (folder / name).unlink()
    with pytest.raises(DifflabError, match=r"cannot be read .* give a complete folder"):
        open_text_encoder(str(folder))


def test_half_precision_weights_are_read_in_full(tmp_path):
    folder = tiny_text.t5(tmp_path / "t5")
    shutil.copytree(folder, tmp_path / "half")
    hf.T5EncoderModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    encoder = open_text_encoder(str(tmp_path / "half"))
    assert {value.dtype for value in encoder.network.parameters()} == {torch.float32}
    assert encoder.encode(["a cat"]).dtype == torch.float32


def test_a_hub_model_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DifflabError, match=r"nobody/nothing: this text encoder is not in .* cannot be fetched now \("):
        open_text_encoder("nobody/nothing")
