"""How samples are drawn: the settings, what they mean for a model, and whether they fit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from difflab.core import schedule
from difflab.core.guidance import Guidance
from difflab.core.names import Spacing, calls_a_step
from difflab.core.noise import seeded_classes
from difflab.core.sampler import Ancestral, Langevin, method
from difflab.core.schedule import Point, path_of, respaced_timesteps
from difflab.core.step import Sampler
from difflab.errors import DifflabError, suggest
from difflab.zoo.model import Model

Classes = Literal["random", "balanced"] | tuple[int, ...]

_SOLVERS_BEGIN = 1000.0  # sigma / alpha; where solvers were published to begin it is 164


@dataclass(frozen=True)
class Draw:
    """How samples are drawn from a model; everything here decides their values.

    sampler: a name in `core.sampler.SAMPLERS`; steps: from noise to data; eta: for `ddim` alone; spacing: None is the
    sampler's or the family's own; official_grid: the reference code's grid, quirks included; clip: whether x0 is
    clamped, None is the habit of the sampler and of the model's family. respacing: the timesteps as ADM and DiT write
    them, such as "10,15,25" or "ddim50", in the place of steps and spacing.

    prompts: for a model that is told captions; sample i has the one at i modulo their count, an empty one is none.

    For a model that is told classes: classes: `random`, each alike, by seed and index; `balanced`, in turn; or numbers,
    of which sample i has the one at i modulo their count; guidance, of captions, too: see `core.guidance`.

    classifier_scale: of the classifier beside the model (see `Model.guided_by`), 0 leaves it out; classes may then be
    asked for where the model itself is told none.

    percentile: of dynamic thresholding, None is none (see `core.denoiser`); gamma: of the variance of `ddpm`, None is
    the model's own; corrector: the step of a Langevin corrector, 0 is none (see `core.sampler`).
    """

    sampler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    spacing: Spacing | None = None
    official_grid: bool = False
    clip: bool | None = None
    respacing: str | None = None
    classes: Classes = "random"
    guidance: Guidance = field(default_factory=Guidance)
    percentile: float | None = None
    gamma: float | None = None
    corrector: float = 0.0
    prompts: tuple[str, ...] = ()
    classifier_scale: float = 0.0


def grid_of(model: Model, draw: Draw) -> np.ndarray:
    """The increasing timesteps from which steps begin. Raises DifflabError for ones the model does not have."""
    if draw.respacing is not None:
        grid = respaced_timesteps(model.schedule.timesteps, draw.respacing)
        if len(grid) < 2:
            raise DifflabError(f"respacing {draw.respacing!r} keeps {len(grid)} timesteps, but at least 2 are needed.")
        return grid
    return schedule.grid_of(model.schedule, draw.steps, spacing_of(model, draw), official_grid=draw.official_grid)


def spacing_of(model: Model, draw: Draw) -> Spacing:
    """Where the steps lie: as told, else where the sampler was published to have them, or the family has them."""
    return draw.spacing or method(draw.sampler).spacing or model.family.spacing


def grid_note(model: Model, draw: Draw) -> str | None:
    """A sentence where the official grid makes another number of network calls than steps, or repeats timesteps."""
    if not draw.official_grid:
        return None
    grid = grid_of(model, draw)
    if len(grid) == draw.steps == len(set(grid)):
        return None
    repeats = f", {len(set(grid))} of them at different timesteps" if len(set(grid)) < len(grid) else ""
    return f"The official grid for {draw.steps} steps makes {len(grid)} network calls{repeats}."


def calls_of(model: Model, draw: Draw) -> int:
    """How often the network is asked for each sample; where guidance acts, each time twice. A classifier is not
    counted."""
    points = path_of(model.schedule, grid_of(model, draw))[:-1]
    within = calls_a_step(draw.sampler) - 1 + bool(draw.corrector)  # calls of a step at its end
    asked = [*points, *points[1:] * within]
    if told_nothing(model):
        return len(asked)
    return sum(1 if draw.guidance.scale_at(at, model.schedule.timesteps) == 1.0 else 2 for at in asked)


def clamps(model: Model, draw: Draw) -> bool:
    """Whether x0 is clamped: as asked for, else by the habit of the sampler or of the model's family, if bounded."""
    if draw.clip is not None:
        return draw.clip
    return model.bounded and (method(draw.sampler).clips or model.family.clamps)


