"""Scoring outside and inside studies: features of data, statistics of references, the scores themselves."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from difflab.data.dataset import BrokenImageError, Dataset, batches
from difflab.data.shapes import Shapes
from difflab.data.sources import fingerprint, open_data
from difflab.errors import DifflabError, suggest
from difflab.score.extractors import INCEPTION, Extractor, load_extractor
from difflab.score.fid import Score as FdScore
from difflab.score.fid import fd_score
from difflab.score.moments import Moments
from difflab.score.statistics import Statistics, load_statistics, save_statistics
from difflab.study.spec import key_of
from difflab.zoo.registry import find_features, known_features, shipped_statistics

SHAPES = "shapes"
SHAPES_REFERENCE = {"count": 20_000, "seed": 1}  # drawn apart from the trainings' scenes, which use seed 0
FRESH_SEED = 2
METRICS = ("fid",)
_BATCH = 128
_OTHER_SPLIT = {"train": "test", "test": "train"}


def choose_features(reference: str, size: int) -> str:
    """The feature network for a reference when none was asked for.

    Scenes are measured by `shapes-image`. Photographs are measured by Inception where its weights are on this machine,
    so that the number is FID; else, at 32x32, by `cifar10-image`. Raises DifflabError when neither will do.
    """
    if reference == SHAPES:
        return "shapes-image"
    if find_features(INCEPTION) is not None:
        return INCEPTION
    if size == 32 and find_features("cifar10-image") is not None:
        return "cifar10-image"
    raise DifflabError(
        f"{reference}: FID needs the Inception weights, which are not on this machine; get them with "
        "`difflab models fetch inception`, or name other features with --features."
    )


def open_extractor(name: str, device: str = "cpu") -> Extractor:
    """A feature network by name, or from a .safetensors file of `difflab train`."""
    path = Path(name)
    if path.suffix == ".safetensors":
        from difflab.score.features import load_small_features

        return load_extractor(load_small_features(path)[0], weights=path, device=device)
    if (weights := find_features(name)) is None:
        raise DifflabError(
            f"the features {name!r} are not on this machine; get them with `difflab models fetch {INCEPTION}`."
            if name == INCEPTION
            else f"the features {name!r} are not known.{suggest(name, known_features())}"
        )
    return load_extractor(name, weights=weights, device=device)


@dataclass(frozen=True)
class Reference:
    """What samples are scored against: data or statistics, with the split and size it is used at."""

    source: str
    split: str | None = None
    size: int | None = None
    skip_broken: bool = False

    @cached_property
    def dataset(self) -> Dataset | None:
        """The data, or None when the source is a file of statistics."""
        if is_statistics(self.source):
            return None
        if self.source == SHAPES and self.split is not None:
            raise DifflabError(f"{SHAPES}: has no splits, {self.split!r} was asked for; leave the split out.")
        if self.source == SHAPES:
            return Shapes(self.size or 32, **SHAPES_REFERENCE)
        return open_data(self.source, split=self.split, size=self.size)

    def statistics(self, extractor: Extractor, cache: Path | None = None) -> Statistics:
        """Moments of its features: read from the file, from what ships, from `cache`, or computed and cached there."""
        if self.dataset is None:
            return load_statistics(Path(self.source))
        passport = self.passport(extractor)
        shipped = shipped_statistics(key_of(passport))
        kept = cache / f"{key_of(passport)}.npz" if cache else None
        for path in (shipped, kept):
            if path is not None and path.exists():
                return load_statistics(path)
        moments, skipped = features_moments(self.dataset, extractor, self.skip_broken)
        passport |= {"skipped": skipped} if skipped else {}
        if kept is not None:
            save_statistics(kept, moments, passport)
            return load_statistics(kept)
        mu, sigma = moments.gaussian()
        return Statistics(mu, sigma, moments.n, passport)

    def fresh(self, count: int) -> tuple[Dataset, np.ndarray] | None:
        """Other samples of the same source, which a perfect model could have drawn, and the indices (count,) to take.

        For scenes another draw, for data with a train and a test split the other one; None where too few are known.
        """
        if self.source == SHAPES:
            return Shapes(self.size or 32, count, FRESH_SEED), np.arange(count)
        if self.dataset is None or self.split not in _OTHER_SPLIT:
            return None
        try:
            other = open_data(self.source, split=_OTHER_SPLIT[self.split], size=self.size)
        except DifflabError:  # only this split is on the machine
            return None
        order = np.random.default_rng(FRESH_SEED).permutation(len(other))[:count]
        return (other, order) if len(order) == count else None

    def passport(self, extractor: Extractor) -> dict[str, Any]:
        """What decides the statistics."""
        assert self.dataset is not None
        return {
            "data": self.dataset.description,
            "fingerprint": fingerprint(self.source),
            "count": len(self.dataset),
            "split": self.split,
            "extractor": extractor.passport(),
        }


def is_statistics(source: str) -> bool:
    """Whether `source` is an `.npz` file that holds `mu`, and so statistics rather than pictures."""
    if not source.endswith(".npz") or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return "mu.npy" in archive.namelist()


def feature_batches(
    dataset: Dataset, extractor: Extractor, skip_broken: bool = False, order: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Features (n, d) of a data set, or of its items `order`, a batch at a time, with the broken images passed over."""
    if isinstance(dataset, Shapes):  # drawn by the batch, many times faster than one by one
        indices = np.arange(len(dataset)) if order is None else order
        for begin in range(0, len(indices), _BATCH):
            pictures, _ = dataset.batch(indices[begin : begin + _BATCH])
            yield extractor(pictures), 0
        return
    for batch in batches(dataset, _BATCH, order=order, workers=os.cpu_count() or 1, skip_broken=skip_broken):
        yield extractor(batch.x), batch.skipped


