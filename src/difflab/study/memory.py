"""Samples beside what a model was trained on: does it draw, or remember?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from difflab.data.clips import Window, open_clips
from difflab.data.dataset import Dataset
from difflab.data.sources import open_data
from difflab.errors import DifflabError
from difflab.study.measure import CLIPS_REFERENCE, SHAPES, feature_batches, scenes
from difflab.study.spec import Settings, Study
from difflab.zoo.card import Card

if TYPE_CHECKING:
    from difflab.study.bench import Bench

MOST = 5_000  # training samples that are looked through


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
    data: Any = card.training.get("recipe", {}).get("data", {})
    if "source" not in data:
        raise DifflabError(
            f"{study}: the nearest training samples were asked for, but the card of {card.name} does not say what it "
            "was trained on; leave nearest out."
        )
    if data["source"] == SHAPES:
        return scenes(card.side, frames, MOST, data["seed"])
    if frames is None:
        return open_data(data["source"], size=card.side, split=data.get("split"), crop=data.get("crop"))
    window = Window(frames, data.get("stride", 1), data.get("fps"), short=data.get("short", "drop"))
    how = {"crop": data["crop"]} if data.get("crop") else {}
    return open_clips(data["source"], window, card.side, split=data.get("split"), **how)


def nearest_training(bench: Bench, settings: Settings, features: np.ndarray) -> Nearest:
    """The nearest training samples to those of a cell with these features (n, d), by Euclidean distance in them."""
    frames = bench.frames_of(settings)
    data = training_data(bench.study.name, bench.model.card, frames)
    order = np.sort(np.random.default_rng(0).permutation(len(data))[:MOST])
    known = np.concatenate([part for part, _ in feature_batches(data, bench.extractor, order=order)])
    distances, found = _nearest(features, known)
    pictures = np.stack([data[int(order[index])].x for index in found])
    return Nearest(pictures, distances, _of_real(bench, frames, known, len(features)), len(order))


def _of_real(bench: Bench, frames: int | None, known: np.ndarray, count: int) -> np.ndarray:
    """Distances of `count` samples of the reference, (0,) where some of these may have been trained on."""
    reference = bench.reference_of(frames).dataset
    if reference is None or not _apart(bench.study, bench.model.card.training["recipe"]["data"]):
        return np.zeros(0)
    order = np.sort(np.random.default_rng(1).permutation(len(reference))[:count])
    parts = [part for part, _ in feature_batches(reference, bench.extractor, bench.study.skip_broken, order)]
    return _nearest(np.concatenate(parts), known)[0]


def _apart(study: Study, trained: Mapping[str, Any]) -> bool:
    """Whether the reference has none of the training samples: another source, split or, of `shapes`, draw."""
    if study.reference != trained["source"]:
        return True
    if study.reference == SHAPES:
        return trained["seed"] != CLIPS_REFERENCE["seed"]
    return study.split is not None and trained.get("split") is not None and study.split != trained["split"]


def _nearest(features: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,) to the nearest of `known` (m, d), and which one it is (n,)."""
    gaps = [np.linalg.norm(known - row, axis=1) for row in features]
    found = np.array([gap.argmin() for gap in gaps])
    return np.array([gap[index] for gap, index in zip(gaps, found, strict=True)]), found
