"""Scoring outside and inside studies: features of data, statistics of references, the scores themselves."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from difflab import files
from difflab.data.archives import NpzImages
from difflab.data.clips import Window, films_fingerprint, open_clips, side_of_films
from difflab.data.dataset import BrokenImageError, Crop, Dataset, batches
from difflab.data.excerpts import Excerpts
from difflab.data.shapes import Shapes, sample_scenes
from difflab.data.shapes_clips import ShapesClips, clips_fingerprint, sample_motions
from difflab.data.sources import fingerprint, open_data
from difflab.errors import DifflabError, see, suggest
from difflab.places import Place
from difflab.score.adm import ADM, POINTWISE, REFERENCE_POINTS, RELATIVES, Suite, collect
from difflab.score.adm import Reference as AdmReference
from difflab.score.extractors import FVD_FEATURES, INCEPTION, Extractor, load_extractor
from difflab.score.moments import Moments
from difflab.score.scores import Score
from difflab.score.statistics import Statistics, load_statistics, save_statistics
from difflab.study.spec import key_of
from difflab.zoo.registry import find_features, known_features, shipped_statistics

SHAPES = "shapes"
SHAPES_REFERENCE = {"count": 20_000, "seed": 1}  # drawn apart from the trainings' scenes, which use seed 0
CLIPS_REFERENCE = {"count": 5_000, "seed": 1}  # a clip costs as much as its frames, and each length has its own
FRESH_SEED = 2
FRESH_SETS = 8  # sets of fresh scenes, whose scores tell how far chance alone moves them
CLIP_METRICS = ("fvd", "kvd")
METRICS = (*ADM, *RELATIVES, *CLIP_METRICS)
_BATCH = 128
_OTHER_SPLIT = {"train": "test", "test": "train"}


def choose_features(reference: str, size: int, clips: bool = False) -> str:
    """The feature network for a reference when none was asked for.

    Scenes are measured by `shapes-image`, their clips by `shapes-clip`, films by I3D. Photographs are measured by
    Inception where its weights are on this machine, so that the number is FID; else, at 32x32, by `cifar10-image`.
    Raises DifflabError when neither will do.
    """
    if reference == SHAPES:
        return "shapes-clip" if clips else "shapes-image"
    if clips and find_features("i3d") is not None:
        return "i3d"
    if clips:
        raise DifflabError(
            f"{reference}: FVD needs I3D's weights, which are not on this machine; get them with `difflab models fetch "
            f"i3d`, or name other features, such as shapes-clip, with --features; {see('how-to/missing')}."
        )
    if find_features(INCEPTION) is not None:
        return INCEPTION
    if size == 32 and find_features("cifar10-image") is not None:
        return "cifar10-image"
    raise DifflabError(
        f"{reference}: FID needs the Inception weights, which are not on this machine; get them with "
        f"`difflab models fetch inception`, or name other features with --features; {see('how-to/missing')}."
    )


def open_extractor(name: str, device: str = "cpu") -> Extractor:
    """A feature network by name, or from a .safetensors file of `difflab train`."""
    path = Path(name)
    if path.suffix == ".safetensors":
        from difflab.score.features import load_small_features

        return load_extractor(load_small_features(path)[0], weights=path, device=device)
    if (weights := find_features(name)) is None:
        raise DifflabError(
            f"the features {name!r} are not on this machine; get them with `difflab models fetch {name}`; "
            f"{see('how-to/missing')}."
            if name in (INCEPTION, *FVD_FEATURES)
            else f"the features {name!r} are not known.{suggest(name, known_features())}"
        )
    return load_extractor(name, weights=weights, device=device)


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


def stats(
    data: str,
    out: Path,
    *,
    features: str | None = None,
    split: str | None = None,
    size: int | None = None,
    skip_broken: bool = False,
    window: Window | None = None,
) -> Statistics:
    """Compute reference statistics of `data` and write them to `out` (.npz with mu, sigma, n and a passport).

    window: which frames of films make clips; None is pictures.

    Raises DifflabError when the data or the features cannot be read, or `out` does not end in .npz.
    """
    if Path(out).suffix != ".npz":
        raise DifflabError(f"{out}: statistics are written as .npz; let the name end in .npz.")
    if Path(data).exists() and Path(out).resolve() == Path(data).resolve():
        raise DifflabError(f"{out}: these are the pictures themselves; write their statistics to another file.")
    clips, extractor = window is not None, open_extractor(features) if features else None
    if extractor is not None and extractor.clips != clips:
        need = "clips; give --frames" if extractor.clips else "pictures; leave --frames out"
        raise DifflabError(f"the features {extractor.name} are of {need}.")
    reference = Reference(data, split, size, skip_broken, window)
    if reference.dataset is None:
        raise DifflabError(f"{data}: these are statistics already; give pictures.")
    extractor = extractor or open_extractor(choose_features(data, _side(reference.dataset), clips))
    moments, spatial, skipped = reference_moments(reference.dataset, extractor, skip_broken)
    if moments.n < extractor.dim + 1:
        warnings.warn(
            f"{data}: {moments.n} samples are too few for a covariance of full rank in {extractor.dim} features.",
            UserWarning,
            stacklevel=2,
        )
    passport = reference.passport(extractor) | ({"skipped": skipped} if skipped else {})
    save_statistics(Path(out), moments, passport, spatial)
    return load_statistics(Path(out))


def score(metric: str, samples: str | Path, reference: str | Path, **options: Any) -> Score:
    """Score pictures against a reference by one metric; see `scores`."""
    return scores([metric], samples, reference, **options)[metric]


def scores(
    metrics: Sequence[str],
    samples: str | Path,
    reference: str | Path,
    *,
    features: str | None = None,
    split: str | None = None,
    size: int | None = None,
    skip_broken: bool = False,
    replicates: int | None = None,
    device: str = "cpu",
    lenient: bool = False,
    frames: int | None = None,
    stride: int = 1,
    fps: float | None = None,
) -> dict[str, Score]:
    """Score pictures, or clips, against a reference, all metrics from one pass over them.

    Args:
        metrics: of fid, sfid, is, precision, recall, kid, density, coverage, fd-infinity, or of clips fvd, kvd. FID and
            its like are called FD (features) unless the features are Inception's, FVD unless they are I3D's.
        samples: folder, archive, .npz or data set name.
        reference: the same, or statistics .npz; those of ADM hold pictures, too, which precision and its like need.
        features: `inception`, `shapes-image`, `cifar10-image` or a .safetensors file; None chooses.
        split: of a reference that has several; size: bring both to size x size pixels.
        skip_broken: pass over pictures that cannot be decoded, and count them.
        replicates: of bootstraps; None chooses.
        device: where the network runs.
        lenient: leave out, with a warning, the metrics that these features or this reference cannot have.
        frames: of each clip that is taken from a film; None is as many as the samples' own, or 16.
        stride, fps: how it is taken, on both sides (see `data.clips.Window`): from the start of samples, from anywhere
            in the films of the reference, as StyleGAN-V has it; clips of an .npz stay as they are.

    Raises DifflabError for an unknown metric, unreadable data, features that differ from the reference's, a metric that
    these cannot have, or clips of different lengths.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise DifflabError(f"metric {metric!r} is not known.{suggest(metric, METRICS)}")
    clips = [metric for metric in metrics if metric in CLIP_METRICS]
    if clips and len(clips) < len(metrics):
        raise DifflabError(f"the metric {clips[0]!r} is one of clips, the others are of pictures; ask for them apart.")
    if not clips and (frames, stride, fps) != (None, 1, None):
        raise DifflabError(f"frames, stride and fps are of clips, but {metrics[0]} is not; leave them out.")
    length = _length(str(samples), frames) if clips else None
    drawn, real = (None if length is None else Window(length, stride, fps, start) for start in ("first", "random"))
    dataset = Reference(str(samples), None, size, skip_broken, drawn).dataset
    if dataset is None:
        raise DifflabError(f"{samples}: these are statistics, but samples to score must be pictures.")
    side = size or (_side(dataset) if clips else None)
    against = Reference(str(reference), split, side, skip_broken, real)
    name = features or _features_of(against) or choose_features(str(reference), _side(dataset), bool(clips))
    extractor = open_extractor(name, device)
    if extractor.clips != bool(clips):
        what = "clips" if extractor.clips else "pictures"
        raise DifflabError(f"the features {name} are of {what}, but {metrics[0]} is not; choose others.")
    if lenient:
        metrics = [metric for metric in metrics if not _left_out(metric, extractor, against)]
    skipped = [0]

    def pictures() -> Iterator[np.ndarray]:
        for batch, passed_over in picture_batches(dataset, skip_broken):
            skipped.append(passed_over)
            yield batch

    lone = set(POINTWISE) & set(metrics)
    compared = any(metric != "is" for metric in metrics)
    statistics = against.statistics(extractor) if compared else Statistics(np.zeros(0), np.zeros((0, 0)))
    points = against.points(extractor, REFERENCE_POINTS) if lone else None
    taps = collect(pictures(), extractor, metrics)
    for source, broken in ((samples, skipped[-1]), (reference, (statistics.passport or {}).get("skipped", 0))):
        if broken:
            warnings.warn(f"{source}: {broken} broken images were passed over.", UserWarning, stacklevel=2)
    suite = Suite(taps, AdmReference(statistics, points), extractor.passport(), replicates, device)
    return {metric: suite.score(metric) for metric in metrics}


