"""The training loop: it yields after every step; the caller logs, shows, stops.

Everything random at step s depends on (seed, s) alone and the checkpoint holds the whole state, so a resumed run equals
one that was never interrupted. On another number of processes it sees the same data and noise, and its losses are the
same but for the order of sums; only dropout, which layers draw for the samples that they are given, is then another
one, so that with it losses agree in distribution alone.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from difflab import files
from difflab.data.dataset import Dataset
from difflab.data.latents import Latents
from difflab.errors import DifflabError
from difflab.train.config import AnyRecipe, DiffusionRecipe, parse_recipe
from difflab.train.draws import Draws, step_seed
from difflab.train.ema import EMA
from difflab.train.feed import Batch, Feed
from difflab.train.objective import Drawn, Objective, make_objective
from difflab.train.optim import blank_state, make_optimizer, set_rate, set_state, state_tensors
from difflab.train.parallel import Parallel, everywhere, local, spread, unsynchronised, whole
from difflab.zoo.training_state import (
    RECORD,
    make_room,
    read_into,
    read_record,
    shapes_in,
    write_record,
    write_tensors,
)

STATE = "checkpoint"  # folder, see `zoo.training_state`
CHECKPOINT = f"{STATE}/{RECORD}"  # there when a state is

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class Progress:
    """After a step: how many are done, the loss before it, the gradient's norm before clipping, the learning rate, and
    the seconds since training (re)started."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    seconds: float


class Trainer:
    """A network in training, with everything needed to save and resume it.

    Args:
        recipe: what to do.
        dataset: pictures of one size.
        folder: where `checkpoint` lies.
        parallel: whether several processes each have a copy of the network, or a shard of it.

    With several processes, all must call the methods together.
    """

    def __init__(self, recipe: AnyRecipe, dataset: Dataset | Latents, folder: Path, parallel: Parallel = "ddp") -> None:
        self.recipe, self.folder = recipe, folder / STATE
        precision = "no" if recipe.precision == "fp32" else recipe.precision
        self.accelerator = Accelerator(mixed_precision=precision, cpu=_only_processors())
        _warn_if_emulated(recipe.precision, self.accelerator.device)
        world = self.accelerator.num_processes
        if recipe.batch % (world * recipe.accumulate):
            raise DifflabError(
                f"batch is {recipe.batch}, but must be a multiple of accumulate times the {world} devices, "
                f"{world * recipe.accumulate}."
            )
        torch.manual_seed(recipe.seed)
        self.objective: Objective = make_objective(recipe)
        network = self.objective.build()
        self.bare = network
        self.network = spread(network, self.accelerator, parallel)  # on the device; what follows is made of it there
        self.ema = EMA(network, recipe.ema_rate) if isinstance(recipe, DiffusionRecipe) else None
        self.rule = make_optimizer(network, recipe.optim)
        self.optimizer = self.accelerator.prepare(self.rule)
        self.feed = Feed(
            dataset, recipe.batch // world, recipe.seed,
            flip=recipe.data.flip, images=recipe.data.images, looks=self.objective.looks, captions=_reads(recipe),
            rank=self.accelerator.process_index, world=world,
        )  # fmt: skip
        self.step, self.saved = 0, -1
        self.seconds = self.seconds_before = 0.0

    def run(self) -> Iterator[Progress]:
        """Train up to `recipe.steps`, yielding after every step."""
        began, r = time.perf_counter(), self.recipe
        self.network.train()
        for drawn in self._drawings():
            lr = r.optim.lr_at(self.step, r.steps)
            set_rate(self.optimizer, lr)
            torch.manual_seed(step_seed(r.seed, self.step, self.accelerator.process_index))  # for dropout
            loss, norm = optimise(
                self.network, self._losses(drawn), self.optimizer, r.optim.grad_clip, self.accelerator, r.accumulate
            )
            if self.ema is not None:
                self.ema.update(self.bare)
            if self.accelerator.num_processes > 1:
                loss = self.accelerator.reduce(loss, "mean")
            self.step += 1
            self.seconds = self.seconds_before + time.perf_counter() - began
            yield Progress(self.step, loss, norm, lr, self.seconds)

    def _drawings(self) -> Iterator[Drawn]:
        """What each step that is left needs; the next one's samples are read while this one trains. Beside an
        accelerator they are drawn then, too, unless that asks a network: the two would share its settings."""
        steps, device = range(self.step, self.recipe.steps), self.accelerator.device

        def draw(numbered: tuple[int, Batch]) -> Drawn:
            step, batch = numbered
            draws = Draws(self.recipe.seed, step, self.feed.whole, self.feed.own)
            return self.objective.draw(batch, draws, device)

        batches = zip(steps, one_ahead(self.feed.at, steps), strict=True)
        beside = device.type != "cpu" and not self.objective.asks_a_network
        yield from one_ahead(draw, batches) if beside else map(draw, batches)

    def _losses(self, drawn: Drawn) -> Iterator[Tensor]:
        """The loss of each part of a batch, computed when it is asked for."""
        for part in zip(*(value.chunk(self.recipe.accumulate) for value in drawn), strict=True):
            yield self.objective.loss(self.network, part)

    def save(self) -> None:
        """Write the whole state to `checkpoint`, whole or not at all; every process writes its part. Raises
        DifflabError where training diverged; the state that was saved before stays."""
        self.check_finite()
        if self.step == self.saved:
            return
        main = self.accelerator.is_main_process
        (name,) = broadcast_object_list([make_room(self.folder, self.step) if main else ""])
        optimizer = {f"optimizer.{key}": value for key, value in state_tensors(self.rule, self.bare).items()}
        written = write_tensors(self.folder / name, {**self._weights(), **optimizer})
        if main:
            scaler = self.accelerator.scaler  # of fp16
            record = {
                "recipe": self.recipe.model_dump(mode="json"), "step": self.step, "seconds": self.seconds,
                "scaler": scaler.state_dict() if scaler else None, "tensors": name, "files": written,
            }  # fmt: skip
            write_record(self.folder, record)
        self.saved = self.step

    def _weights(self) -> dict[str, Tensor]:
        averages = self.ema.state_dict() if self.ema else {}
        return {
            **{f"network.{name}": value for name, value in self.bare.state_dict().items()},
            **{f"ema.{name}": value for name, value in averages.items()},
        }

    def check_finite(self) -> None:
        """Raise DifflabError where training diverged."""
        finite = all(local(value).isfinite().all() for value in self.bare.state_dict().values())
        if not everywhere(finite, self.accelerator):
            raise DifflabError(
                f"{self.recipe.name}: the training diverged by step {self.step}, its weights are NaN or infinite; "
                "begin again with a lower optim.lr."
            )

    def begun(self) -> bool:
        """Whether there is a `checkpoint`. What one process sees counts for all: on a disk on the network another may
        not see it yet, and must then not begin anew."""
        return not everywhere(not files.exists(self.folder / RECORD), self.accelerator)

    def resume(self) -> None:
        """Continue from `checkpoint`, which any number of processes has written. Raises DifflabError when it is
        missing, damaged or of another recipe."""
        record = read_record(self.folder)
        was = parse_recipe(record["recipe"], str(self.folder)).model_dump()
        if (field := _changed(was, self.recipe.model_dump())) is not None:
            raise DifflabError(
                f"{self.folder}: this training began with another {field}; resume with the recipe it began with, or "
                "choose another --out."
            )
        try:
            self._read(self.folder / record["tensors"])
            if (scaler := self.accelerator.scaler) is not None:
                scaler.load_state_dict(record["scaler"])
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DifflabError(
                f"{self.folder}: its weights or counters are not those of its recipe; choose another --out and begin "
                "again."
            ) from error
        self.step = self.saved = record["step"]
        self.seconds = self.seconds_before = float(record["seconds"])

    def _read(self, folder: Path) -> None:
        """Raises ValueError unless the tensors in `folder` are those of this training."""
        weights, kept = self._weights(), "optimizer."
        shapes = shapes_in(folder)
        if odd := weights.keys() ^ {name for name in shapes if not name.startswith(kept)}:
            raise ValueError(f"{min(odd)} is missing there or here")
        own = {name.removeprefix(kept): of for name, of in shapes.items() if name.startswith(kept)}
        state = blank_state(self.rule, self.bare, own)
        read_into(folder, {**weights, **{f"{kept}{name}": value for name, value in state.items()}})
        set_state(self.rule, self.bare, state)

    def averaged_state(self) -> dict[str, Tensor]:
        """The weights to use: the running average where there is one, on the CPU; nothing on other processes than the
        main one. Raises DifflabError where training diverged."""
        self.check_finite()
        averages = self.ema.state_dict() if self.ema else {}
        state = {}
        for name, value in self.bare.state_dict().items():
            full = whole(averages.get(name, value).detach())
            if self.accelerator.is_main_process:
                state[name] = full.cpu().clone()
        return state


