"""A small text encoder for a small language: a transformer over whole words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Reading(NamedTuple):
    """tokens (B, L, width); mean (B, width) of those that are not `pad`; logits (B, answers) of every target."""

    tokens: Tensor
    mean: Tensor
    answers: dict[str, Tensor]


class SmallText(nn.Module):
    """Word numbers (B, L) int64 -> tokens and their mean.

    It is trained to read: linear heads tell from the mean what a sentence asks for.

    Args:
        words: the language, without the two marks `pad` (number 0) and `begin` (number 1) that come before it.
        width: of the tokens, a multiple of `heads`.
        depth, heads: of the transformer, whose MLPs are four times as wide.
        length: tokens at most, with the one that begins every sentence.
        targets: what is read -> number of answers.
    """

    PAD, BEGIN = 0, 1

    def __init__(
        self, *, words: Sequence[str], width: int, depth: int, heads: int, length: int, targets: dict[str, int]
    ) -> None:
        super().__init__()
        self.numbers = {word: number for number, word in enumerate(words, start=2)}
        self.width, self.length = width, length
        self.embedding = nn.Embedding(2 + len(words), width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(width)
        self.transformer = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
        self.heads = nn.ModuleDict({name: nn.Linear(width, answers) for name, answers in targets.items()})

    @staticmethod
    def words_of(text: str) -> list[str]:
        """The words of a sentence, without its marks."""
        return text.lower().replace(".", " ").replace(",", " ").split()

    def numbered(self, texts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Word numbers (B, length) of sentences, cut where they are longer, and the words that it does not know."""
        table = torch.full((len(texts), self.length), self.PAD, dtype=torch.int64)
        unknown = []
        for row, text in zip(table, texts, strict=True):
            words = self.words_of(text)
            unknown += [word for word in words if word not in self.numbers]
            numbers = [self.BEGIN, *(self.numbers[word] for word in words if word in self.numbers)][: self.length]
            row[: len(numbers)] = torch.tensor(numbers)
        return table, unknown

    def forward(self, numbers: Tensor) -> Reading:
        """Read sentences (B, L), L up to `length`."""
        absent = numbers == self.PAD
        tokens = self.transformer(
            self.embedding(numbers) + self.position[: numbers.shape[1]], src_key_padding_mask=absent
        )
        there = (~absent)[..., None].to(tokens.dtype)
        mean = (tokens * there).sum(1) / there.sum(1)
        return Reading(tokens, mean, {name: head(mean) for name, head in self.heads.items()})
