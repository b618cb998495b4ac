"""Models, classifiers and feature networks, each opened once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from difflab.devices import home
from difflab.score.clipscore import ClipScorer
from difflab.score.extractors import Extractor
from difflab.study.features import open_extractor
from difflab.study.spec import Study
from difflab.zoo.classifier import Classifier, open_classifier
from difflab.zoo.load import load
from difflab.zoo.model import Model


@dataclass(frozen=True)
class Shelf:
    """Models, classifiers and feature networks on one device, each opened once for all studies of a run, which has an
    id."""

    device: str
    run: str = field(default_factory=lambda: uuid4().hex)
    _models: dict[tuple[str, str | None], Model] = field(default_factory=dict)
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _extractors: dict[str, Extractor] = field(default_factory=dict)
    _clips: dict[str, ClipScorer] = field(default_factory=dict)

    def only(self, study: Study) -> Shelf:
        """The same without the models and classifiers of other studies."""
        models = {key: model for key, model in self._models.items() if key[0] == study.model}
        classifiers = {name: opened for name, opened in self._classifiers.items() if name == study.classifier}
        return replace(self, _models=models, _classifiers=classifiers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrived in another process: what was opened is on its device now, and nobody draws in turn with it."""
        vars(self).update(state, device=str(home()), run=uuid4().hex)

    @classmethod
    def on(cls, device: str | None) -> Shelf:
        """An empty one on this device; None takes a GPU where there is one."""
        return cls(device or str(home()))

    def model(self, source: str, config: str | None) -> Model:
        """The model that `difflab.load` gives."""
        if (source, config) not in self._models:
            self._models[source, config] = load(source, config=config, device=self.device)
        return self._models[source, config]

    def classifier(self, source: str) -> Classifier:
        """The noisy classifier of that name or file."""
        if source not in self._classifiers:
            self._classifiers[source] = open_classifier(source, self.device)
        return self._classifiers[source]

    def extractor(self, name: str) -> Extractor:
        """The feature network of that name."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self.device)
        return self._extractors[name]

    def clip(self, source: str) -> ClipScorer:
        """The CLIP of that name."""
        if source not in self._clips:
            self._clips[source] = ClipScorer(source, self.device)
        return self._clips[source]
