"""The optimiser of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from difflab.train.config import OptimConfig
from difflab.train.muon import Muon


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of a recipe over all parameters of `network` that are trained, on the device they are on now."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    c = config
    if c.name == "muon":
        hidden = hidden_matrices(network)
        ours = {id(p) for p in hidden}
        return MuonWithAdam(hidden, [p for p in parameters if id(p) not in ours], c)
    if c.name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=c.lr, weight_decay=c.weight_decay)
    if c.name == "sgd":
        return torch.optim.SGD(parameters, lr=c.lr, momentum=0.9)
    return _adam(parameters, c)


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Trained weights of two or more dimensions that map hidden channels to hidden channels.

    Layers at a network's edges, which it lists by name in `edges`, meet data or timesteps instead, and tables hold
    vectors.
    """
    edges = tuple(f"{name}." for name in getattr(network, "edges", ()))
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad and p.ndim >= 2]
    return [p for name, p in named if not name.startswith(edges) and not name.endswith("_table")]


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for hidden weights, Adam for the rest, in one.

    A convolution (out, in, k, k) is the matrix (out, in k k): Muon works on a view of that shape. The rate of Adam's
    group is `adam_lr / lr` times that of Muon's.

    Args:
        hidden: weights (out, in, ..) for Muon, contiguous.
        others: everything else.
        config: of the recipe.
    """

    def __init__(self, hidden: list[nn.Parameter], others: list[nn.Parameter], config: OptimConfig) -> None:
        groups: list[dict[str, Any]] = [
            {"params": hidden},
            {"params": others, "lr": config.adam_lr, "rate": config.adam_lr / config.lr},
        ]
        super().__init__(groups, {"lr": config.lr, "rate": 1.0})
        self._matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in hidden]  # the same memory
        self._parts = (
            Muon(self._matrices, lr=config.lr, weight_decay=config.weight_decay),
            _adam(others, config),
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of both, at the rates of `param_groups`."""
        if closure is not None:
            raise ValueError("Muon takes its gradients from one backward pass, not from a closure")
        for matrix, p in zip(self._matrices, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if p.grad is None else p.grad.reshape(matrix.shape)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()

    @property
    def parts(self) -> tuple[Muon, torch.optim.Optimizer]:
        """Both parts, whose parameters are in the order of `param_groups`."""
        return self._parts

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts."""
        return {"muon": self._parts[0].state_dict(), "adam": self._parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for part, name in zip(self._parts, ("muon", "adam"), strict=True):
            part.load_state_dict(state_dict[name])


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr`, times its own factor if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)


def state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """All that an optimiser of `network` keeps, as `parameter.kind`, for example `head.weight.exp_avg`."""
    return {
        f"{name}.{kind}": value
        for part, names in _named(optimizer, network)
        for name, p in names.items()
        for kind, value in part.state.get(p, {}).items()
    }


def blank_state(
    optimizer: torch.optim.Optimizer, network: nn.Module, shapes: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> dict[str, Tensor]:
    """Zeros for a state of these names and shapes, shared out as the parameters are. Raises ValueError for what no
    optimiser of `network` keeps."""
    parameters = {name: p for _, names in _named(optimizer, network) for name, p in names.items()}
    blank = {}
    for name, (shape, kind) in shapes.items():
        p = parameters.get(name.rpartition(".")[0])
        if p is None or shape not in (p.shape, torch.Size([])):
            raise ValueError(f"{name} is of no parameter")
        blank[name] = torch.zeros_like(p.detach(), dtype=kind) if shape == p.shape else torch.zeros((), dtype=kind)
    return blank


def set_state(optimizer: torch.optim.Optimizer, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Continue from what `state_tensors` gave."""
    of: dict[str, dict[str, Tensor]] = {}
    for full, value in state.items():
        name, _, kind = full.rpartition(".")
        of.setdefault(name, {})[kind] = value
    for part, names in _named(optimizer, network):
        numbered = {number: of[name] for number, name in enumerate(names) if name in of}
        part.load_state_dict({**part.state_dict(), "state": numbered})


def _named(
    optimizer: torch.optim.Optimizer, network: nn.Module
) -> list[tuple[torch.optim.Optimizer, dict[str, Tensor]]]:
    """Each optimiser in `optimizer` with its parameters, in its order, by their names in `network`."""
    name_of = {id(p): name for name, p in network.named_parameters()}
    names = [[name_of[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    parts = optimizer.parts if isinstance(optimizer, MuonWithAdam) else (optimizer,)
    own = [[p for group in part.param_groups for p in group["params"]] for part in parts]
    return [(part, dict(zip(n, p, strict=True))) for part, n, p in zip(parts, names, own, strict=True)]


def _adam(parameters: list[nn.Parameter], c: OptimConfig) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if c.name == "adamw" else torch.optim.Adam
    lr, decay = (c.adam_lr, 0.0) if c.name == "muon" else (c.lr, c.weight_decay)
    return kind(parameters, lr=lr, betas=c.betas, eps=c.eps, weight_decay=decay, amsgrad=c.amsgrad, fused=True)
