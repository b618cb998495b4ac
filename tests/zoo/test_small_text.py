"""Text encoders of ours: what ships, and files that hold one."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from difflab.data.captions import clip_captions, scene_captions
from difflab.errors import DifflabError
from difflab.nets.text import SmallText
from difflab.train.answers import claimed
from difflab.zoo.checkpoint import KEY, write_with_card
from difflab.zoo.registry import find, known, known_names
from difflab.zoo.text import SmallTextCard, SmallTextConfig, SmallTextEncoder, open_text_encoder

UNSEEN = 54_321  # seed of sentences that it was not trained on


@pytest.fixture(scope="module")
def encoder() -> SmallTextEncoder:
    return open_text_encoder("shapes-text")


@pytest.fixture
def card() -> SmallTextCard:
    return SmallTextCard(name="mine", network=SmallTextConfig(words=("a", "dog"), width=8, depth=1, heads=2, length=4))


def state_of(card: SmallTextCard) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SmallText(**card.network.model_dump()).state_dict()


def test_the_shipped_encoder_reads_sentences_it_has_not_seen(encoder):
    texts = [*scene_captions(UNSEEN, np.arange(1000)), *clip_captions(UNSEEN, np.arange(1000))]
    packed = encoder.encode(texts)
    assert packed.shape == (2000, 1 + encoder.length, encoder.width)
    expected, right = [claimed(text) for text in texts], np.ones(2000, bool)
    for name, head in encoder.network.heads.items():
        right &= head(packed[:, 0]).argmax(1).numpy() == np.array([answers[name] for answers in expected])
    assert right.mean() >= 0.999


def test_a_caption_does_not_depend_on_those_beside_it(encoder, monkeypatch):
    texts = [*scene_captions(1, np.arange(6)), "", *clip_captions(1, np.arange(3))]
    whole = encoder.encode(texts)
    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5, equal_nan=True)
    monkeypatch.setattr("difflab.zoo.text._AT_ONCE", 4)
    torch.testing.assert_close(encoder.encode(texts), whole, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_tokens_are_there_for_each_word_and_the_beginning(encoder):
    packed = encoder.encode(["a red circle", "A Red, circle."])
    assert (~packed.isnan().any(2)).sum(1).tolist() == [1 + 4, 1 + 4]
    torch.testing.assert_close(packed[0], packed[1], equal_nan=True)
    torch.testing.assert_close(packed[0, 0], packed[0, 1:5].mean(0), rtol=1e-4, atol=1e-5)


def test_an_empty_text_is_no_caption(encoder):
    packed = encoder.encode(["", "a circle", "  \n"])
    assert packed[::2].isnan().all()
    assert not packed[1].isnan().all(1)[:4].any()
    assert encoder.encode([""]).isnan().all()


def test_what_is_too_long_is_cut_with_a_warning(encoder):
    words = ("a large red circle and " * 8).split()
    with pytest.warns(UserWarning, match=rf"shapes-text: a caption has 41 tokens, but only the first {encoder.length}"):
        cut = encoder.encode([" ".join(words)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = encoder.encode([" , ".join(words[: encoder.length - 1])])  # marks are no tokens
    torch.testing.assert_close(cut, whole)


def test_a_word_it_does_not_know_is_refused_in_a_sentence(encoder):
    with pytest.raises(
        DifflabError, match=r"^shapes-text: does not know the word 'dog'; its words are .*circle"
    ) as told:
        encoder.encode(["a circle", "a dog and a cat"])
    assert "\n" not in str(told.value)


def test_it_is_known_by_name_but_is_no_model():
    assert "shapes-text" in known("text")
    assert "shapes-text" not in known_names()
    with pytest.raises(DifflabError, match=r"no such text encoder.*Did you mean 'shapes-text'\?"):
        open_text_encoder("shapes-txet")


def test_one_of_ours_is_read_from_its_file(card, tmp_path):
    path = tmp_path / "mine.safetensors"
    write_with_card(path, card, state_of(card))
    found = open_text_encoder(str(path))
    assert (found.card, found.width, found.length) == (card, 8, 4)
    network = SmallText(**card.network.model_dump()).eval()
    network.load_state_dict(state_of(card))
    numbers, _ = network.numbered(["a dog"])
    torch.testing.assert_close(found.encode(["a dog"])[0, 1:4], network(numbers).tokens[0, :3])
    other = {name: value + 1 for name, value in state_of(card).items()}
    write_with_card(tmp_path / "other.safetensors", card, other)
    assert open_text_encoder(str(tmp_path / "other.safetensors")).weights_hash() != found.weights_hash()
    assert not next(found.network.parameters()).requires_grad


def test_what_is_no_text_encoder_of_ours_is_refused_in_a_sentence(card, tmp_path):
    whole, state = tmp_path / "whole.safetensors", state_of(card)
    write_with_card(whole, card, state)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "words.txt").write_text("a dog")
    (tmp_path / "empty").mkdir()
    fields = card.model_dump()
    damaged = {
        "nojson": "{",
        "list": "[]",
        "heads": json.dumps({**fields, "network": {**fields["network"], "heads": 3}}),
        "wider": json.dumps({**fields, "network": {**fields["network"], "width": 16}}),
        "field": json.dumps({**fields, "colour": "red"}),
    }
    for name, text in damaged.items():
        save_file(state, tmp_path / f"{name}.safetensors", {KEY: text})
    save_file(state, tmp_path / "bare.safetensors")
    save_file(state | {"position": state["position"] * float("nan")}, tmp_path / "nan.safetensors",
              {KEY: card.model_dump_json()})  # fmt: skip
    for name, words in {
        "cut.safetensors": "truncated or damaged",
        "words.txt": "which is a .safetensors file with its card inside",
        "empty": "has no config.json",
        "nojson.safetensors": "its card is not JSON",
        "list.safetensors": "not a text encoder of difflab",
        "heads.safetensors": "width is 8, but 3 heads need a multiple of 3",
        "wider.safetensors": "has shape",
        "field.safetensors": "its card.*colour",
        "bare.safetensors": "not a text encoder of difflab",
        "nan.safetensors": "position holds NaN",
    }.items():
        with pytest.raises(DifflabError, match=words) as told:
            open_text_encoder(str(tmp_path / name))
        assert str(tmp_path / name) in str(told.value)


@pytest.mark.parametrize("name", ["shapes-vae", "shapes-t2i", "shapes-image"])
def test_other_networks_that_ship_are_no_text_encoders(name):
    entry = find(name)
    assert entry is not None
    with pytest.raises(DifflabError):
        open_text_encoder(str(entry.require()))
    with pytest.raises(DifflabError, match="no such text encoder"):
        open_text_encoder(name)
