"""Samples beside what a model was trained on: does it draw, or remember?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab.data.clips import Window, open_clips
from difflab.data.dataset import Crop, Dataset
from difflab.data.sources import SHAPES, open_data
from difflab.errors import DifflabError
from difflab.score.extractors import Extractor
from difflab.study.reference import SHAPES_REFERENCE, feature_batches, scenes
from difflab.study.spec import Study
from difflab.zoo.card import Card
from difflab.zoo.families import FamilyName

MOST = 5_000  # training samples that are looked through
_OFFICIAL_CROPS: dict[FamilyName, Crop] = {"adm": "adm"}  # where the official code cuts pictures in a way of its own


@dataclass(frozen=True)
class Nearest:
    """The training samples nearest in features to some drawn ones.

    pictures: (n, H, W, C) or (n, F, H, W, C) uint8; distances: (n,) to them; real: distances of real samples that were
    not trained on to their nearest, empty where none are known; among: how many training samples were looked through.
    """

    pictures: np.ndarray
    distances: np.ndarray
    real: np.ndarray
    among: int


def training_data(study: str, card: Card, frames: int | None) -> Dataset:
    """What the model was trained on, as its card says, as clips of so many frames or as pictures.

    Raises DifflabError where the card does not say, or the data are not on this machine.
    """
    data = card.trained_on
    if "source" not in data:
        raise DifflabError(
            f"{study}: the nearest training samples were asked for, but the card of {card.name} does not say what it "
            "was trained on; leave nearest out."
        )
    if data["source"] == SHAPES:
        return scenes(card.side, frames, MOST, data["seed"])
    window, crop = trained_cut(card, frames)
    if window is None:
        return open_data(data["source"], size=card.side, split=data.get("split"), crop=crop)
    return open_clips(data["source"], window, card.side, split=data.get("split"), crop=crop)


def trained_cut(card: Card, frames: int | None) -> tuple[Window | None, Crop | None]:
    """Which frames made a clip of so many when the model was trained, and how they were brought to its size; where its
    card does not say, as the family's official code does."""
    data = card.trained_on
    crop = data.get("crop") if data else _OFFICIAL_CROPS.get(card.family)
    if frames is None:
        return None, crop
    return Window(frames, data.get("stride", 1), data.get("fps"), short=data.get("short", "drop")), crop


def nearest_training(
    study: Study, card: Card, extractor: Extractor, features: np.ndarray, reference: Dataset | None, frames: int | None
) -> Nearest:
    """The nearest training samples to samples with these features (n, d), by Euclidean distance in them.

    reference: the study's, as clips of `frames` frames or as pictures.
    """
    data = training_data(study.name, card, frames)
    order = np.sort(np.random.default_rng(0).permutation(len(data))[:MOST])
    known = np.concatenate([part for part, _ in feature_batches(data, extractor, order=order)])
    distances, found = _nearest(features, known)
    pictures = np.stack([data[int(order[index])].x for index in found])
    real = np.zeros(0)
    if reference is not None and _apart(study, card.trained_on, frames):
        some = np.sort(np.random.default_rng(1).permutation(len(reference))[: len(features)])
        parts = [part for part, _ in feature_batches(reference, extractor, study.skip_broken, some)]
        real = _nearest(np.concatenate(parts), known)[0]
    return Nearest(pictures, distances, real, len(order))


def _apart(study: Study, trained: Mapping[str, Any], frames: int | None) -> bool:
    """Whether the reference has none of the training samples: another source, split or, of `shapes`, draw."""
    if study.reference != trained["source"]:
        return True
    if study.reference == SHAPES:  # a training sees nearly all of the 41,760 clips there are, whatever its seed
        return frames is None and trained["seed"] != SHAPES_REFERENCE["seed"]
    return study.split is not None and trained.get("split") is not None and study.split != trained["split"]


def _nearest(features: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,) to the nearest of `known` (m, d), and which one it is (n,)."""
    gaps = [np.linalg.norm(known - row, axis=1) for row in features]
    found = np.array([gap.argmin() for gap in gaps])
    return np.array([gap[index] for gap, index in zip(gaps, found, strict=True)]), found
