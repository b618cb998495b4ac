"""A training on several processes: each has a whole copy of the network (ddp), or a shard of what lasts (fsdp).

Sharded tensors are DTensors. What works on numbers one by one does so on `local` parts; what needs a tensor at once
takes the `whole`, for which all processes must ask together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Parallel = Literal["ddp", "fsdp"]


def spread(network: nn.Module, accelerator: Accelerator, parallel: Parallel) -> nn.Module:
    """`network` on this process's device and in the accelerator's precision, ready to train beside the others.

    With fsdp its parameters become sharded ones, in place, and with them gradients, averages and the optimiser's state.
    The blocks that the network names in `shards` are gathered one after the other, where the forward and backward
    passes are. The whole network must still fit once while it is built; and during a step in half precision, whose
    copies of the weights autograd keeps from the forward pass to the backward one, unless checkpointing is on.
    """
    if parallel == "ddp" or accelerator.num_processes == 1:
        return accelerator.prepare(network)
    network = accelerator.prepare_model(network, evaluation_mode=True)  # without the wrapper of ddp
    for p in network.parameters():
        p.data = p.data.contiguous()  # fully_shard takes no other, as channels-last ones
    # Changed in place, such outputs would lose a hook; our networks make new tensors, which the warning cannot know.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    blocks = getattr(network, "shards", ())
    for module in [module for module in network.modules() if isinstance(module, blocks)]:
        fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def unsynchronised(network: nn.Module, accelerator: Accelerator) -> AbstractContextManager[None]:
    """Within it, backward passes add to this process's gradients alone; the next one after it brings them together."""
    return _adding(network) if isinstance(network, FSDPModule) else accelerator.no_sync(network)


@contextmanager
def _adding(network: FSDPModule) -> Iterator[None]:
    network.set_requires_gradient_sync(False)
    yield
    network.set_requires_gradient_sync(True)


def everywhere(holds: bool, accelerator: Accelerator) -> bool:
    """Whether something holds on all processes, which must ask together."""
    if accelerator.num_processes == 1:
        return holds
    return not bool(accelerator.reduce(torch.tensor(float(not holds), device=accelerator.device)))


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(own: Tensor, like: Tensor) -> Tensor:
    """The whole of which every process has its part, shared out as `like` is."""
    if not isinstance(like, DTensor):
        return own
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(own, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def shared_out(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, shared out as `like` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).to_local()
