"""A loaded model: its network, its card, and samples from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from difflab.core.denoiser import Denoiser
from difflab.core.names import Spacing
from difflab.core.noise import GivenNoise, Noise, SeededNoise
from difflab.core.sampler import Sampler, Step, final, method, trajectory
from difflab.core.schedule import Point, Schedule, path, timestep_grid
from difflab.errors import DifflabError
from difflab.zoo.card import Card
from difflab.zoo.codec import decode
from difflab.zoo.families import FAMILIES, Family


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its card.

    `network(x, t)` answers as the official network does: x (B, C, H, W) float32 in model space, t (B,).
    """

    network: nn.Module
    card: Card
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def family(self) -> Family:
        """The row of `FAMILIES` this model belongs to."""
        return FAMILIES[self.card.family]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample in model space."""
        return self.card.network.sample_shape

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule it was trained with."""
        return self.card.schedule.build()

    @cached_property
    def weights_hash(self) -> str:
        """Hex SHA-256 over the names and values of all weights: the same for every file format they come in."""
        return hash_weights(self.network.state_dict())


def build_model(
    card: Card, state: dict[str, Tensor], device: str | torch.device = "cpu", where: str | None = None
) -> Model:
    """A model from its card and a complete state dict, which came from `where`.

    Raises DifflabError naming a missing, extra, misshapen or NaN weight, or one that is no plain tensor of reals.
    """
    where = where or card.name
    with torch.device("meta"):  # initial weights would be thrown away
        network = FAMILIES[card.family].build(card.network)
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
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise DifflabError(f"{where}: the weight {name} is no plain tensor of real numbers; save it as one.")
        if not torch.isfinite(value.float()).all():
            raise DifflabError(f"{where}: the weight {name} holds NaN or infinite values; the checkpoint is damaged.")
    network.to_empty(device="cpu")
    network.load_state_dict(state)  # copied: the memory of a mapped file is aligned otherwise, which changes last bits
    network.eval().requires_grad_(False)
    network.to(device=device, dtype=torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, card, torch.device(device))


def hash_weights(state: dict[str, Tensor]) -> str:
    """Hex SHA-256 over sorted names, shapes and float32 values."""
    value = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        value.update(f"{name}{tuple(tensor.shape)}".encode())
        value.update(tensor.numpy().tobytes())
    return value.hexdigest()


@dataclass(frozen=True)
class Draw:
    """How samples are drawn from a model; everything here decides their values.

    sampler: a name in `core.sampler.SAMPLERS`; steps: network calls from noise to data; eta: for `ddim` alone;
    spacing: None is the family's own; official_grid: the reference code's grid, quirks included; clip: whether x0 is
    clamped, None is the sampler's own habit.
    """

    sampler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    spacing: Spacing | None = None
    official_grid: bool = False
    clip: bool | None = None


def grid_note(model: Model, draw: Draw) -> str | None:
    """A sentence where the official grid makes another number of network calls than steps, or repeats timesteps."""
    if not draw.official_grid:
        return None
    grid = timestep_grid(model.schedule.timesteps, draw.steps, draw.spacing or model.family.spacing, official_grid=True)
    if len(grid) == draw.steps == len(set(grid)):
        return None
    repeats = f", {len(set(grid))} of them at different timesteps" if len(set(grid)) < len(grid) else ""
    return f"The official grid for {draw.steps} steps makes {len(grid)} network calls{repeats}."


def plan(model: Model, draw: Draw) -> tuple[Denoiser, Sampler, list[Point]]:
    """What a trajectory needs but its noise. Raises DifflabError for settings that do not fit the model."""
    if draw.eta and draw.sampler != "ddim":
        raise DifflabError(
            f"eta is {draw.eta:g}, but it is a setting of the sampler ddim alone, not of {draw.sampler}; leave it out."
        )
    chosen = method(draw.sampler)
    sampler = chosen.build(draw.eta, model.card.variance)
    points = path(model.schedule, draw.steps, draw.spacing or model.family.spacing, official_grid=draw.official_grid)
    clip = (chosen.clips and model.family.bounded) if draw.clip is None else draw.clip
    denoiser = Denoiser(model.network, model.card.prediction, model.card.variance == "learned", clip)
    return denoiser, sampler, points


