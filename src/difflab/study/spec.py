"""What a study asks for: a base setting, the axes that vary, the cells they span. No torch here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator, model_validator

from difflab import files
from difflab.core.names import Course, SamplerName, Spacing, calls_a_step
from difflab.errors import DifflabError, suggest
from difflab.places import Place
from difflab.validation import plain_name, validated, yaml_mapping

Metric = Literal[
    "fid", "kid", "is", "precision", "recall", "density", "coverage", "valid", "accuracy",
    "fvd", "fvd-window", "fvd-last", "fvd-frozen", "fvd-shuffled", "kvd", "fid-frames", "direction",
    "caption", "caption-one", "caption-two", "objects", "kind", "colour", "size", "place", "relation", "background",
    "speed", "clipscore",
]  # fmt: skip
# Ways to look at clips: their first or last frames, all of them spoilt as a control, or single ones.
View = Literal["window", "last", "frozen", "shuffled", "frames"]
VIEWS: dict[Metric, View] = {
    "fvd-window": "window", "fvd-last": "last", "fvd-frozen": "frozen", "fvd-shuffled": "shuffled",
    "fid-frames": "frames",
}  # fmt: skip
# What the truth checker says: of samples, of samples of a class, of samples of a caption.
SAID: tuple[Metric, ...] = (
    "caption", "caption-one", "caption-two", "objects", "kind", "colour", "size", "place", "relation", "background",
    "speed",
)  # fmt: skip
TRUTH: tuple[Metric, ...] = ("valid", "accuracy", "direction", *SAID)
Scalar = int | float | str | bool | None


class Settings(BaseModel):
    """One setting of the sampler and the count: what a cell varies. See `zoo.draw.Draw` for the sampler's part.

    calls: network calls a sample at most, in the place of steps, which are then as many as that allows; guidance, which
    makes each call twice, is not counted.

    For models that are told classes: classes: `random` by seed and index, or `balanced`, in turn; guidance: its scale,
    1 is off; guidance_channels, guidance_low, guidance_high, guidance_rescale, guidance_course: see `core.guidance`.

    gamma, corrector: see `zoo.draw.Draw`; classifier_scale: of the study's classifier, 0 or None is none.

    frames: of clips, None is as many as the model was trained on; extend: to how many frames they are then
    continued, block by block, each of which begins with the last `overlap` frames before it, with `reconstruction` as
    the weight of their agreement, 1 when left out (see `zoo.clips.extend`); count: samples a cell; seed: of their
    noise, common to all cells unless it is an axis.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: SamplerName = "ddim"
    steps: Annotated[int, Gt(0)] = 50
    calls: Annotated[int, Gt(0)] | None = None
    eta: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    spacing: Spacing | None = None
    official_grid: bool = False
    clip: bool | None = None
    classes: Literal["random", "balanced"] = "random"
    guidance: Annotated[float, Ge(0.0)] = 1.0
    guidance_channels: Annotated[int, Gt(0)] | None = None
    guidance_low: Annotated[float, Ge(0.0)] = 0.0
    guidance_high: Annotated[float, Gt(0.0)] | None = None
    guidance_rescale: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    guidance_course: Course = "constant"
    gamma: Annotated[float, Ge(0.0), Le(1.0)] | None = None
    corrector: Annotated[float, Ge(0.0), Le(1.0)] | None = None
    classifier_scale: Annotated[float, Ge(0.0)] | None = None
    frames: Annotated[int, Gt(0)] | None = None
    extend: Annotated[int, Gt(0)] | None = None
    overlap: Annotated[int, Gt(0)] | None = None
    reconstruction: Annotated[float, Ge(0.0)] | None = None
    seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    count: Annotated[int, Gt(1)] = 1000

    @model_validator(mode="before")
    @classmethod
    def _steps_follow_from_calls(cls, fields: Any) -> Any:
        calls = fields.get("calls") if isinstance(fields, dict) else None
        if not isinstance(calls, int):
            return fields
        return {**fields, "steps": steps_within(calls, fields.get("sampler", "ddim"))}

    @model_validator(mode="before")
    @classmethod
    def _extensions_have_a_weight(cls, fields: Any) -> Any:
        told = isinstance(fields, dict) and fields.get("extend") is not None and fields.get("reconstruction") is None
        return {**fields, "reconstruction": 1.0} if told else fields

    @model_validator(mode="after")
    def _calls_are_the_samplers(self) -> Settings:
        if self.calls is not None and (self.corrector or self.extend):
            more = "corrector" if self.corrector else "extend"
            raise ValueError(f"calls is {self.calls}, but {more} asks the network besides; tell steps instead of calls")
        return self

    @model_validator(mode="after")
    def _eta_is_ddims(self) -> Settings:
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta is {self.eta:g}, but only the sampler ddim has an eta")
        return self

    @model_validator(mode="after")
    def _overlap_is_of_extensions(self) -> Settings:
        if (self.extend is None) != (self.overlap is None):
            raise ValueError("extend and overlap belong together, but one is missing; give both, or neither")
        if self.extend is None and self.reconstruction is not None:
            raise ValueError(
                "reconstruction is told, but nothing is extended; give extend and overlap, or leave it out"
            )
        return self


