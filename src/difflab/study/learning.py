"""Trainings compared: variants of one recipe, several seeds each, scored as they learn. No torch here.

<root>/study.yaml                              the study, resolved
<root>/trainings/<variant>-seed<n>/            a training's folder, with snapshots/<step>.safetensors
<root>/points/<variant>-seed<n>-<step>.json    loss and scores of a snapshot, written last
<root>/cells/                                  its samples, as in any study
<root>/learning.json                           the record
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place
from difflab.study.result import Score
from difflab.study.spec import Metric, Settings
from difflab.validation import plain_name, validated

LEARNING_FILE = "learning.json"


class LearningStudy(BaseModel):
    """Variants of a recipe, trained alike.

    recipe: the fields of a diffusion recipe, without name, seed and steps; variants: name -> fields that it
    changes, with dots as in `difflab train`; seeds: of the trainings; snapshots: the steps at which it is measured,
    the last being its length; draw: how samples of a snapshot are drawn; reference, split, features, metrics: as in
    a study of samples; remark: what a reader should know beside the numbers; held_out: pictures that no training
    sees, on which all have their loss, with common timesteps and noise. Variants change neither the data nor how much
    of them is shown (see `learn.recipe_of`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["learning"]
    name: str
    question: str = ""
    remark: str = ""
    recipe: dict[str, Any]
    variants: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    seeds: Annotated[tuple[int, ...], MinLen(1)] = (0,)
    snapshots: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]
    draw: Settings = Settings()
    reference: str
    split: str | None = None
    features: str | None = None
    metrics: Annotated[tuple[Metric, ...], MinLen(1)] = ("fid",)
    held_out: Annotated[int, Gt(1)] = 512

    @field_validator("name")
    @classmethod
    def _name_is_a_folders(cls, name: str) -> str:
        return plain_name(name, "folder")

    @field_validator("variants")
    @classmethod
    def _variants_are_folders(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in variants:
            plain_name(name, "folder")
        return variants

    @model_validator(mode="after")
    def _snapshots_ascend(self) -> LearningStudy:
        if list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError(f"snapshots are {list(self.snapshots)}, but must ascend")
        return self


class Point(BaseModel):
    """A snapshot of a training: how many pictures it has seen, its loss on the held-out ones, its samples' scores."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seed: int
    step: int
    images: int
    loss: float
    scores: dict[Metric, Score]


class Variant(BaseModel):
    """What a variant is: its parameters, and the multiplications of a forward pass.

    Not the time of its trainings: they run one after another, on a machine that is not the same to all of them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    parameters: int
    macs: int


class Learning(BaseModel):
    """A study of trainings with its numbers. metric_names, floors, machine: as in `Result`."""

    study: LearningStudy
    metric_names: dict[Metric, str]
    variants: list[Variant]
    points: list[Point]
    floors: dict[Metric, Score] = {}
    machine: dict[str, Any] = {}

    def of(self, variant: str, step: int) -> list[Point]:
        """The points of all seeds of a variant at one step."""
        return [p for p in self.points if (p.variant, p.step) == (variant, step)]

    def save(self, folder: Place) -> None:
        """Write the record to `folder`."""
        files.write_text(folder / LEARNING_FILE, self.model_dump_json(indent=1) + "\n")


def parse_learning(fields: Mapping[str, Any], where: str) -> LearningStudy:
    """A study of trainings from the fields of its YAML."""
    return validated(LearningStudy, dict(fields), where)


def read_learning(path: Place) -> Learning:
    """The record in a file. Raises DifflabError for a damaged one."""
    try:
        return Learning.model_validate_json(files.read_bytes(path))
    except (OSError, ValidationError) as error:
        raise DifflabError(f"{path}: this is no record of trainings; run the study again to write it anew.") from error
