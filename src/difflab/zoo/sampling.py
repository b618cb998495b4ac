"""Drawing samples from a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from difflab.core.denoiser import Denoise, Denoiser, Network, Told
from difflab.core.guidance import ClassifierGuided, Guidance, Guided
from difflab.core.names import Course, Spacing
from difflab.core.noise import ClipNoise, GivenNoise, Noise, SeededNoise
from difflab.core.sampler import final, trajectory
from difflab.core.step import Step
from difflab.errors import DifflabError
from difflab.zoo.classifier import Classifier, open_classifier
from difflab.zoo.draw import Classes, Draw, check_conditions, clamps, corrector_of, plan, told_nothing, told_of
from difflab.zoo.model import Model


def denoiser_of(model: Model, draw: Draw, labels: Tensor | None) -> Denoise:
    """What the sampler asks, for samples of these classes (B,), or with these conditions (B, .., width)."""
    network = _asked(model, draw, None if told_nothing(model) else labels)
    learned = model.card.network.learns_variance
    plain = Denoiser(network, model.card.prediction, learned, clamps(model, draw), draw.percentile)
    if not draw.classifier_scale or model.classifier is None:
        return plain
    if labels is None:
        raise ValueError("classes are needed")
    return ClassifierGuided(plain, model.classifier, labels, draw.classifier_scale)


def _asked(model: Model, draw: Draw, labels: Tensor | None) -> Network:
    if labels is None:
        check_conditions(model, None, 1)
        return Told(model.network)
    null = model.card.network.null_class
    if labels.is_floating_point():
        nulls = torch.full_like(labels, math.nan)  # a row of NaN is no condition
    elif null is None:
        return Told(model.network, (labels,))
    else:
        nulls = torch.full_like(labels, null)
    guidance = replace(draw.guidance, channels=draw.guidance.channels or model.card.guided_channels)
    return Guided(model.network, labels, nulls, guidance, model.schedule.timesteps, model.shape[0])


def walk(model: Model, draw: Draw, noise: Noise, labels: Tensor | None = None) -> Iterator[Step]:
    """The sampling trajectory in model space, step by step; the caller watches, saves or stops.

    `labels`: class numbers (B,) or captions, as `told_of` gives them. Raises DifflabError as `plan` does, before
    anything is computed.
    """
    sampler, points = plan(model, draw)
    return trajectory(denoiser_of(model, draw, labels), sampler, points, noise, corrector_of(draw))


def seeded_noise(model: Model, seed: int, indices: Sequence[int], block: int = 0) -> Noise:
    """The noise of the samples with these indices; block: of those that continue a clip, counted from 1."""
    if model.frames is None:
        return SeededNoise(seed, indices, model.shape, model.device, block)
    channels, frames, *side = model.shape
    return ClipNoise(SeededNoise(seed, indices, (frames, channels, *side), model.device, block))


def sample_batches(model: Model, draw: Draw, seed: int, indices: Sequence[int], batch: int) -> Iterator[np.ndarray]:
    """Samples with the given indices, at most `batch` at a time: uint8 (b, H, W, C)."""
    for begin in range(0, len(indices), batch):
        rows = indices[begin : begin + batch]
        yield model.codec.decode(sample_raw(model, draw, seed, rows))


def sample_raw(model: Model, draw: Draw, seed: int, indices: Sequence[int]) -> Tensor:
    """Samples with the given indices, all at a time, in model space."""
    return final(walk(model, draw, seeded_noise(model, seed, indices), told_of(model, draw, seed, indices)))


def sample(
    model: Model,
    n: int | None = None,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    spacing: Spacing | None = None,
    official_grid: bool = False,
    clip: bool | None = None,
    respacing: str | None = None,
    classes: str | int | Sequence[int] = "random",
    guidance: float = 1.0,
    guidance_channels: int | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    guidance_course: Course = "constant",
    percentile: float | None = None,
    gamma: float | None = None,
    corrector: float = 0.0,
    classifier: str | Path | Classifier | None = None,
    classifier_scale: float | None = None,
    prompt: str | Sequence[str] | None = None,
    conditions: Any = None,
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
        sampler, steps: those of the family's official script when left out.
        eta, spacing, official_grid, clip, respacing, classes, percentile, gamma, corrector: see
            `Draw`.
        classifier: a noisy classifier that guides towards the classes: a name such as `adm-classifier64`, a file, or
            what `zoo.classifier.open_classifier` gives.
        classifier_scale: of its gradient, 1 when left out, 0 is off; see `core.guidance.ClassifierGuided`.
        prompt: what a model of captions shall draw; several are taken in turn, and an empty one is none.
        conditions: instead, (n, width) vectors or (n, 1 + tokens, width) captions (see `nets.caption`) for a model that
            is told such; rows of NaN are none.
        guidance, guidance_channels, guidance_interval, guidance_rescale, guidance_course: see `core.guidance.Guidance`.
        seed: of the noise, and of random classes.
        batch: how many at a time; decides memory and speed.
        x_T: (n, *shape) start noise instead of the seeded one.
        noise: with `x_T`: one array (n, *shape) for each step of a stochastic sampler, in order.
        output: `pixels` gives uint8 numpy (n, H, W, C), of clips (n, F, H, W, C); `raw` gives the float32 tensor in
            model space, channels first.

    Raises DifflabError for settings that do not fit the model.
    """
    low, high = guidance_interval or (0.0, None)
    how = Guidance(guidance, guidance_channels, low, high, guidance_rescale, guidance_course)
    steps = model.steps if steps is None else steps
    draw = Draw(
        sampler or model.family.sampler, steps, eta, spacing, official_grid, clip, respacing, _classes(classes), how,
        percentile, gamma, corrector, _prompts(prompt),
        scale_beside(classifier, classifier_scale),
    )  # fmt: skip
    if classifier is not None:
        model = beside(model, classifier)
    count = _count(model, n, x_T)
    told = None if conditions is None else torch.as_tensor(conditions, dtype=torch.float32, device=model.device)
    if draw.prompts and told is not None:
        raise DifflabError("both a prompt and conditions were given, but a sample is told one thing; give one of them.")
    if not draw.prompts:
        check_conditions(model, told, count)
    parts: list[Any] = []
    for begin in range(0, count, batch):
        rows = range(begin, min(begin + batch, count))
        source = _given(model, x_T, noise, rows) if x_T is not None else seeded_noise(model, seed, rows)
        asked = told_of(model, draw, seed, rows) if told is None else told[rows.start : rows.stop]
        x = final(walk(model, draw, source, asked))
        parts.append(x if output == "raw" else model.codec.decode(x))
    return torch.cat(parts) if output == "raw" else np.concatenate(parts)


def scale_beside(classifier: object, scale: float | None) -> float:
    """The scale of a classifier where it may be left out: 1, or 0 where there is none."""
    return scale if scale is not None else 0.0 if classifier is None else 1.0


def beside(model: Model, classifier: str | Path | Classifier) -> Model:
    """The model with a classifier that is opened, or is to be opened on its device. Raises DifflabError as
    `open_classifier` and `Model.guided_by` do."""
    opened = classifier if isinstance(classifier, Classifier) else open_classifier(classifier, model.device)
    return model.guided_by(opened)


def _classes(classes: str | int | Sequence[int]) -> Classes:
    if isinstance(classes, str):
        return classes  # type: ignore[return-value]  # `plan` refuses other words
    return (classes,) if isinstance(classes, int) else tuple(int(c) for c in classes)


def _prompts(prompt: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt)


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
