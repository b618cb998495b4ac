"""What metrics demand of the model, the reference and the features that a study has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from difflab.data.shapes import CLASSES, SCENE_SIDE
from difflab.data.sources import SHAPES
from difflab.errors import DifflabError
from difflab.score.adm import POINTWISE
from difflab.score.extractors import Extractor
from difflab.study.reference import Reference
from difflab.study.spec import SAID, TRUTH, Metric


class Measuring(Protocol):
    """What a study says of how its samples are measured."""

    @property
    def name(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...


def check_reference(study: Measuring, reference: Reference) -> None:
    """Raise DifflabError unless a study's reference is there, with the pictures that its metrics need."""
    lone = [metric for metric in study.metrics if metric in POINTWISE]
    if reference.dataset is None and lone and not reference.has_pictures:
        raise DifflabError(
            f"{study.name}: the metric {lone[0]!r} needs the reference's pictures, but {study.reference} holds "
            "statistics alone; give pictures, or an ADM reference batch."
        )


def check_features(study: Measuring, extractor: Extractor) -> None:
    """Raise DifflabError where a metric needs classes and the features tell none."""
    if "is" in study.metrics and not extractor.classifies:
        raise DifflabError(
            f"{study.name}: the metric 'is' needs features that tell classes, but {extractor.name} have no such head; "
            "leave it out."
        )


def check_truth(
    study: Measuring, model: str, side: int, classes: int | None, known: Sequence[str] = CLASSES, reads: bool = False
) -> None:
    """Raise DifflabError where a metric needs the truth checker, which cannot judge such a model."""
    asked = [metric for metric in TRUTH if metric in study.metrics]
    if asked and (study.reference != SHAPES or side != SCENE_SIDE):
        raise DifflabError(
            f"{study.name}: the metric {asked[0]!r} needs scenes of known truth; use it with the reference shapes and "
            f"a model of {SCENE_SIDE}x{SCENE_SIDE} pixels."
        )
    said = [metric for metric in asked if metric in SAID]
    if said and not reads:
        raise DifflabError(
            f"{study.name}: the metric {said[0]!r} needs a model that draws what captions say; {model} does not."
        )
    told = [metric for metric in asked if metric in ("accuracy", "direction")]
    if told == ["direction"] and reads:
        return
    if told and classes != len(known):
        raise DifflabError(
            f"{study.name}: the metric {told[0]!r} needs a model that is told the {len(known)} classes of shapes; "
            f"{model} is told {classes or 'none'}."
        )
