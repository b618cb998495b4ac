"""Text encoders: ours for the language of `shapes`, and those of transformers (CLIP, T5, BERT and their kin)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from difflab.errors import DifflabError, suggest
from difflab.hashing import hash_weights
from difflab.hub import complete, from_hub, is_hub_id, need, reading
from difflab.nets.caption import Caption, pack
from difflab.nets.text import SmallText
from difflab.zoo.card import TextConfig
from difflab.zoo.checkpoint import read_part
from difflab.zoo.families import Positive
from difflab.zoo.registry import find, known
from difflab.zoo.weights import fill

KIND = "text"
_WHOLE = "a complete folder of transformers with its tokenizer and safetensors"
_LONGEST = 120  # tokens that encoders without a limit of their own are given, as PixArt-alpha gives T5
_AT_ONCE = 256  # captions encoded at a time
_POOLED = ("bert", "roberta", "xlm-roberta")  # end in a pooling layer


class TextEncoder(Protocol):
    """Captions as arrays (1 + L, W), see `nets.caption`."""

    @property
    def width(self) -> int:
        """W, of its vectors."""
        ...

    @property
    def length(self) -> int:
        """L, the tokens it takes at most; longer captions are cut with a warning."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B, 1 + L, W) float32 on its device; of empty texts, which stand for no caption, nothing but NaN.

        Raises DifflabError for what it cannot read.
        """
        ...

    def weights_hash(self) -> str: ...


class SmallTextConfig(BaseModel):
    """Arguments of `nets.text.SmallText`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Annotated[tuple[str, ...], MinLen(1)]
    width: Positive = 64
    depth: Positive = 2
    heads: Positive = 4
    length: Annotated[int, Gt(1)] = 24
    targets: dict[str, Positive] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> SmallTextConfig:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, but {self.heads} heads need a multiple of {self.heads}")
        return self