def corrector_of(draw: Draw) -> Langevin | None:
    """The corrector that is asked for."""
    return Langevin(draw.corrector) if draw.corrector else None


def told_nothing(model: Model) -> bool:
    """Whether the network is told neither classes nor captions: classes are then the classifier's alone."""
    return model.card.network.classes is None and model.card.network.condition_width is None


def told_of(model: Model, draw: Draw, seed: int, indices: Sequence[int]) -> Tensor | None:
    """What the network is told of the samples with these indices: class numbers (B,) int64, captions (B, 1 + L, W) or
    their vectors (B, W); None for a model that is told nothing."""
    if not draw.prompts:
        return labels_of(model, draw, seed, indices)
    return model.read([draw.prompts[index % len(draw.prompts)] for index in indices])


def labels_of(model: Model, draw: Draw, seed: int, indices: Sequence[int]) -> Tensor | None:
    """The class numbers (B,) int64 of the samples with these indices; None where neither model nor classifier is told
    any."""
    count = model.classes
    if count is None:
        return None
    if draw.classes == "random":
        numbers = seeded_classes(seed, indices, count)
    elif draw.classes == "balanced":
        numbers = [index % count for index in indices]
    else:
        numbers = [draw.classes[index % len(draw.classes)] for index in indices]
    return torch.tensor(numbers, dtype=torch.int64, device=model.device)


def check_conditions(model: Model, conditions: Tensor | None, count: int) -> None:
    """Raise DifflabError unless there is a vector (count, width), or a caption (count, tokens, width), for a model that
    is told such, and none for others."""
    network, name = model.card.network, model.card.name
    width = network.condition_width
    if width is None and conditions is not None:
        raise DifflabError(f"{name}: is told no vectors, but conditions were given; leave them out.")
    if width is not None and conditions is None:
        if model.card.text is not None:
            raise DifflabError(f"{name}: draws what a caption says; give a prompt, an empty one for any picture.")
        raise DifflabError(f"{name}: is told a vector of {width} numbers a sample; give conditions.")
    if conditions is None:
        return
    due = f"({count}, 1 + tokens, {width})" if network.reads_tokens else f"({count}, {width})"
    found = tuple(conditions.shape)
    if len(found) != 2 + network.reads_tokens or (found[0], found[-1]) != (count, width):
        raise DifflabError(f"{name}: conditions have shape {found}, but {count} samples of this model need {due}.")


def plan(model: Model, draw: Draw) -> tuple[Sampler, list[Point]]:
    """The method and the places it visits. Raises DifflabError for settings that do not fit the model."""
    if draw.eta and draw.sampler != "ddim":
        raise DifflabError(
            f"eta is {draw.eta:g}, but it is a setting of the sampler ddim alone, not of {draw.sampler}; leave it out."
        )
    sampler = method(draw.sampler).build(draw.eta, model.card.variance)
    if draw.gamma is not None:
        if not isinstance(sampler, Ancestral):
            raise DifflabError(f"gamma is {draw.gamma:g}, but it is a setting of the sampler ddpm; leave it out.")
        sampler = replace(sampler, gamma=draw.gamma)
    if not 0.0 <= draw.corrector <= 1.0:
        raise DifflabError(f"corrector is {draw.corrector:g}, but must lie between 0 (none) and 1.")
    points = path_of(model.schedule, grid_of(model, draw))
    if draw.sampler == "ddpm" and model.card.variance == "learned" and len(points) == 2:
        raise DifflabError("steps is 1, but a learned variance lies between those of two steps; take at least 2.")
    _check_solver(draw, points)
    if draw.percentile is not None and not 0.0 < draw.percentile <= 1.0:
        raise DifflabError(f"percentile is {draw.percentile:g}, but must lie above 0 and not above 1.")
    _check_classes(model, draw)
    _check_classifier(model, draw)
    return sampler, points


