"""What the cells of a study share: the model, the features, the reference, the store; opened once, checked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import uuid4

import torch

from difflab.core.schedule import path
from difflab.data.shapes import SCENE_SIDE
from difflab.data.sources import fingerprint
from difflab.errors import DifflabError
from difflab.score.extractors import Extractor
from difflab.score.statistics import Statistics
from difflab.study.measure import SHAPES, Reference, choose_features, open_extractor
from difflab.study.spec import Settings, Study
from difflab.study.store import Store
from difflab.zoo.load import load
from difflab.zoo.model import Model
from difflab.zoo.sampling import Draw, sample_batches


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
        return Reference(self.study.reference, self.study.split, self.model.shape[-1], self.study.skip_broken)

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network."""
        name = self.study.features or choose_features(self.study.reference, self.model.shape[-1])
        return self.shelf.extractor(name)

    @cached_property
    def statistics(self) -> Statistics:
        """The reference's statistics, kept in the store."""
        return self.reference.statistics(self.extractor, self.store.root / "reference")

    @cached_property
    def truth_known(self) -> bool:
        """Whether the truth checker looks at the samples: always on scenes, so that asking for it draws none again."""
        known = self.study.reference == SHAPES and self.model.shape[-1] == SCENE_SIDE
        if "valid" in self.study.metrics and not known:
            raise DifflabError(
                f"{self.study.name}: the metric 'valid' needs scenes of known truth; use it with the reference shapes "
                f"and a model of {SCENE_SIDE}x{SCENE_SIDE} pixels."
            )
        return known

    def problems(self) -> list[str]:
        """Everything that can be found missing or wrong before any work starts."""
        found = []
        for part in (self._model_is_there, self._reference_is_there, self._features_are_there, self._truth_is_known):
            try:
                part()
            except DifflabError as error:
                found.append(str(error))
        return found

    def _model_is_there(self) -> None:
        most = self.model.schedule.timesteps
        for settings in self.study.cells():
            if settings.steps > most:
                raise DifflabError(
                    f"{self.study.name}: steps is {settings.steps}, but must lie between 1 and the model's {most} "
                    "training timesteps."
                )

    def _reference_is_there(self) -> None:
        # The size follows from the model; without one the data can still be looked for.
        Reference(self.study.reference, self.study.split).dataset  # noqa: B018

    def _features_are_there(self) -> None:
        self.extractor  # noqa: B018

    def _truth_is_known(self) -> None:
        self.truth_known  # noqa: B018

    def decides(self, settings: Settings) -> dict[str, Any]:
        """Everything that decides the numbers and the files of one cell; its hash is the cell's key."""
        card = self.model.card
        return {
            "weights": self.model.weights_hash,
            "network": card.network.model_dump(mode="json"),
            "schedule": card.schedule.model_dump(mode="json"),
            "output": [card.prediction, card.variance, card.rounding],
            "settings": settings.model_dump(mode="json", exclude_none=True)
            | {"spacing": settings.spacing or self.model.family.spacing},
            "features": self.extractor.passport(),
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
        next(sample_batches(self.model, Draw(steps=1), 0, range(min(self.batch, self.study.chunk)), self.batch))
        return True

    def calls(self, settings: Settings) -> int:
        """Network calls a sample in one cell."""
        spacing = settings.spacing or self.model.family.spacing
        return len(path(self.model.schedule, settings.steps, spacing, official_grid=settings.official_grid)) - 1


def open_benches(studies: Sequence[Study], store: Store, *, batch: int = 64, device: str | None = None) -> list[Bench]:
    """A bench for each study, which share what they have in common; `device` None takes a GPU where there is one.

    Raises DifflabError that names everything the studies miss, all at once, before any work starts.
    """
    shelf = Shelf(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    benches = [Bench(study, store, shelf, batch) for study in studies]
    problems = list(dict.fromkeys(problem for bench in benches for problem in bench.problems()))
    if len(problems) > 1:
        raise DifflabError("\n".join([f"{len(problems)} things are missing or wrong:", *(f"- {p}" for p in problems)]))
    if problems:
        raise DifflabError(problems[0])
    return benches


def draw_of(settings: Settings) -> Draw:
    """The sampler's part of a setting."""
    s = settings
    return Draw(s.sampler, s.steps, s.eta, s.spacing, s.official_grid, s.clip)
