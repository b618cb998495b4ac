"""How much a network does, counted on the meta device, where tensors have no values: no weights are needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Work:
    """What a pass costs: flops a sample, two for each multiplication with addition; peak: bytes of values that live at
    once, of all samples of the pass, with attention that holds its whole matrix; weights: bytes, float32."""

    flops: float
    peak: int
    weights: int


def work_of(network: nn.Module, run: Callable[[], Any], samples: int) -> Work:
    """The work of `run`, which asks `network`, both on the meta device, about so many samples."""
    weights = [*network.parameters(), *network.buffers()]
    live = LiveBytes(weights)
    # Only the plain form of attention is counted where no GPU is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, live:
        run()
    return Work(counter.get_total_flops() / samples, live.peak, sum(w.nbytes for w in weights))


def gradient(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the sum of `run(x)` with respect to x, as guidance by a classifier takes it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        run(x).sum().backward()  # FlopCounterMode cannot follow autograd.grad
    assert x.grad is not None
    return x.grad


@dataclass
class LiveBytes(TorchDispatchMode):
    """While open, follows what operations make: `peak` is the most bytes that lived at once, `known` left out."""

    known: Iterable[Tensor] = ()
    peak: int = 0
    _live: int = 0
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self._seen |= {tensor.untyped_storage()._cdata for tensor in self.known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        self.peak = max(self.peak, self._live)
        return found

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self._live += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size