def _check_solver(draw: Draw, points: Sequence[Point]) -> None:
    """Raise DifflabError where a few-step solver cannot go along `points`."""
    how = method(draw.sampler)
    if how.spacing is None:
        return
    start = math.exp(-schedule.half_log_snr(points[0]))
    if start > _SOLVERS_BEGIN:
        raise DifflabError(
            f"the sampler {draw.sampler} would begin at sigma / alpha {start:.3g}, from where it cannot follow the "
            f"path; take the spacing {how.spacing}."
        )
    if how.remembers and draw.corrector:
        raise DifflabError(
            f"corrector is {draw.corrector:g}, but {draw.sampler} goes by estimates of steps before, which it makes "
            "stale; leave it out, or take ddim or ddpm."
        )
    if any(now.t == nxt.t for now, nxt in pairwise(points)):
        raise DifflabError(
            f"this grid has a timestep twice, between which {draw.sampler} cannot step; leave out the official grid, "
            f"or take the spacing {how.spacing}."
        )


def _check_classes(model: Model, draw: Draw) -> None:
    name, network = model.card.name, model.card.network
    if draw.prompts and model.card.text is None:
        raise DifflabError(f"{name}: is told no captions, but a prompt was given; leave it out.")
    if draw.guidance.channels is not None and draw.guidance.channels > model.shape[0]:
        raise DifflabError(
            f"{name}: {draw.guidance.channels} guided channels were asked for, but it has {model.shape[0]}."
        )
    if network.classes is None:
        told, guided = network.condition_width is not None, draw.guidance.scale != 1.0
        if told and guided and network.hidden_share == 0.0:
            raise DifflabError(
                f"{name}: guidance is {draw.guidance.scale:g}, but this model was trained without hiding captions, "
                "so it knows no 'no caption' to guide away from; leave guidance out."
            )
        if (guided and not told) or (draw.classes != "random" and model.classifier is None):
            what = f"guidance {draw.guidance.scale:g}" if guided and not told else "classes"
            raise DifflabError(f"{name}: is told no classes, but {what} was asked for; leave it out.")
        if model.classifier is not None:
            _check_numbers(model, draw)
        return
    if draw.guidance.scale != 1.0 and network.null_class is None:
        raise DifflabError(
            f"{name}: guidance is {draw.guidance.scale:g}, but this model was trained without hiding classes, so it "
            "knows no 'no class' to guide away from; leave guidance out."
        )
    _check_numbers(model, draw)


def _check_numbers(model: Model, draw: Draw) -> None:
    """Raise DifflabError for classes that there are not, of a model or classifier that is told some."""
    name, count, null = model.card.name, model.classes, model.card.network.null_class
    assert count is not None
    if isinstance(draw.classes, str):
        if draw.classes not in ("random", "balanced"):
            raise DifflabError(f"classes {draw.classes!r} is not known.{suggest(draw.classes, ('random', 'balanced'))}")
        return
    if draw.classifier_scale:
        null = None  # a classifier knows no 'no class'
    odd = [c for c in draw.classes if not 0 <= c < count + (null is not None)]
    if odd or not draw.classes:
        found = f"class {odd[0]} was asked for" if odd else "no class was asked for"
        besides = f" ({null} is 'no class')" if null is not None else ""
        raise DifflabError(f"{name}: {found}, but its classes are 0 to {count - 1}{besides}.")


def _check_classifier(model: Model, draw: Draw) -> None:
    """Raise DifflabError for a scale that is out of range, or of no classifier."""
    scale = draw.classifier_scale
    if not 0.0 <= scale < math.inf:
        raise DifflabError(f"classifier_scale is {scale:g}, but must be 0 (off) or more.")
    if scale and model.classifier is None:
        raise DifflabError(f"classifier_scale is {scale:g}, but there is no classifier; give one, or leave it out.")
