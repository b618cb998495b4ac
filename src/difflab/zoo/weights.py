"""State dicts: whether they fit a network, and putting them into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from difflab.errors import DifflabError

Network = TypeVar("Network", bound=nn.Module)


def fill(
    build: Callable[[], Network],
    state: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
    where: str = "weights",
) -> Network:
    """The network of `build`, in evaluation mode on `device`, holding `state`, which came from `where`.

    Tensors of `state` that are float32 on the CPU already become the network's own, so that no more than one copy of a
    large model is ever held; the caller gives them away.

    Raises DifflabError naming a missing, extra, misshapen or NaN weight, or one that is no plain tensor of reals.
    """
    with torch.device("meta"):  # initial weights would be thrown away
        network = build()
    _check_names(network, state, where)
    check_finite(state, where)
    network.load_state_dict({name: value.detach().float().contiguous() for name, value in state.items()}, assign=True)
    network.eval().requires_grad_(False)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _check_names(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name, shape in expected.items():
        if name not in found:
            raise DifflabError(f"{where}: the weight {name} {shape} is missing; is the configuration the right one?")
        if found[name] != shape:
            raise DifflabError(
                f"{where}: the weight {name} has shape {found[name]}, but this configuration needs {shape}; "
                "give the configuration the checkpoint was trained with."
            )
    if extra := sorted(found.keys() - expected.keys()):
        raise DifflabError(
            f"{where}: {len(extra)} weights do not belong to this configuration, the first is {extra[0]}; "
            "give the configuration the checkpoint was trained with."
        )


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise DifflabError for a weight that is NaN or infinite, or no plain tensor of reals."""
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise DifflabError(f"{where}: the weight {name} is no plain tensor of real numbers; save it as one.")
        if not torch.isfinite(value.float()).all():
            raise DifflabError(f"{where}: the weight {name} holds NaN or infinite values; the checkpoint is damaged.")
