from __future__ import annotations

import threading
from collections import Counter

import pytest
import torch
from tests import tiny_text

from difflab.errors import DifflabError
from difflab.zoo import captions as module
from difflab.zoo.captions import CaptionCache
from difflab.zoo.text import TransformersEncoder, open_text_encoder

pytest.importorskip("transformers")

TEXTS = ["a cat", "a photo of two red dog", "", "a red cat", "two dog", "a cat", "of a", "red"]


@pytest.fixture
def folder(tmp_path):
    return str(tiny_text.t5(tmp_path / "t5"))


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(module, "_IN_A_FILE", 3)
    monkeypatch.setattr(module, "_AT_ONCE", 2)


@pytest.fixture
def asked(monkeypatch) -> Counter[str]:
    """How often an encoder was asked for each caption."""
    counts: Counter[str] = Counter()
    plain = TransformersEncoder.encode

    def encode(self, texts):
        counts.update(texts)
        return plain(self, texts)

    monkeypatch.setattr(TransformersEncoder, "encode", encode)
    return counts


def filled(folder: str) -> CaptionCache:
    cache = CaptionCache(open_text_encoder(folder))
    cache.add(TEXTS)
    return cache


@pytest.mark.parametrize("make", [tiny_text.t5, tiny_text.clip, tiny_text.bert])
def test_it_says_what_the_encoder_says_up_to_rounding(tmp_path, make):
    folder = make(tmp_path / "it", length=40) if make is tiny_text.clip else make(tmp_path / "it")
    encoder = open_text_encoder(str(folder))
    expected = encoder.encode(TEXTS)
    cache = CaptionCache(encoder)
    for _ in range(2):  # from the encoder, then from the disk
        made = cache.encode(TEXTS)
        assert (made.shape, made.dtype) == (expected.shape, torch.float32)
        torch.testing.assert_close(made, expected, equal_nan=True, rtol=2e-3, atol=1e-4)
        cache.add(TEXTS)
    assert (cache.width, cache.length, cache.weights_hash()) == (24, encoder.length, encoder.weights_hash())


def test_each_caption_is_computed_once(folder, asked):
    cache = filled(folder)
    assert asked == Counter({text: 1 for text in TEXTS if text})
    first = cache.encode(TEXTS)
    again = CaptionCache(open_text_encoder(folder))  # another run
    again.add([*TEXTS, "a dog"])
    torch.testing.assert_close(again.encode(TEXTS), first, equal_nan=True, rtol=0, atol=0)
    assert asked == Counter({text: 1 for text in [*TEXTS, "a dog"] if text})
    assert again.encode([]).shape == (0, 121, 24)
    assert sorted(p.suffix for p in again.folder.iterdir()) == [".safetensors"] * 3  # 6 captions, and one


def test_only_what_is_present_is_kept(folder):
    kept = sum(p.stat().st_size for p in filled(folder).folder.iterdir())
    assert kept < 7 * 60 * 24 * 2


def test_it_tells_how_far_it_is(folder):
    seen = []
    CaptionCache(open_text_encoder(folder)).add(TEXTS, lambda done, of: seen.append((done, of)))
    assert seen == [(3, 6), (6, 6)]


def test_what_it_did_not_keep_is_asked_and_rounded_alike(folder, asked):
    cache = filled(folder)
    made = cache.encode(["two cat", "a cat"])
    assert asked["two cat"] == 1
    torch.testing.assert_close(made, made.half().float(), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "swapped"])
def test_a_damaged_file_is_made_again(folder, asked, damage):
    cache = filled(folder)
    expected, (one, other) = cache.encode(TEXTS), sorted(cache.folder.iterdir())
    content = one.read_bytes()
    worse = {"cut": content[:-10], "empty": b"", "other": b"x" * 500, "swapped": content.replace(b"ends", b"sdne")}
    one.write_bytes(worse[damage])
    again = CaptionCache(open_text_encoder(folder))
    again.add(TEXTS)
    torch.testing.assert_close(again.encode(TEXTS), expected, equal_nan=True, rtol=2e-3, atol=1e-4)
    assert sorted(asked.values()) == [1, 1, 1, 2, 2, 2]
    assert sorted(again.folder.iterdir()) == sorted((one, other))
    assert one.stat().st_size == len(content)


def test_files_that_go_while_it_runs_are_made_up_for(folder):
    cache = filled(folder)
    expected = cache.encode(TEXTS)
    fresh = CaptionCache(open_text_encoder(folder))
    for file in cache.folder.iterdir():
        file.unlink()
    torch.testing.assert_close(fresh.encode(TEXTS), expected, equal_nan=True, rtol=2e-3, atol=1e-4)


def test_half_a_file_under_another_name_does_not_count(folder):
    cache = filled(folder)
    (cache.folder / ".abc.safetensors.xyz.part").write_bytes(b"half")
    assert len(CaptionCache(open_text_encoder(folder))._files) == 2


def test_few_files_are_open_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(module, "_MAPS", 1)
    cache = filled(folder)
    made = cache.encode(TEXTS)
    assert len(cache._open) == 1
    torch.testing.assert_close(cache.encode(TEXTS), made, equal_nan=True, rtol=0, atol=0)


def test_two_at_once(folder):
    caches = [CaptionCache(open_text_encoder(folder)) for _ in range(2)]
    threads = [threading.Thread(target=cache.add, args=(TEXTS,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other = (cache.encode(TEXTS) for cache in caches)
    torch.testing.assert_close(one, other, equal_nan=True, rtol=2e-3, atol=1e-4)
    third = CaptionCache(open_text_encoder(folder))
    assert not third._absent([text for text in TEXTS if text])


def test_encoders_do_not_share(tmp_path, folder):
    caches = [CaptionCache(open_text_encoder(str(f))) for f in (folder, tiny_text.bert(tmp_path / "bert"))]
    assert caches[0].folder != caches[1].folder
    assert caches[0].folder.parent == tmp_path / "caches" / "difflab" / "captions"


def test_numbers_that_half_precision_cannot_hold_are_refused(folder):
    encoder = open_text_encoder(folder)
    with torch.no_grad():
        encoder.network.encoder.final_layer_norm.weight.mul_(1e7)
    with pytest.raises(DifflabError, match="past 65,504"):
        CaptionCache(encoder).add(["a cat"])
