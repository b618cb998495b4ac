"""Our own format: one safetensors file whose metadata holds the card, and the same card as readable JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save
from torch import Tensor

from difflab.errors import DifflabError
from difflab.files import write_bytes, write_json
from difflab.validation import Validated, validated
from difflab.zoo.card import Card
from difflab.zoo.safe import is_safetensors, read_safetensors

KEY = "difflab"  # of the card in the metadata


def save_checkpoint(path: Path, card: Card, state: dict[str, Tensor]) -> None:
    """Write `path` (.safetensors) and the card beside it (.json), each whole or not at all.

    Equal cards and weights give equal bytes. Raises DifflabError if the name has another ending or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DifflabError(
            f"{path}: a difflab checkpoint ends in .safetensors; choose the name {path.stem}.safetensors."
        )
    beside = path.with_suffix(".json")
    if beside.exists() and not _is_card(beside):
        raise DifflabError(f"{beside}: the card would be written here, but another file has this name; rename one.")
    write_with_card(path, card, state)
    write_json(beside, card.model_dump(mode="json"))


def write_with_card(path: Path, card: BaseModel, state: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors with a card inside, whole or not at all."""
    write_bytes(path, save(plain_tensors(state), {KEY: card.model_dump_json()}))


def read_part(path: Path, card: type[Validated], kind: str, what: str) -> tuple[Validated, dict[str, Tensor]]:
    """Card and weights of a network that serves models, written by `write_with_card`, whose card says that it is of
    `kind`, which is `what` in words. Raises DifflabError for a damaged file, and for one of something else."""
    if not is_safetensors(path):
        raise DifflabError(f"{path}: not {what} of difflab, which is a .safetensors file with its card inside.")
    state, metadata = read_safetensors(path)
    values = _card_values(metadata.get(KEY, "{}"), path)
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise DifflabError(f"{path}: not {what} of difflab; expected a file that `difflab train` made of one.")
    return validated(card, values, f"{path}, its card"), state


def _is_card(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(values, dict) and {"family", "network"} <= values.keys()


def parse_card(text: str, path: Path) -> Card:
    """The card in the metadata of `path`. Raises DifflabError naming what is wrong with it."""
    return validated(Card, _card_values(text, path), f"{path}, its card")


def _card_values(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DifflabError(f"{path}: its card is not JSON ({error}); copy or make the file again.") from error


def plain_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory and lie in order, as safetensors needs them."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