def _length(samples: str, frames: int | None) -> int:
    """Frames of the clips that are scored: those of an .npz, else as many as asked for, or 16."""
    if samples.endswith(".npz"):
        own = NpzImages(samples).frames
        if own is None:
            raise DifflabError(f"{samples}: holds pictures, but clips (N, F, H, W, 3) are to be scored.")
        if frames is not None and frames != own:
            raise DifflabError(f"{samples}: holds clips of {own} frames, but {frames} were asked for; leave them out.")
        return own
    if frames is not None and frames < 1:
        raise DifflabError(f"frames is {frames}, but a clip has at least one.")
    return 16 if frames is None else frames


def _left_out(metric: str, extractor: Extractor, reference: Reference) -> bool:
    """Whether a metric cannot be had with these features or this reference; says so in a warning."""
    why = None
    if metric == "sfid" and not extractor.spatial:
        why = f"the features {extractor.name} have no spatial ones"
    elif metric == "is" and not extractor.classifies:
        why = f"the features {extractor.name} tell no classes"
    elif metric == "sfid" and reference.dataset is None and load_statistics(Path(reference.source)).mu_s is None:
        why = "the reference has no spatial statistics"
    elif metric in POINTWISE and not reference.has_pictures:
        why = "the reference holds statistics alone, no pictures"
    if why is not None:
        warnings.warn(f"{metric} is left out: {why}.", UserWarning, stacklevel=3)
    return why is not None


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
            return dataset[index].x.shape[-3]
        except BrokenImageError:
            continue
    raise DifflabError(f"{dataset.description}: no image could be decoded.")
