"""Muon (Jordan et al. 2024). torch has it, too, but always multiplies in bfloat16, which CPUs without instructions for
it emulate: there a step of a small network took three times as long as the forward and backward passes before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from difflab.train.parallel import gathered, local, shared_out

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that the authors tuned for fast growth of small values
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Each step moves a matrix against the nearest orthogonal matrix to its Nesterov momentum.

    Numbers are those of `torch.optim.Muon` but for the precision of the iteration.

    Args:
        matrices: weights (out, in).
        lr: of a matrix that is at least as wide as high; of others it is sqrt(out / in) times as much.
        weight_decay: share of itself, times lr, that a matrix loses with each step.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        if closure is not None:
            raise ValueError("Muon takes its gradients from one backward pass, not from a closure")
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                self._move(moved, [p.grad for p in moved], group["lr"], group["weight_decay"])

    def _move(self, matrices: list[Tensor], gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        """All at once, and the iteration on stacks of one shape: a GPU would wait for the next small product. Of
        sharded matrices it needs the whole, and does the same work on every process."""
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [local(self.state[p]["momentum_buffer"]) for p in matrices]
        slopes, own = [local(g) for g in gradients], [local(p) for p in matrices]
        torch._foreach_lerp_(momenta, slopes, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(slopes, momenta, _MOMENTUM)
        torch._foreach_mul_(own, 1 - lr * weight_decay)
        for (high, wide), places in _by_shape(matrices).items():
            moves = orthogonalised(torch.stack([gathered(ahead[i], matrices[i]) for i in places])).unbind()
            rate = lr * math.sqrt(max(1.0, high / wide))
            parts = [shared_out(move, matrices[i]) for move, i in zip(moves, places, strict=True)]
            torch._foreach_add_([own[i] for i in places], parts, alpha=-rate)


def _by_shape(matrices: Sequence[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Where the matrices of each shape are."""
    places: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        places.setdefault((matrix.shape[0], matrix.shape[1]), []).append(i)
    return places


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (n, a, b) with the singular vectors of others and singular values near 1, by five Newton-Schulz steps.

    bfloat16 is enough, and fast on a GPU; on a CPU it is done in float32.
    """
    high = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x.mT if high else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if high else x).to(matrices.dtype)
