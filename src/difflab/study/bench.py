"""What the cells of a study share: the model, the features, the reference, the store; opened once, checked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from uuid import uuid4

import torch

from difflab.core.guidance import Guidance
from difflab.data.shapes import CLASSES, SCENE_SIDE
from difflab.data.sources import fingerprint
from difflab.errors import DifflabError
from difflab.score.adm import POINTWISE, REFERENCE_POINTS
from difflab.score.adm import Reference as AdmReference
from difflab.score.extractors import Extractor
from difflab.score.statistics import Statistics
from difflab.study.measure import SHAPES, Reference, choose_features, open_extractor
from difflab.study.spec import Metric, Settings, Study
from difflab.study.store import Store
from difflab.zoo.load import load
from difflab.zoo.model import Model
from difflab.zoo.sampling import Draw, calls_of, plan, sample_batches


@dataclass(frozen=True)
class Shelf:
    """Models and feature networks on one device, each opened once for all studies of a run, which has an id."""

    device: str
    run: str = field(default_factory=lambda: uuid4().hex)
    _models: dict[tuple[str, str | None], Model] = field(default_factory=dict)
    _extractors: dict[str, Extractor] = field(default_factory=dict)

    def model(self, source: str, config: str | None) -> Model:
        """The model that `difflab.load` gives."""
        if (source, config) not in self._models:
            self._models[source, config] = load(source, config=config, device=self.device)
        return self._models[source, config]

    def extractor(self, name: str) -> Extractor:
        """The feature network of that name."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self.device)
        return self._extractors[name]


@dataclass(frozen=True)
class Bench:
    """Everything that the cells of a study share: the model, the features, the reference, the store."""

    study: Study
    store: Store
    shelf: Shelf
    batch: int

    @cached_property
    def model(self) -> Model:
        """The model."""
        return self.shelf.model(self.study.model, self.study.config)

    @cached_property
    def reference(self) -> Reference:
        """What samples are scored against, brought to the size of the samples."""
        return Reference(self.study.reference, self.study.split, self.model.card.side, self.study.skip_broken)

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network."""
        name = self.study.features or choose_features(self.study.reference, self.model.card.side)
        return self.shelf.extractor(name)

    @cached_property
    def statistics(self) -> Statistics:
        """The reference's statistics, kept in the store."""
        return self.reference.statistics(self.extractor, self.store.root / "reference")

    @cached_property
    def truth_known(self) -> bool:
        """Whether the truth checker looks at the samples: always on scenes, so that asking for it draws none again."""
        card = self.model.card
        check_truth(self.study, card.name, card.side, card.network.classes)
        return self.study.reference == SHAPES and card.side == SCENE_SIDE

    @cached_property
    def against(self) -> AdmReference:
        """What the scores compare with: the statistics, and features of single pictures where a metric needs them."""
        alone = not set(POINTWISE) & set(self.study.metrics)
        cache = self.store.root / "reference"
        points = None if alone else self.reference.points(self.extractor, REFERENCE_POINTS, cache)
        return AdmReference(self.statistics, points)

    def taps(self) -> set[str]:
        """What is kept of every sample besides its pictures.

        The few logits of a small network always are, so that asking for IS draws nothing again; Inception's thousand
        only where IS is asked for.
        """
        many = self.extractor.spatial
        logits = self.extractor.classifies and ("is" in self.study.metrics or not many)
        return {"features", "logits"} if logits else {"features"}

    def problems(self) -> list[str]:
        """Everything that can be found missing or wrong before any work starts."""
        found = []
        for part in (self._model_fits, self._reference_is_there, self._features_are_there, self._truth_is_known):
            try:
                part()
            except DifflabError as error:
                found.append(str(error))
        return found

    def _model_fits(self) -> None:
        self.model.codec  # noqa: B018 (the autoencoder of a latent model is there, too)
        for settings in self.study.cells():
            try:
                plan(self.model, draw_of(settings))
            except DifflabError as error:
                raise DifflabError(f"{self.study.name}: {error}") from error

    def _reference_is_there(self) -> None:
        check_reference(self.study)

    def _features_are_there(self) -> None:
        check_features(self.study, self.extractor)

    def _truth_is_known(self) -> None:
        self.truth_known  # noqa: B018

    def decides(self, settings: Settings) -> dict[str, Any]:
        """Everything that decides the numbers and the files of one cell; its hash is the cell's key."""
        card = self.model.card
        return {
            "weights": self.model.weights_hash,
            "network": card.network.model_dump(mode="json"),
            "schedule": card.schedule.model_dump(mode="json"),
            "output": [card.prediction, card.variance, card.rounding, card.guided_channels],
            "codec": self.model.codec.passport(),
            "settings": settings.model_dump(mode="json", exclude_none=True)
            | {"spacing": settings.spacing or self.model.family.spacing},
            "features": self.extractor.passport(),
            "taps": sorted(self.taps()),
            "truth": self.truth_known and fingerprint(SHAPES),
            "keep": self.study.keep,
            "chunk": self.study.chunk,
            "dtype": "float32",
        }

    def warm(self) -> None:
        """Make the first forward pass, which costs extra, before any clock runs; later calls do nothing."""
        self._warmed  # noqa: B018

    @cached_property
    def _warmed(self) -> bool:
        next(
            sample_batches(
                self.model, Draw(steps=1, spacing="trailing"), 0, range(min(self.batch, self.study.chunk)), self.batch
            )
        )
        return True

    def calls(self, settings: Settings) -> int:
        """Network calls a sample in one cell."""
        return calls_of(self.model, draw_of(settings))