class Study(BaseModel):
    """A base setting and axes. The axis that comes first is the one the report plots along; others become curves.

    name: of the study and its folder; question: what it asks, in words; remark: what a reader should know of how it
    was set; model: zoo name or path; config: of a checkpoint that does not say; classifier: a noisy
    classifier, by name or path, that guides cells with a classifier_scale; reference: data set name, folder,
    archive, lmdb or statistics .npz; split: of a reference that has several; stride, fps: how clips are taken from
    its films, as the model was trained when left out (see `data.clips.Window`); features: the network that FD is
    measured with, None chooses (see `features.choose_features`); metrics: `fid` (called FD unless the features are
    Inception's), `kid`, `is`, `precision`, `recall`, `density`, `coverage` and, on `shapes`, `valid` and
    `accuracy`, whether a scene is of the class asked for, or of models of captions `caption`, whether all that the
    caption says is there, `caption-one` and `caption-two` of captions of one and of two shapes, and one for each
    aspect, such as `colour`; of clips `fvd` and `kvd` (called FD and KID unless the features are I3D's),
    `fvd-window`, of the first `window` frames alone, so that clips of different lengths compare, `fvd-last`, of the
    last ones against the last ones of real clips as long, `fvd-frozen` and `fvd-shuffled`, the controls that tell
    whether motion is seen, `fid-frames`, of one frame of each clip, which sees no motion, and on `shapes`
    `direction`, whether a clip moves where it was asked to; clip: the CLIP of `clipscore`, of models of captions, a
    folder or hub id (see `score.clipscore`); skip_broken: pass over pictures of the reference that cannot be
    decoded; keep: samples kept as pictures; nearest: how many of these, of the cell with the most network calls,
    are shown beside the training samples nearest to them; chunk: samples written at a time; replicates: of the
    bootstrap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str = ""
    remark: str = ""
    model: str
    config: str | None = None
    classifier: str | None = None
    reference: str
    split: str | None = None
    stride: Annotated[int, Gt(0)] | None = None
    fps: Annotated[float, Gt(0.0)] | None = None
    features: str | None = None
    base: Settings = Settings()
    axes: dict[str, list[Scalar]]
    metrics: Annotated[tuple[Metric, ...], MinLen(1)] = ("fid",)
    window: Annotated[int, Gt(1)] | None = None
    clip: str = "openai/clip-vit-base-patch32"
    skip_broken: bool = False
    keep: Annotated[int, Ge(0)] = 64
    nearest: Annotated[int, Ge(0)] = 0
    chunk: Annotated[int, Gt(0)] = 250
    replicates: Annotated[int, Gt(1)] = 200

    @field_validator("name")
    @classmethod
    def _name_is_a_folders(cls, name: str) -> str:
        return plain_name(name, "folder")

    @field_validator("metrics")
    @classmethod
    def _metrics_differ(cls, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        return tuple(dict.fromkeys(metrics))

    @field_validator("axes")
    @classmethod
    def _axes_are_settings(cls, axes: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        if not axes:
            raise ValueError("axes is empty, but a study needs at least one setting to vary")
        for name, values in axes.items():
            if name not in Settings.model_fields:
                raise ValueError(f"axis {name!r} is not a setting.{suggest(name, Settings.model_fields)}")
            if not values:
                raise ValueError(f"axis {name!r} has no values")
        found = {name: [_as_setting(name, value) for value in values] for name, values in axes.items()}
        for name, values in found.items():
            if len(set(values)) != len(values):
                raise ValueError(f"axis {name!r} has a value twice")
        return found

    @model_validator(mode="before")
    @classmethod
    def _calls_or_steps(cls, fields: Any) -> Any:
        base, axes = (fields.get(name) for name in ("base", "axes")) if isinstance(fields, dict) else (None, None)
        told = [part for part in (base, axes) if isinstance(part, dict)]
        if any(part.get("calls") is not None for part in told) and isinstance(axes, dict) and "steps" in axes:
            raise ValueError("both calls and steps are told, but steps follow from calls; tell one of them")
        return fields

    @model_validator(mode="after")
    def _what_it_needs_is_told(self) -> Study:
        if self.nearest > self.keep:
            raise ValueError(f"nearest is {self.nearest}, but only {self.keep} samples are kept; keep as many")
        needs = [metric for metric in self.metrics if metric in ("fvd-window", "fvd-last")]
        if needs and self.window is None:
            raise ValueError(
                f"window is missing, but the metric {needs[0]} needs the number of frames that it looks at"
            )
        return self

    @model_validator(mode="after")
    def _cells_are_sound(self) -> Study:
        scales = [cell.classifier_scale or 0.0 for cell in self.cells()]
        if self.classifier is None and any(scales):
            raise ValueError(
                f"classifier_scale is {max(scales):g}, but no classifier is told; add one, or leave the scale out"
            )
        if self.classifier is not None and not any(scales):
            raise ValueError(
                f"classifier is {self.classifier}, but no cell has a classifier_scale above 0; give one in base or axes"
            )
        return self

    def cells(self) -> list[Settings]:
        """All combinations of the axes' values, the last axis varying fastest."""
        base = self.base.model_dump()
        combinations = itertools.product(*self.axes.values())
        return [Settings(**{**base, **dict(zip(self.axes, values, strict=True))}) for values in combinations]

    def varied(self, settings: Settings) -> dict[str, Scalar]:
        """The values of the axes in one cell."""
        return {name: getattr(settings, name) for name in self.axes}


