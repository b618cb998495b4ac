"""Tiny models of transformers with random weights and tokenizers of letters or a few words, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH, LENGTH = 24, 16
_LETTERS = list(bytes_to_unicode().values())
_CLIP_WORDS = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "dog", "red", "two"]


def clip_text(folder: Path) -> Path:
    return _saved(folder, hf.CLIPTextModel(hf.CLIPTextConfig(**_clip_text_fields())), _clip_tokenizer())


def clip(folder: Path, length: int = LENGTH) -> Path:
    vision = {**_LAYERS, "image_size": 32, "patch_size": 8, "projection_dim": 20, "hidden_size": 32}
    fields = {"text_config": _clip_text_fields(length), "vision_config": vision, "projection_dim": 20}
    return _saved(folder, hf.CLIPModel(hf.CLIPConfig(**fields)), _clip_tokenizer())


def t5(folder: Path, kind: Any = hf.T5EncoderModel) -> Path:
    config = hf.T5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [*marks, *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    return _saved(folder, kind(config), hf.T5Tokenizer(vocab=words, extra_ids=0))


def bert(folder: Path, kind: Any = hf.BertModel) -> Path:
    config = hf.BertConfig(vocab_size=len(_WORDS), hidden_size=WIDTH, max_position_embeddings=LENGTH, **_LAYERS)
    tokenizer = hf.BertTokenizer(vocab={word: number for number, word in enumerate(_WORDS)})
    return _saved(folder, kind(config), tokenizer)


def pipeline(folder: Path) -> Path:
    """A text encoder as diffusers' pipelines hold it."""
    hf.CLIPTextModel(hf.CLIPTextConfig(**_clip_text_fields())).save_pretrained(folder / "text_encoder")
    _clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def gpt2(folder: Path) -> Path:
    hf.GPT2Model(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
    return folder


_LAYERS: dict[str, Any] = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _clip_text_fields(length: int = LENGTH) -> dict[str, Any]:
    begin, end = len(_CLIP_WORDS) - 2, len(_CLIP_WORDS) - 1
    return {
        **_LAYERS, "vocab_size": len(_CLIP_WORDS), "hidden_size": WIDTH, "max_position_embeddings": length,
        "bos_token_id": begin, "eos_token_id": end, "pad_token_id": end, "projection_dim": 20,
    }  # fmt: skip


def _clip_tokenizer() -> Any:
    return hf.CLIPTokenizer(vocab={word: number for number, word in enumerate(_CLIP_WORDS)}, merges=[])


def _saved(folder: Path, network: Any, tokenizer: Any) -> Path:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():  # the usual ones are so small that all captions read alike
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