class Measured(Protocol):
    """What a study says of how its samples are measured."""

    @property
    def name(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...


def check_reference(study: Measured) -> None:
    """Raise DifflabError unless a study's reference is there, with the pictures that its metrics need.

    The size follows from the model; without one the data can still be looked for.
    """
    reference = Reference(study.reference, study.split)
    lone = [metric for metric in study.metrics if metric in POINTWISE]
    if reference.dataset is None and lone and not reference.has_pictures:
        raise DifflabError(
            f"{study.name}: the metric {lone[0]!r} needs the reference's pictures, but {study.reference} holds "
            "statistics alone; give pictures, or an ADM reference batch."
        )


def check_features(study: Measured, extractor: Extractor) -> None:
    """Raise DifflabError where a metric needs classes and the features tell none."""
    if "is" in study.metrics and not extractor.classifies:
        raise DifflabError(
            f"{study.name}: the metric 'is' needs features that tell classes, but {extractor.name} have no such head; "
            "leave it out."
        )


def check_truth(study: Measured, model: str, side: int, classes: int | None) -> None:
    """Raise DifflabError where a metric needs the truth checker, which cannot judge such a model."""
    asked = [metric for metric in ("valid", "accuracy") if metric in study.metrics]
    if asked and (study.reference != SHAPES or side != SCENE_SIDE):
        raise DifflabError(
            f"{study.name}: the metric {asked[0]!r} needs scenes of known truth; use it with the reference shapes and "
            f"a model of {SCENE_SIDE}x{SCENE_SIDE} pixels."
        )
    if "accuracy" in asked and classes != len(CLASSES):
        raise DifflabError(
            f"{study.name}: the metric 'accuracy' needs a model that is told the {len(CLASSES)} classes of shapes; "
            f"{model} is told {classes or 'none'}."
        )


def open_benches(studies: Sequence[tuple[Study, Store]], *, batch: int = 64, device: str | None = None) -> list[Bench]:
    """A bench for each study and its store, which share what they have in common.

    `device` None takes a GPU where there is one.

    Raises DifflabError that names everything the studies miss, all at once, before any work starts.
    """
    shelf = Shelf(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    benches = [Bench(study, store, shelf, batch) for study, store in studies]
    problems = list(dict.fromkeys(problem for bench in benches for problem in bench.problems()))
    if len(problems) > 1:
        raise DifflabError("\n".join([f"{len(problems)} things are missing or wrong:", *(f"- {p}" for p in problems)]))
    if problems:
        raise DifflabError(problems[0])
    return benches


def draw_of(settings: Settings) -> Draw:
    """The sampler's part of a setting."""
    s = settings
    guidance = Guidance(
        s.guidance, s.guidance_channels, s.guidance_low, s.guidance_high, s.guidance_rescale, s.guidance_course
    )
    return Draw(s.sampler, s.steps, s.eta, s.spacing, s.official_grid, s.clip, None, s.classes, guidance)
