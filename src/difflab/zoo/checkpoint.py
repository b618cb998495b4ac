"""Our own format: one safetensors file whose metadata holds the card, and the same card as readable JSON beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from difflab.errors import DifflabError
from difflab.files import write_bytes, write_json
from difflab.validation import validated
from difflab.zoo.card import Card
from difflab.zoo.safe import read_safetensors

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
    write_bytes(path, save(plain_tensors(state), {KEY: card.model_dump_json()}))
    write_json(beside, card.model_dump(mode="json"))


def _is_card(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(values, dict) and {"family", "network"} <= values.keys()


def read_checkpoint(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """Card and weights of a file that `save_checkpoint` wrote; the JSON file beside it is not needed.

    Raises DifflabError for a damaged file, and for safetensors without a card.
    """
    state, metadata = read_safetensors(Path(path))
    if KEY not in metadata:
        raise DifflabError(
            f"{path}: holds no difflab card; load it with config= and write it anew with difflab convert."
        )
    return parse_card(metadata[KEY], path), state


def parse_card(text: str, path: Path) -> Card:
    """The card in the metadata of `path`. Raises DifflabError naming what is wrong with it."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DifflabError(f"{path}: its card is not JSON ({error}); copy or download the file again.") from error
    return validated(Card, values, f"{path}, its card")


def plain_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory and lie in order, as safetensors needs them."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