def walk(model: Model, draw: Draw, noise: Noise) -> Iterator[Step]:
    """The sampling trajectory in model space, step by step; the caller watches, saves or stops.

    Raises DifflabError as `plan` does, before anything is computed.
    """
    return trajectory(*plan(model, draw), noise)


def seeded_noise(model: Model, seed: int, indices: Sequence[int]) -> SeededNoise:
    """The noise of the samples with these indices."""
    return SeededNoise(seed, indices, model.shape, model.device)


def sample_batches(model: Model, draw: Draw, seed: int, indices: Sequence[int], batch: int) -> Iterator[np.ndarray]:
    """Samples with the given indices, at most `batch` at a time: uint8 (b, H, W, C)."""
    for begin in range(0, len(indices), batch):
        noise = seeded_noise(model, seed, indices[begin : begin + batch])
        yield decode(final(walk(model, draw, noise)), model.card.rounding)


def sample(
    model: Model,
    n: int | None = None,
    *,
    sampler: str = "ddim",
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    spacing: Spacing | None = None,
    official_grid: bool = False,
    clip: bool | None = None,
    batch: int = 64,
    x_T: Tensor | None = None,
    noise: Sequence[Tensor] | None = None,
    output: Literal["pixels", "raw"] = "pixels",
) -> Any:
    """Draw `n` samples.

    Sample i depends on (seed, i) and the settings alone; `batch` changes last digits.

    Args:
        model: from `difflab.load`.
        n: how many; with `x_T` it follows from it.
        sampler, steps, eta, spacing, official_grid, clip: see `Draw`.
        seed: of the noise.
        batch: how many at a time; decides memory and speed.
        x_T: (n, *shape) start noise instead of the seeded one.
        noise: with `x_T`: one array (n, *shape) for each step of a stochastic sampler, in order.
        output: `pixels` gives uint8 numpy (n, H, W, C); `raw` gives the float32 tensor (n, C, H, W) in model space.

    Raises DifflabError for settings that do not fit the model.
    """
    settings = Draw(sampler, steps, eta, spacing, official_grid, clip)
    count = _count(model, n, x_T)
    parts: list[Any] = []
    for begin in range(0, count, batch):
        rows = range(begin, min(begin + batch, count))
        source = _given(model, x_T, noise, rows) if x_T is not None else seeded_noise(model, seed, rows)
        x = final(walk(model, settings, source))
        parts.append(x if output == "raw" else decode(x, model.card.rounding))
    return torch.cat(parts) if output == "raw" else np.concatenate(parts)


def _count(model: Model, n: int | None, x_T: Tensor | None) -> int:
    if x_T is None:
        if n is None or n < 1:
            raise DifflabError(f"n is {n}, but at least one sample must be asked for.")
        return n
    if tuple(x_T.shape[1:]) != model.shape:
        raise DifflabError(
            f"x_T has shape {tuple(x_T.shape)}, but this model needs (n, {', '.join(map(str, model.shape))})."
        )
    if n is not None and n != len(x_T):
        raise DifflabError(f"n is {n}, but x_T holds {len(x_T)} samples; leave n out or make them equal.")
    return len(x_T)


def _given(model: Model, x_T: Tensor, noise: Sequence[Tensor] | None, rows: range) -> GivenNoise:
    part = slice(rows.start, rows.stop)

    def ready(value: Tensor) -> Tensor:
        return torch.as_tensor(value)[part].to(model.device, torch.float32)

    return GivenNoise(ready(x_T), [ready(z) for z in noise or ()])
