"""Muon (Jordan et al. 2024). torch has it, too, but always multiplies in bfloat16, which CPUs without instructions for
it emulate: there a step of a small network took three times as long as the forward and backward passes before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

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
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group["lr"], group["weight_decay"])

    def _move(self, p: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(momentum, _MOMENTUM)
        p.mul_(1 - lr * weight_decay)
        p.add_(orthogonalised(ahead), alpha=-lr * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the singular vectors of another and singular values near 1, by five Newton-Schulz steps.

    bfloat16 is enough, and fast on a GPU; on a CPU it is done in float32.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