class SmallTextCard(BaseModel):
    """Everything about an encoder of ours that is not in its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = KIND
    name: str
    network: SmallTextConfig
    training: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class SmallTextEncoder:
    """One of ours, in evaluation mode."""

    network: SmallText
    card: SmallTextCard

    @property
    def width(self) -> int:
        return self.network.width

    @property
    def length(self) -> int:
        return self.network.length

    def encode(self, texts: Sequence[str]) -> Tensor:
        return _encoded(self, texts, self._encode)

    def _encode(self, texts: Sequence[str]) -> Caption:
        numbers, unknown = self.network.numbered(texts)
        if unknown:
            raise DifflabError(
                f"{self.card.name}: does not know the word {unknown[0]!r}; its words are "
                f"{', '.join(self.network.numbers)}."
            )
        longest = 1 + max(len(self.network.words_of(text)) for text in texts)
        _warn_of_cut(self.card.name, longest, self.length)
        numbers = numbers.to(self.network.embedding.weight.device)
        said = self.network(numbers)
        return Caption(said.mean, said.tokens, numbers != SmallText.PAD)

    def weights_hash(self) -> str:
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return hash_weights(self.network.state_dict())


@dataclass(frozen=True)
class TransformersEncoder:
    """A text encoder of transformers, in evaluation mode: its last layer, and of the whole caption the vector that the
    model makes itself (of CLIP that of its last token) or else the mean over tokens."""

    name: str
    network: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        return self.network.config.hidden_size

    @property
    def length(self) -> int:
        positions = getattr(self.network.config, "max_position_embeddings", None)
        return min(_LONGEST, positions or _LONGEST)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return _encoded(self, texts, self._encode)

    def _encode(self, texts: Sequence[str]) -> Caption:
        longest = max(map(len, self.tokenizer(list(texts), padding=False, verbose=False)["input_ids"]))
        _warn_of_cut(self.name, longest, self.length)
        made = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.network.device)
        present = made["attention_mask"].bool()
        said = self.network(input_ids=made["input_ids"], attention_mask=made["attention_mask"])
        pooled = getattr(said, "pooler_output", None) if self.network.config.model_type.startswith("clip") else None
        vector = pooled if pooled is not None else _mean_of(said.last_hidden_state, present, self.network.config)
        return Caption(vector, said.last_hidden_state, present)

    def weights_hash(self) -> str:
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return hash_weights(self.network.state_dict())


def _encoded(encoder: TextEncoder, texts: Sequence[str], encode: Any) -> Tensor:
    """What `encode` gives for the texts that say something, some at a time, and NaN for the others."""
    said = [row for row, text in enumerate(texts) if text.strip()]
    device = next(encoder.network.parameters()).device  # type: ignore[attr-defined]
    packed = torch.full((len(texts), 1 + encoder.length, encoder.width), torch.nan, device=device)
    with torch.no_grad():
        for begin in range(0, len(said), _AT_ONCE):
            rows = said[begin : begin + _AT_ONCE]
            packed[rows] = pack(encode([texts[row] for row in rows]))
    return packed


def _warn_of_cut(name: str, longest: int, length: int) -> None:
    if longest > length:
        warnings.warn(
            f"{name}: a caption has {longest} tokens, but only the first {length} are read.", UserWarning, stacklevel=5
        )


def _mean_of(hidden: Tensor, present: Tensor, config: Any) -> Tensor:
    """The mean over the tokens; of BERT's kin, whose first token is no word, as `mean_pooled` has it."""
    if config.model_type in ("t5", "umt5", "mt5"):
        weights = present[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    return mean_pooled(hidden, present)


def mean_pooled(hidden: Tensor, present: Tensor) -> Tensor:
    """The mean of what a text encoder says of each word, its first token ([CLS]) left out.

    Args:
        hidden: (B, L, D), the encoder's last layer.
        present: (B, L) bool, false on padding.

    Returns (B, D), as video-diffusion-pytorch pools BERT.
    """
    weights = present.clone()
    weights[:, 0] = False
    counted = weights.unsqueeze(-1).to(hidden.dtype)
    return (hidden * counted).sum(1) / (counted.sum(1) + 1e-8)


def open_text_encoder(source: str, device: str | torch.device = "cpu") -> TextEncoder:
    """A text encoder by name, path or hub id.

    Args:
        source: the name of one that ships or was trained here, such as `shapes-text`; a .safetensors of ours; a folder
            of transformers (config.json, weights, tokenizer), or a pipeline's that holds `text_encoder` and
            `tokenizer`; else a model of the Hugging Face hub, such as `openai/clip-vit-large-patch14`, from its cache
            on this machine or by download.
        device: where it is to run.

    Raises DifflabError for what is not there, damaged, or something else.
    """
    entry = find(source)
    path = entry.require() if entry and entry.kind == "text" else Path(source).expanduser()
    if path.is_file():
        return _read_ours(path, device)
    if path.is_dir():
        return _from_folder(path, device)
    if is_hub_id(source):
        return from_hub(source, "text encoder", partial(_from_pretrained, device=device))
    raise DifflabError(
        f"{source}: no such text encoder; give a folder of transformers, a hub id such as "
        f"openai/clip-vit-large-patch14, or one of the names here.{suggest(source, known('text'))}"
    )


def text_config(source: str, encoder: TextEncoder) -> TextConfig:
    """What a card says of the encoder of its captions, which `source` names."""
    return TextConfig(encoder=source, sha256=encoder.weights_hash())


def _read_ours(path: Path, device: str | torch.device) -> SmallTextEncoder:
    card, state = read_part(path, SmallTextCard, KIND, "a text encoder")
    return SmallTextEncoder(fill(lambda: SmallText(**card.network.model_dump()), state, device, str(path)), card)


def _from_folder(path: Path, device: str | torch.device) -> TransformersEncoder:
    if (path / "text_encoder" / "config.json").is_file():
        return _from_pretrained(str(path), device, "text_encoder", "tokenizer", local_files_only=True)
    if not (path / "config.json").is_file():
        raise DifflabError(
            f"{path}: has no config.json, which says how the text encoder is built; give a folder of transformers."
        )
    return _from_pretrained(str(path), device, local_files_only=True)


def _from_pretrained(
    source: str, device: str | torch.device, part: str = "", words: str = "", **where: Any
) -> TransformersEncoder:
    need("transformers", source, "a text encoder")
    from transformers import AutoConfig, AutoTokenizer

    with reading("transformers", source, "text encoder", _WHOLE):
        config = AutoConfig.from_pretrained(source, subfolder=part, **where)
        kind = _text_class(config)
        if kind is None:
            raise DifflabError(
                f"{source}: is of the kind {config.model_type}, but a text encoder is needed: CLIP, T5, or one of "
                "BERT's kin."
            )
        # Nothing here reads BERT's pooling layer, and many files do not hold it.
        options = where | ({"add_pooling_layer": False} if config.model_type in _POOLED else {})
        network = complete(kind, source, subfolder=part, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder=words, **where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return TransformersEncoder(source, network.float().eval().requires_grad_(False).to(device), tokenizer)


def _text_class(config: Any) -> Any:
    """The class of transformers that holds the text encoder of a model of this configuration; None for no such."""
    import transformers

    named = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel",
             "umt5": "UMT5EncoderModel", "mt5": "MT5EncoderModel"}  # fmt: skip
    if config.model_type in named:
        return getattr(transformers, named[config.model_type])
    return transformers.AutoModel if config.model_type in (*_POOLED, "distilbert") else None