def _only_processors() -> bool:
    """Whether torchrun has started several processes where there is no accelerator; untold, accelerate takes each for
    the only one then."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _reads(recipe: AnyRecipe) -> bool:
    """Whether the network is told captions."""
    return isinstance(recipe, DiffusionRecipe) and recipe.text_encoder is not None


def one_ahead(function: Callable[[_T], _U], items: Iterable[_T]) -> Iterator[_U]:
    """As `map`, but the next answer is made in a thread while the caller works on one."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future[_U] | None = None
        for item in items:
            made, coming = coming, thread.submit(function, item)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def optimise(
    network: nn.Module,
    losses: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    grad_clip: float | None,
    accelerator: Accelerator | None = None,
    parts: int = 1,
) -> tuple[Tensor, Tensor]:
    """One optimiser step on the mean of the losses of `parts` equal parts: zero, backward, clip the global norm, step.
    `losses` are best computed when they are asked for.

    Returns that mean, and the norm before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    seen, coming = [], iter(losses)
    for number in range(1, parts + 1):
        # Only the last part should exchange gradients between devices; of DDP the forward pass decides that.
        alone = unsynchronised(network, accelerator) if accelerator and number < parts else nullcontext()
        with alone:
            loss = next(coming)
            accelerator.backward(loss / parts) if accelerator else (loss / parts).backward()
        seen.append(loss.detach())
    if accelerator:
        accelerator.unscale_gradients()
    norm = nn.utils.clip_grad_norm_(network.parameters(), grad_clip if grad_clip is not None else float("inf"))
    optimizer.step()
    return torch.stack(seen).mean(), whole(norm)


def _warn_if_emulated(precision: str, device: torch.device) -> None:
    if precision != "fp32" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        warnings.warn(
            f"This CPU has no instructions for {precision}, which is then many times slower than fp32; stop and begin "
            "again with precision=fp32.",
            UserWarning,
            stacklevel=3,
        )


def _changed(was: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first field that differs, other than those that may change between runs."""
    free = {"log_every", "save_every", "sample_every"}
    return next((name for name in was if name not in free and was[name] != now.get(name)), None)
