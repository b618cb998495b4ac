"""How a study was run, in words: what was varied and held fixed, with what model, on what machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from difflab.report import words
from difflab.study.learning import Learning
from difflab.study.result import Result
from difflab.study.spec import Study

_QUIET = (  # settings that are told only where they are not as usual
    "classes",
    "guidance",
    "guidance_channels",
    "guidance_low",
    "guidance_high",
    "guidance_rescale",
    "guidance_course",
)


def learning_setting(learning: Learning) -> dict[str, str]:
    """What was trained, drawn, scored and where, by the name of each fact."""
    study = learning.study
    drawn = {"sampler": study.draw.sampler, **study.draw.model_dump(exclude_defaults=True)}
    setting = {
        "Trained": f"{len(learning.variants)} variants of one recipe, {len(study.seeds)} seeds each, "
        f"{study.snapshots[-1]} steps of {study.recipe.get('batch', 128)} pictures",
        "Samples": ", ".join(words.setting(name, value) for name, value in drawn.items()),
        "Reference": study.reference,
    }
    if learning.floors:
        setting["Floor"] = _floor_text(learning)
    setting["Made by"] = f"difflab study run {study.name}"
    return {**setting, **_machine(learning)}


def study_setting(result: Result) -> dict[str, str]:
    """What was varied, what held fixed, with what and where, by the name of each fact."""
    study = result.study
    varied = [
        f"{name.replace('_', ' ')}: {', '.join(words.plain(value) for value in values)}"
        for name, values in study.axes.items()
    ]
    return {
        "Varied": "; ".join(varied),
        "Held fixed": ", ".join(_held(study)) or "nothing else",
        "Model": study.model,
        "Reference": reference_text(result),
        "Measured by": ", ".join(words.title(result, metric) for metric in result.metric_names),
        "Samples": f"{words.fixed(study.base.count, 0)} a cell, from seed {study.base.seed}"
        if "count" not in study.axes
        else "varied",
        **({"Floor": _floor_text(result)} if result.floors else {}),
        **_machine(result),
    }


def _held(study: Study) -> list[str]:
    """The settings that all cells have in common, those that are as usual left out where they tell nothing."""
    usual = type(study.base)().model_dump()
    follows = ("steps",) if "calls" in study.axes else ()  # they differ with the sampler
    base = {
        name: value
        for name, value in study.base.model_dump().items()
        if name not in (*study.axes, *follows)
        and name not in ("count", "seed")
        and not (name in _QUIET and value == usual[name])
    }
    return [words.setting(name, value) for name, value in base.items() if value is not None and value is not False]


def _machine(result: Result | Learning) -> dict[str, str]:
    told = [f"{name} {value}" for name, value in result.machine.items() if not isinstance(value, dict | list)]
    return {"Machine": ", ".join(told)} if told else {}


def reference_text(result: Result) -> str:
    """What samples are scored against: name, split, size."""
    split = f", split {result.study.split}" if result.study.split else ""
    n = result.passport.get("reference", {}).get("n")
    return f"{result.study.reference}{split}{f', {words.fixed(n, 0)} samples' if n else ''}"


def _floor_text(result: Result | Learning) -> str:
    told = [
        f"{words.unfeatured(result.metric_names[metric])} {' '.join(words.score_text(metric, score))}"
        for metric, score in result.floors.items()
        if metric not in words.SHARES
    ]
    return f"{words.listed(told)}, what as many real samples score, drawn apart from the reference" if told else "none"


def made_alike(result: Result) -> dict[str, str]:
    """A passport without what the study varies."""
    varied = {f"base / {name}".replace("_", " ") for name in (*result.study.axes, "count")}
    return {name: value for name, value in flat(result.passport) if name not in varied}


def made_unlike(results: Sequence[Result]) -> list[str]:
    """In what the studies' passports differ, so that a reader does not compare across them."""
    made = [made_alike(result) | {"samples a cell": str(result.study.base.count)} for result in results]
    names = sorted({name for one in made for name in one})
    unlike = [name for name in names if len({one.get(name) for one in made}) > 1]
    return [name.removeprefix("base / ").replace(" / ", " ") for name in unlike]


def flat(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as pairs of text: {"a": {"b": 1}} -> ("a / b", "1")."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name} / ")
        else:
            yield f"{above}{name}".replace("_", " "), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else words.plain(value) if isinstance(value, bool) else str(value)
