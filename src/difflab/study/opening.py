"""Benches are opened, and all that is missing or wrong is told at once, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from difflab.data.film_sets import FILM_SETS
from difflab.errors import DifflabError
from difflab.study.bench import Bench
from difflab.study.demands import check_features, check_reference
from difflab.study.memory import training_data
from difflab.study.reference import Reference
from difflab.study.shelf import Shelf
from difflab.study.spec import SAID, VIEWS, Metric, Study
from difflab.study.store import Store
from difflab.study.truth import spoken_of
from difflab.zoo.draw import check_conditions, plan

_OF_CLIPS: tuple[Metric, ...] = ("fvd", "kvd", "direction", "speed", *VIEWS)
_OF_BOTH: tuple[Metric, ...] = ("valid", "accuracy", "is", "caption", "kind", "colour", "size", "background")


def open_benches(
    studies: Sequence[tuple[Study, Store]], *, batch: int = 64, device: str | None = None, shelf: Shelf | None = None
) -> list[Bench]:
    """A bench for each study and its store, which share what they have in common.

    `device` None takes a GPU where there is one; a `shelf` has what was opened before, and a device of its own.

    Raises DifflabError that names everything the studies miss, all at once, before any work starts.
    """
    shelf = shelf or Shelf.on(device)
    benches = [Bench(study, store, shelf, batch) for study, store in studies]
    problems = list(dict.fromkeys(problem for bench in benches for problem in _problems(bench)))
    if len(problems) > 1:
        raise DifflabError("\n".join([f"{len(problems)} things are missing or wrong:", *(f"- {p}" for p in problems)]))
    if problems:
        raise DifflabError(problems[0])
    return benches


def _problems(bench: Bench) -> Iterator[str]:
    """Everything that can be found missing or wrong before any work starts."""
    for check in (_model_fits, _classifier_is_there, _reference_is_there, _features_are_there, _truth_is_known,
                  _clips_meet_clips, _training_is_known):  # fmt: skip
        try:
            check(bench)
        except DifflabError as error:
            yield str(error)


def _model_fits(bench: Bench) -> None:
    bench.model.codec  # noqa: B018 (the autoencoder of a latent model is there, too)
    if bench.captions:
        bench.model.text_encoder  # noqa: B018
    else:
        check_conditions(bench.model, None, 1)
    for settings in bench.study.cells():
        try:
            plan(bench.model_of(settings), bench.draw(settings))
            bench.calls(settings)
        except DifflabError as error:
            raise DifflabError(f"{bench.study.name}: {error}") from error


def _classifier_is_there(bench: Bench) -> None:
    """Looked at apart, so that it is missed beside a model that is missing, too."""
    if bench.study.classifier is not None:
        bench.shelf.classifier(bench.study.classifier)


def _reference_is_there(bench: Bench) -> None:
    try:
        lengths = dict.fromkeys(map(bench.frames_of, bench.study.cells()))
    except DifflabError:  # told of the model; without it one cannot say whether pictures or films are looked for
        if bench.study.reference not in FILM_SETS and not Path(bench.study.reference).is_dir():
            check_reference(bench.study, Reference(bench.study.reference, bench.study.split))
        return
    for frames in lengths:
        check_reference(bench.study, bench.reference_of(frames))
        for view in bench.views:
            check_reference(bench.study, bench.reference_of(frames, view))


def _features_are_there(bench: Bench) -> None:
    check_features(bench.study, bench.extractor)
    if "clipscore" in bench.study.metrics and not bench.captions:
        raise DifflabError(
            f"{bench.study.name}: the metric 'clipscore' needs a model that draws what captions say; "
            f"{bench.model.card.name} does not."
        )
    bench.clip  # noqa: B018
    for view in bench.views:
        bench.extractor_of(view)


def _clips_meet_clips(bench: Bench) -> None:
    """Clips need features and metrics of clips, pictures those of pictures."""
    clips, study = bench.model.frames is not None, bench.study
    if bench.extractor.clips != clips:
        what, other = ("clips", "pictures") if clips else ("pictures", "clips")
        raise DifflabError(
            f"{study.name}: {bench.model.card.name} draws {what}, but the features {bench.extractor.name} are of "
            f"{other}; choose others."
        )
    odd = [m for m in study.metrics if (m in _OF_CLIPS) != clips and m not in _OF_BOTH]
    if odd:
        raise DifflabError(
            f"{study.name}: the metric {odd[0]!r} is one of {'pictures' if clips else 'clips'}, but "
            f"{bench.model.card.name} draws {'clips' if clips else 'pictures'}; take "
            f"{'fvd' if clips else 'fid'} or another."
        )
    fewest = min(bench.frames_of(s) or 0 for s in study.cells())
    if clips and study.window is not None and study.window > fewest:
        raise DifflabError(
            f"{study.name}: window is {study.window}, but the shortest clips have {fewest} frames; take no more."
        )


def _truth_is_known(bench: Bench) -> None:
    if not bench.truth_known or not bench.captions:
        return
    fewest = min(settings.count for settings in bench.study.cells())
    told = spoken_of(bench.captions[:fewest])
    untold = [metric for metric in bench.study.metrics if metric in SAID and metric not in told]
    if untold:
        raise DifflabError(
            f"{bench.study.name}: none of {fewest} captions tells what the metric {untold[0]!r} looks for; take a "
            "larger count, or leave it out."
        )


def _training_is_known(bench: Bench) -> None:
    if bench.study.nearest:
        training_data(bench.study.name, bench.model.card, bench.frames_of(bench.study.base))
