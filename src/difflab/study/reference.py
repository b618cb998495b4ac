"""References: real data or their statistics, at the size and length of what is scored against them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from difflab import files
from difflab.data.archives import NpzImages
from difflab.data.clips import Window, films_fingerprint, open_clips, side_of_films
from difflab.data.dataset import Crop, Dataset, batches
from difflab.data.excerpts import Excerpts
from difflab.data.shapes import Shapes, sample_scenes
from difflab.data.shapes_clips import ShapesClips, clips_fingerprint, sample_motions
from difflab.data.sources import SHAPES, fingerprint, open_data
from difflab.errors import DifflabError
from difflab.places import Place
from difflab.score.extractors import Extractor
from difflab.score.moments import Moments
from difflab.score.statistics import Statistics, load_statistics, save_statistics
from difflab.study.spec import key_of
from difflab.zoo.registry import shipped_statistics

SHAPES_REFERENCE = {"count": 20_000, "seed": 1}  # drawn apart from the trainings' scenes, which use seed 0
CLIPS_REFERENCE = {"count": 5_000, "seed": 1}  # a clip costs as much as its frames, and each length has its own
FRESH_SEED = 2
FRESH_SETS = 8  # sets of fresh scenes, whose scores tell how far chance alone moves them
_BATCH = 128
_OTHER_SPLIT = {"train": "test", "test": "train"}


@dataclass(frozen=True)
class Reference:
    """What samples are scored against: data or statistics, with the split and size it is used at.

    window: which frames of films make clips, None is pictures; crop: how either is brought to the size, None is as
    usual; last: how many frames are looked at, from the end, None is all; single: whether one frame of each is looked
    at, as a picture.
    """

    source: str
    split: str | None = None
    size: int | None = None
    skip_broken: bool = False
    window: Window | None = None
    crop: Crop | None = None
    last: int | None = None
    single: bool = False

    @property
    def frames(self) -> int | None:
        """Frames of a clip; None for pictures."""
        return None if self.window is None else self.window.frames

    @cached_property
    def dataset(self) -> Dataset | None:
        """The data, or None when the source is a file of statistics."""
        whole = self._whole()
        return whole if whole is None or not (self.last or self.single) else Excerpts(whole, self.last)

    def _whole(self) -> Dataset | None:
        if is_statistics(self.source):
            return None
        if self.source == SHAPES and self.split is not None:
            raise DifflabError(f"{SHAPES}: has no splits, {self.split!r} was asked for; leave the split out.")
        if self.source == SHAPES:
            return self._scenes(**(SHAPES_REFERENCE if self.frames is None else CLIPS_REFERENCE))
        if self.window is not None:
            return self._npz_clips() if self.source.endswith(".npz") else self._film_clips(self.window)
        return open_data(self.source, split=self.split, size=self.size, crop=self.crop)

    def _film_clips(self, window: Window) -> Dataset:
        size = self.size if self.size is not None else side_of_films(self.source, self.split)
        found = open_clips(self.source, window, size, split=self.split, crop=self.crop)
        if found.broken and not self.skip_broken:
            raise DifflabError(f"{found.broken[0]}; repair or delete it, or pass over such films with --skip-broken.")
        found.warn()
        return found

    def _npz_clips(self) -> Dataset:
        found = NpzImages(self.source)
        if found.frames != self.frames:
            holds = f"clips of {found.frames} frames" if found.frames else "pictures"
            raise DifflabError(
                f"{self.source}: holds {holds}, but clips of {self.frames} frames are needed; make both sides alike."
            )
        side, width = found[0].x.shape[1:3]
        if width != side:
            raise DifflabError(f"{self.source}: holds clips of {width}x{side} pixels, but squares are needed.")
        if self.size is not None and side != self.size:
            raise DifflabError(
                f"{self.source}: holds clips of {side} pixels, but {self.size} are needed; make both sides alike."
            )
        return found

    def _scenes(self, count: int, seed: int) -> Shapes | ShapesClips:
        return scenes(self.size or 32, self.frames, count, seed)

    @property
    def fingerprint(self) -> str:
        """What tells whether the data are still the same."""
        if self.frames is None:
            return fingerprint(self.source)
        if self.source.endswith(".npz"):
            return fingerprint(self.source)
        return clips_fingerprint() if self.source == SHAPES else films_fingerprint(self.source)

    def statistics(self, extractor: Extractor, cache: Place | None = None) -> Statistics:
        """Moments of its features: read from the file, from what ships, from `cache`, or computed and cached there."""
        if self.dataset is None:
            return self._stored()
        passport = self.passport(extractor)
        shipped = shipped_statistics(key_of(passport))
        kept = cache / f"{key_of(passport)}.npz" if cache else None
        for path in (shipped, kept):
            if path is not None and files.exists(path):
                return load_statistics(path)
        moments, spatial, skipped = reference_moments(self.dataset, extractor, self.skip_broken)
        passport |= {"skipped": skipped} if skipped else {}
        if kept is not None:
            save_statistics(kept, moments, passport, spatial)
            return load_statistics(kept)
        return Statistics(*moments.gaussian(), moments.n, passport, *(spatial.gaussian() if spatial else (None, None)))

    def _stored(self) -> Statistics:
        """Statistics from a file. Raises DifflabError for ones of other clips than these."""
        found = load_statistics(Path(self.source))
        told = (found.passport or {}).get("clips")
        if self.frames is not None and told != self._clips():
            of = f"of {told}" if told else "of pictures, or of clips that it does not name"
            raise DifflabError(
                f"{self.source}: holds statistics {of}, but ones of {self._clips()} are needed; give the clips."
            )
        return found

    def _clips(self) -> str:
        """What of clips is looked at, in words."""
        assert self.window is not None
        if self.single:
            return f"single frames of clips of {self.window.length}"
        return f"the last {self.last} of {self.window.length}" if self.last else f"clips of {self.window.length}"

    @property
    def has_pictures(self) -> bool:
        """Whether single pictures can be had: data, or a file of statistics that holds some, as ADM's do."""
        if self.dataset is not None:
            return True
        with zipfile.ZipFile(self.source) as archive:
            return "arr_0.npy" in archive.namelist()

    def points(self, extractor: Extractor, count: int, cache: Place | None = None) -> np.ndarray:
        """Features (m, d) of single pictures, m at most `count`: drawn at random where there are more, or from `cache`.

        Raises DifflabError for a file of statistics alone.
        """
        if not self.has_pictures:
            raise DifflabError(f"{self.source}: holds statistics alone, but single pictures are needed; give such.")
        dataset = self.dataset if self.dataset is not None else open_data(self.source, size=self.size, crop=self.crop)
        passport = {
            "data": dataset.description, "fingerprint": self.fingerprint, "split": self.split,
            "extractor": extractor.passport(), "points": count,
        }  # fmt: skip
        kept = cache / f"points-{key_of(passport)}.npy" if cache else None
        if kept is not None and files.exists(kept):
            return np.load(io.BytesIO(files.read_bytes(kept)), allow_pickle=False)
        order = np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])
        parts = [part for part, _ in feature_batches(dataset, extractor, self.skip_broken, order)]
        features = np.concatenate(parts)
        if kept is not None:
            content = io.BytesIO()
            np.save(content, features)
            files.write_bytes(kept, content.getvalue())
        return features

    def fresh(self, count: int, balanced: bool = False) -> tuple[Dataset, np.ndarray] | None:
        """Other samples of the same source, which a perfect model could have drawn, and which to take: indices
        (sets, count) of one set or several.

        For scenes several other draws, on request with equally many of each class; for data with a train and a test
        split the other one; None where too few are known.
        """
        if self.source == SHAPES:
            most = FRESH_SETS * count
            drawn = self._scenes(2 * most + 1000, FRESH_SEED)
            order = _even(drawn, most) if balanced else np.arange(most)
            return drawn, order.reshape(FRESH_SETS, count)
        if self.dataset is None or self.split not in _OTHER_SPLIT:
            return None
        try:
            other = replace(self, split=_OTHER_SPLIT[self.split], skip_broken=False, last=None, single=False).dataset
        except DifflabError:  # only this split is on the machine
            return None
        assert other is not None
        order = np.random.default_rng(FRESH_SEED).permutation(len(other))[:count]
        return (other, order[None]) if len(order) == count else None

    def passport(self, extractor: Extractor) -> dict[str, Any]:
        """What decides the statistics."""
        assert self.dataset is not None
        return {
            "data": self.dataset.description,
            "fingerprint": self.fingerprint,
            "count": len(self.dataset),
            "split": self.split,
            "extractor": extractor.passport(),
            **({} if self.frames is None else {"clips": self._clips()}),
        }


