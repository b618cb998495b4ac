"""Which samples a step sees."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from difflab.data.captions import clip_captions, scene_captions
from difflab.data.clips import Clips
from difflab.data.dataset import Captioned, Dataset, Item
from difflab.data.latents import Latents
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.train.draws import Of, step_seed, stream

_IN_MEMORY = 1 << 30  # bytes of pictures kept decoded; larger data sets are decoded again each time they come up


@dataclass(frozen=True)
class Batch:
    """pictures (B, H, W, C), or clips (B, F, H, W, C), uint8; labels (B,) int64, -1 where there is none; indices (B,)
    into the data set; moments (B, 2 C, h, w) float32 of stored latents, in the place of pictures, which are empty then;
    captions (B), empty where there is none, None unless asked for; together (G,) indices of the whole batch, where this
    is one process's part of it."""

    pictures: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    moments: np.ndarray | None = None
    captions: list[str] | None = None
    together: np.ndarray | None = None


class Feed:
    """Batches by step number: batch s is the same after a restart, and the same samples, in order, on any number of
    devices that share it.

    A finite data set is walked in a fresh order every epoch; `shapes` gives fresh draws from its world.

    Args:
        dataset: pictures of one size.
        batch: samples a step on this device.
        seed: of the order and the mirroring.
        flip: mirror each picture with probability one half.
        images: how many single frames of other clips follow each clip's own frames.
        looks: whether pictures are read; without, they are empty, and labels -1.
        captions: whether batches have captions; of several that an item has, one at random.
        rank, world: this device's number and how many there are.
        workers: threads that decode; None is one for each processor, 16 at most.
    """

    def __init__(
        self,
        dataset: Dataset | Latents,
        batch: int,
        seed: int,
        *,
        flip: bool = False,
        images: int = 0,
        looks: bool = True,
        captions: bool = False,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
    ) -> None:
        self.dataset, self.batch, self.seed, self.flip = dataset, batch, seed, flip
        self.images, self.looks, self.captions = images, looks, captions
        self.whole, self.own = world * batch, slice(rank * batch, (rank + 1) * batch)
        self._threads = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))
        drawn = isinstance(dataset, Shapes | ShapesClips | Clips | Latents)  # of clips every visit has other frames
        self._decoded = self._decode_all() if looks and not drawn and self._fits() else None

    def alone(self) -> Feed:
        """The same batches as one device sees them, whole."""
        feed = copy(self)
        feed.batch, feed.own = self.whole, slice(0, self.whole)
        return feed

    def at(self, step: int) -> Batch:
        """The samples of one step."""
        batch = replace(self._at(step), together=self._together(step))
        return replace(batch, captions=self._captions(batch.indices, step)) if self.captions else batch

    def _captions(self, indices: np.ndarray, step: int) -> list[str]:
        pick = np.random.default_rng(stream(self.seed, step, Of.CAPTIONS)).random(self.whole)
        return captions_in(self.dataset, indices, pick[self.own])

    def _at(self, step: int) -> Batch:
        indices = self.indices(step)
        if not self.looks:
            return Batch(np.empty(0, np.uint8), np.full(len(indices), -1), indices)
        mirrored = np.zeros(len(indices), bool)
        if self.flip:
            mirrored = np.random.default_rng(step_seed(self.seed, step)).random(self.whole)[self.own] < 0.5
        if isinstance(self.dataset, Latents):
            moments, labels = self.dataset.batch(indices, mirrored)
            return Batch(np.empty(0, np.uint8), labels, indices, moments)
        pictures, labels = self._read(indices, step)
        if self.images:
            pictures = np.concatenate([pictures, self._beside(step)], axis=1)
        if self.flip:
            coin = mirrored.reshape(-1, *[1] * (pictures.ndim - 1))
            pictures = np.where(coin, pictures[..., ::-1, :], pictures)
        return Batch(np.ascontiguousarray(pictures), labels, indices)

    def indices(self, step: int) -> np.ndarray:
        """(batch,) indices into the data set of one step on this device."""
        return self._together(step)[self.own]

    def _together(self, step: int) -> np.ndarray:
        positions = np.arange(step * self.whole, (step + 1) * self.whole)
        if isinstance(self.dataset, Shapes | ShapesClips):
            return positions
        n = len(self.dataset)
        epochs = positions // n
        return np.array([_order(self.seed, int(e), n)[p] for e, p in zip(epochs, positions % n, strict=True)])

    def _read(self, indices: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.dataset, Shapes | ShapesClips):
            return self.dataset.batch(indices)
        if self._decoded is not None:
            return self._decoded[0][indices], self._decoded[1][indices]
        if isinstance(self.dataset, Clips):
            seeds = [stream(self.seed, step, Of.WINDOWS, place) for place in range(self.whole)[self.own]]
            items = list(self._threads.map(self.dataset.item, indices.tolist(), seeds))
        else:
            items = list(self._threads.map(_item_of(self.dataset), indices.tolist()))
        return np.stack([item.x for item in items]), np.array([-1 if i.label is None else i.label for i in items])

    def _beside(self, step: int) -> np.ndarray:
        """Single frames (batch, images, H, W, C) of clips drawn at random."""
        draw, shape = np.random.default_rng(stream(self.seed, step, Of.BESIDE)), (self.whole, self.images)
        indices = draw.integers(len(self.dataset), size=shape)[self.own].ravel()
        if isinstance(self.dataset, ShapesClips):
            clips = self.dataset.batch(indices)[0]
            numbers = draw.integers(clips.shape[1], size=shape)[self.own].ravel()
            frames = clips[np.arange(len(clips)), numbers]
        else:
            assert isinstance(self.dataset, Clips)
            single = replace(self.dataset, window=replace(self.dataset.window, frames=1))
            places = range(self.whole * self.images)[self.own.start * self.images : self.own.stop * self.images]
            seeds = [stream(self.seed, step, Of.BESIDE_WINDOWS, place) for place in places]
            frames = np.stack([item.x[0] for item in self._threads.map(single.item, indices.tolist(), seeds)])
        return frames.reshape(self.batch, self.images, *frames.shape[1:])

    def _fits(self) -> bool:
        return len(self.dataset) * _item_of(self.dataset)(0).x.nbytes <= _IN_MEMORY

    def _decode_all(self) -> tuple[np.ndarray, np.ndarray]:
        n, item_of = len(self.dataset), _item_of(self.dataset)
        pictures, labels = np.empty((n, *item_of(0).x.shape), np.uint8), np.empty(n, np.int64)
        for i, item in enumerate(self._threads.map(item_of, range(n))):
            pictures[i], labels[i] = item.x, -1 if item.label is None else item.label
        return pictures, labels


def captions_in(dataset: Dataset | Latents, indices: np.ndarray, pick: np.ndarray) -> list[str]:
    """A caption of each item, empty where it has none; of several the one at `pick` (N,), 0 to 1, on their list.

    Of scenes and clips of `shapes` it is a sentence whose form depends on the item.
    """
    if isinstance(dataset, Shapes):
        return scene_captions(dataset.seed, indices)
    if isinstance(dataset, ShapesClips):
        return clip_captions(dataset.seed, indices)
    assert isinstance(dataset, Captioned), "checked before"
    known = [dataset.captions_of(int(index)) for index in indices]
    return [said[int(p * len(said))] if said else "" for said, p in zip(known, pick, strict=True)]


def _item_of(dataset: Dataset | Latents) -> Callable[[int], Item]:
    assert not isinstance(dataset, Latents), "latents are read a batch at a time"
    return dataset.__getitem__


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(n)