def features_moments(dataset: Dataset, extractor: Extractor, skip_broken: bool = False) -> tuple[Moments, int]:
    """Streaming moments of a data set's features, and how many broken images were passed over."""
    moments, skipped = Moments(extractor.dim), 0
    for features, passed_over in feature_batches(dataset, extractor, skip_broken):
        moments.update(features)
        skipped = passed_over
    return moments, skipped


def stats(
    data: str,
    out: Path,
    *,
    features: str | None = None,
    split: str | None = None,
    size: int | None = None,
    skip_broken: bool = False,
) -> Statistics:
    """Compute reference statistics of `data` and write them to `out` (.npz with mu, sigma, n and a passport).

    Raises DifflabError when the data or the features cannot be read, or `out` does not end in .npz.
    """
    if Path(out).suffix != ".npz":
        raise DifflabError(f"{out}: statistics are written as .npz; let the name end in .npz.")
    if Path(data).exists() and Path(out).resolve() == Path(data).resolve():
        raise DifflabError(f"{out}: these are the pictures themselves; write their statistics to another file.")
    reference = Reference(data, split, size, skip_broken)
    if reference.dataset is None:
        raise DifflabError(f"{data}: these are statistics already; give pictures.")
    extractor = open_extractor(features or choose_features(data, _side(reference.dataset)))
    moments, skipped = features_moments(reference.dataset, extractor, skip_broken)
    if moments.n < extractor.dim + 1:
        warnings.warn(
            f"{data}: {moments.n} pictures are too few for a covariance of full rank in {extractor.dim} features.",
            UserWarning,
            stacklevel=2,
        )
    save_statistics(Path(out), moments, reference.passport(extractor) | ({"skipped": skipped} if skipped else {}))
    return load_statistics(Path(out))


def score(
    metric: str,
    samples: str | Path,
    reference: str | Path,
    *,
    features: str | None = None,
    split: str | None = None,
    size: int | None = None,
    skip_broken: bool = False,
    replicates: int = 200,
) -> FdScore:
    """Score pictures against a reference.

    Args:
        metric: `fid`; it is called FD (features) unless the features are Inception's.
        samples: folder, archive, .npz or data set name.
        reference: the same, or statistics .npz.
        features: `inception`, `shapes-image`, `cifar10-image` or a .safetensors file; None chooses.
        split: of a reference that has several; size: bring both to size x size pixels.
        skip_broken: pass over pictures that cannot be decoded, and count them.
        replicates: of the bootstrap.

    Raises DifflabError for an unknown metric, unreadable data, or features that differ from the reference's.
    """
    if metric not in METRICS:
        raise DifflabError(f"metric {metric!r} is not known.{suggest(metric, METRICS)}")
    dataset = Reference(str(samples), size=size).dataset
    if dataset is None:
        raise DifflabError(f"{samples}: these are statistics, but samples to score must be pictures.")
    against = Reference(str(reference), split, size, skip_broken)
    name = features or _features_of(against) or choose_features(str(reference), _side(dataset))
    extractor = open_extractor(name)
    parts, skipped = [], 0
    for part, passed_over in feature_batches(dataset, extractor, skip_broken):
        parts.append(part)
        skipped = passed_over
    if skipped:
        warnings.warn(f"{samples}: {skipped} broken images were passed over.", UserWarning, stacklevel=2)
    statistics = against.statistics(extractor)
    if passed_over := (statistics.passport or {}).get("skipped", 0):
        warnings.warn(f"{reference}: {passed_over} broken images were passed over.", UserWarning, stacklevel=2)
    return fd_score(np.concatenate(parts), statistics, extractor.passport(), replicates=replicates)


def _features_of(reference: Reference) -> str | None:
    """The features that a file of statistics says it was made with."""
    if reference.dataset is not None:
        return None
    passport = load_statistics(Path(reference.source)).passport or {}
    return passport.get("extractor", {}).get("name", INCEPTION)


def _side(dataset: Dataset) -> int:
    """Height of the first picture that can be decoded; whether broken ones before it matter is decided later."""
    for index in range(len(dataset)):
        try:
            return dataset[index].x.shape[0]
        except BrokenImageError:
            continue
    raise DifflabError(f"{dataset.description}: no image could be decoded.")