def scenes(size: int, frames: int | None, count: int, seed: int) -> Shapes | ShapesClips:
    """The world `shapes` as pictures, or as clips of so many frames."""
    return Shapes(size, count, seed) if frames is None else ShapesClips(size, frames, count, seed)


def _even(world: Shapes | ShapesClips, count: int) -> np.ndarray:
    """Indices (count,) of scenes whose classes come in turn."""
    sampled = sample_scenes if isinstance(world, Shapes) else sample_motions
    labels = sampled(world.seed, np.arange(len(world))).labels
    of_each = [np.flatnonzero(labels == label) for label in range(len(world.classes))]
    return np.array([of_each[i % len(of_each)][i // len(of_each)] for i in range(count)])


def is_statistics(source: str) -> bool:
    """Whether `source` is an `.npz` file that holds `mu`, and so statistics rather than pictures."""
    if not source.endswith(".npz") or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return "mu.npy" in archive.namelist()


def picture_batches(
    dataset: Dataset, skip_broken: bool = False, order: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Pictures of a data set, or of its items `order`, a batch at a time, and how many broken ones were passed over."""
    world = dataset.clips if isinstance(dataset, Excerpts) else dataset
    if isinstance(world, Shapes | ShapesClips):  # drawn by the batch, many times faster than one by one
        indices = np.arange(len(world)) if order is None else order
        for begin in range(0, len(indices), _BATCH):
            rows = indices[begin : begin + _BATCH]
            drawn = world.batch(rows)[0]
            yield dataset.of(drawn, rows) if isinstance(dataset, Excerpts) else drawn, 0
        return
    for batch in batches(dataset, _BATCH, order=order, workers=os.cpu_count() or 1, skip_broken=skip_broken):
        yield batch.x, batch.skipped


def feature_batches(
    dataset: Dataset, extractor: Extractor, skip_broken: bool = False, order: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Features (n, d) of a data set, or of its items `order`, a batch at a time, with the broken images passed over."""
    for pictures, skipped in picture_batches(dataset, skip_broken, order):
        yield extractor(pictures), skipped


def reference_moments(
    dataset: Dataset, extractor: Extractor, skip_broken: bool = False
) -> tuple[Moments, Moments | None, int]:
    """Streaming moments of a data set's features, and of its spatial features (sFID) where the network has such.

    Last comes how many broken images were passed over.
    """
    moments, spatial, skipped = Moments(extractor.dim), None, 0
    for pictures, passed_over in picture_batches(dataset, skip_broken):
        taps = extractor.taps(pictures, {"features", "spatial"} if extractor.spatial else {"features"})
        assert taps.features is not None
        moments.update(taps.features)
        if taps.spatial is not None:
            spatial = spatial or Moments(taps.spatial.shape[1])
            spatial.update(taps.spatial)
        skipped = passed_over
    return moments, spatial, skipped
