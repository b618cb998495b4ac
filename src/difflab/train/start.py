"""Beginning a training with the weights of another model, whose classes may be others."""

from __future__ import annotations

from torch import nn

from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.families import NetworkConfig
from difflab.zoo.load import read_model
from difflab.zoo.weights import check_finite

_TABLE = "y_embedder.embedding_table.weight"  # the only weight of DiT that knows of classes
_MAY_DIFFER = {"num_classes", "class_dropout_prob", "dropout"}


def begin_with(network: nn.Module, config: NetworkConfig, source: str, text_encoder: str | None = None) -> Card:
    """Give `network`, built by `config`, the weights of the model `source`, which `difflab.load` understands; returns
    its card.

    Where the number of classes differs, classes keep their initial embeddings, and "no class" takes that of `source`.

    text_encoder: what reads the captions, which must be what `source` was trained with.

    Raises DifflabError if `source` cannot be read or differs in more than its classes.
    """
    card, state = read_model(source)
    if type(card.network) is not type(config):
        raise DifflabError(f"{source}: is of the family {card.family}, but the recipe is of another; set family to it.")
    theirs = card.network.model_dump()
    for name, value in config.model_dump().items():
        if name not in _MAY_DIFFER and theirs[name] != value:
            raise DifflabError(
                f"{source}: its {name} is {theirs[name]}, but the recipe has {value}; set network.{name} alike."
            )
    if card.text is not None and card.text.encoder != text_encoder:
        raise DifflabError(
            f"{source}: its captions were read by {card.text.encoder}, but the recipe has {text_encoder}; set "
            "text_encoder alike."
        )
    check_finite(state, source)
    own = network.state_dict()
    if _TABLE in own and own[_TABLE].shape != state[_TABLE].shape:
        table = own[_TABLE].clone()
        if config.null_class is not None and card.network.null_class is not None:
            table[config.null_class] = state[_TABLE][card.network.null_class]
        state = {**state, _TABLE: table}
    network.load_state_dict(state)
    return card