def _as_setting(name: str, value: Scalar) -> Scalar:
    """A value of an axis as cells have it: YAML reads 1e-1 as text. Raises ValueError for one that cannot be."""
    field = Settings.model_fields[name]
    if isinstance(value, bool) and field.annotation is not bool and bool not in get_args(field.annotation):
        raise ValueError(f"axis {name!r} has the value {value}, true or false; quote it if a word was meant")
    try:
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(f"axis {name!r} has the value {value!r}: {said[0].lower()}{said[1:]}") from error


def parts_of(count: int, size: int) -> list[range]:
    """The indices of `count` samples in chunks of `size`; the last may be smaller."""
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def steps_within(calls: int, sampler: str) -> int:
    """The most steps that ask the network at most `calls` times; a step that asks it twice does so but for the last.

    Raises ValueError where no step is that cheap.
    """
    if calls < 1:
        raise ValueError(f"calls is {calls}, but a step asks the network at least once")
    each = calls_a_step(sampler)
    return (calls + each - 1) // each


def key_of(decides: Mapping[str, Any]) -> str:
    """The name of a result: 16 hex digits of the hash of everything that decides its numbers."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def read_study(path: Place, overrides: Mapping[str, Any] | None = None) -> Study:
    """A study from YAML, with top-level fields replaced by `overrides`.

    Raises DifflabError naming the file and the field that is wrong.
    """
    return parse_study(read_text(path), str(path), overrides)


def read_text(path: Place) -> str:
    """The text of a study's file. Raises DifflabError if it cannot be read."""
    try:
        return files.read_bytes(path).decode("utf-8")
    except OSError as error:
        raise DifflabError(
            f"{path}: the study cannot be read ({error.strerror}); give the path of a YAML file."
        ) from error
    except UnicodeDecodeError as error:
        raise DifflabError(f"{path}: this is not a text file; a study is a YAML file.") from error


def parse_study(text: str, name: str, overrides: Mapping[str, Any] | None = None) -> Study:
    """A study from YAML text that came from `name`; see `read_study`."""
    fields = yaml_mapping(text, name, "a study")
    return validated(Study, {**fields, **(overrides or {})}, name)
