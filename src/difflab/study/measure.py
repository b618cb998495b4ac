"""`difflab score` and `difflab stats`: pictures or clips that are there, scored or made a reference of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from difflab.data.archives import NpzImages
from difflab.data.clips import Window
from difflab.data.dataset import BrokenImageError, Dataset
from difflab.errors import DifflabError, suggest
from difflab.score.adm import ADM, POINTWISE, REFERENCE_POINTS, RELATIVES, Suite, collect
from difflab.score.adm import Reference as AdmReference
from difflab.score.extractors import INCEPTION, Extractor, Taps
from difflab.score.scores import Score
from difflab.score.statistics import Statistics, load_statistics, save_statistics
from difflab.study.features import choose_features, open_extractor
from difflab.study.reference import Reference, picture_batches, reference_moments

CLIP_METRICS = ("fvd", "kvd")
METRICS = (*ADM, *RELATIVES, *CLIP_METRICS)


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
    clips = _are_clips(metrics)
    if not clips and (frames, stride, fps) != (None, 1, None):
        raise DifflabError(f"frames, stride and fps are of clips, but {metrics[0]} is not; leave them out.")
    length = _length(str(samples), frames) if clips else None
    drawn, real = (None if length is None else Window(length, stride, fps, start) for start in ("first", "random"))
    dataset = Reference(str(samples), None, size, skip_broken, drawn).dataset
    if dataset is None:
        raise DifflabError(f"{samples}: these are statistics, but samples to score must be pictures.")
    against = Reference(str(reference), split, size or (_side(dataset) if clips else None), skip_broken, real)
    name = features or _features_of(against) or choose_features(str(reference), _side(dataset), clips)
    extractor = open_extractor(name, device)
    if extractor.clips != clips:
        what = "clips" if extractor.clips else "pictures"
        raise DifflabError(f"the features {name} are of {what}, but {metrics[0]} is not; choose others.")
    if lenient:
        metrics = [metric for metric in metrics if not _left_out(metric, extractor, against)]
    compared = _compared(against, extractor, metrics)
    taps, skipped = _taps(dataset, extractor, metrics, skip_broken)
    for source, broken in ((samples, skipped), (reference, (compared.statistics.passport or {}).get("skipped", 0))):
        if broken:
            warnings.warn(f"{source}: {broken} broken images were passed over.", UserWarning, stacklevel=2)
    suite = Suite(taps, compared, extractor.passport(), replicates, device)
    return {metric: suite.score(metric) for metric in metrics}


def _are_clips(metrics: Sequence[str]) -> bool:
    """Whether metrics are of clips. Raises DifflabError for an unknown one, and for some of clips and some not."""
    for metric in metrics:
        if metric not in METRICS:
            raise DifflabError(f"metric {metric!r} is not known.{suggest(metric, METRICS)}")
    clips = [metric for metric in metrics if metric in CLIP_METRICS]
    if clips and len(clips) < len(metrics):
        raise DifflabError(f"the metric {clips[0]!r} is one of clips, the others are of pictures; ask for them apart.")
    return bool(clips)


def _compared(reference: Reference, extractor: Extractor, metrics: Sequence[str]) -> AdmReference:
    """What of a reference the metrics need: statistics but for the Inception Score, single pictures for some."""
    if all(metric == "is" for metric in metrics):
        return AdmReference(Statistics(np.zeros(0), np.zeros((0, 0))))
    statistics = reference.statistics(extractor)
    pointwise = set(POINTWISE) & set(metrics)
    return AdmReference(statistics, reference.points(extractor, REFERENCE_POINTS) if pointwise else None)


def _taps(dataset: Dataset, extractor: Extractor, metrics: Sequence[str], skip_broken: bool) -> tuple[Taps, int]:
    """What the metrics need of all pictures, and how many broken ones were passed over."""
    skipped = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal skipped
        for batch, passed_over in picture_batches(dataset, skip_broken):
            skipped = passed_over
            yield batch

    taps = collect(pictures(), extractor, metrics)
    return taps, skipped


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
