"""The shipped studies: presets/<scale>/<study>.yaml, and which of them make up a problem set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from difflab.errors import DifflabError, suggest
from difflab.study.learning import Learning, LearningStudy, parse_learning, read_learning
from difflab.study.spec import Study, parse_study, read_text
from difflab.validation import yaml_mapping

PROBLEM_SETS = {
    "ddim": ("ddim-steps", "ddim-eta", "ddim-grid"),
    "dit": ("dit-steps", "dit-cfg"),
    "vdm": ("vdm-steps", "vdm-frames", "vdm-extend"),
    "samplers": ("samplers",),
    "imagenet": ("ddim-imagenet",),  # no model of it ships, so it comes at the scales lab and paper alone
    "coco": ("dit-text-coco",),
    "ssv2": ("vdm-text-ssv2",),
}
LEARNING = {"dit": ("dit-conditioning",)}  # studies of trainings, which take longer than a demo: their record ships
SCALES = ("demo", "lab", "paper")


def problem_sets(name: str, scale: str = "demo") -> list[str]:
    """The problem sets that `name` stands for: itself, or all: the three, and at the demo's scale bonuses that ship.

    Raises DifflabError for an unknown name or scale.
    """
    _check_scale(scale)
    if name == "all" and scale != "demo":  # the bonuses need models and data that few have all of
        return list(PROBLEM_SETS)[:3]
    if name == "all":
        return [
            one for one, studies in PROBLEM_SETS.items() if all(_place(study, scale).is_file() for study in studies)
        ]
    if name not in PROBLEM_SETS:
        raise DifflabError(f"problem set {name!r} is not known.{suggest(name, [*PROBLEM_SETS, 'all'])}")
    return [name]


def studies_of(
    problem_set: str, scale: str, changes: Mapping[str, Any] | None = None, count: int | None = None
) -> list[Study]:
    """The studies of a problem set at a scale, with top-level fields and the samples a cell replaced if asked to."""
    _check_scale(scale)
    studies = [shipped_study(name, scale, changes) for name in PROBLEM_SETS[problem_set]]
    if count is None:
        return studies
    return [study.model_copy(update={"base": study.base.model_copy(update={"count": count})}) for study in studies]


def _check_scale(scale: str) -> None:
    if scale not in SCALES:
        raise DifflabError(f"scale {scale!r} is not known.{suggest(scale, SCALES)}")


def shipped_study(name: str, scale: str, changes: Mapping[str, Any] | None = None) -> Study:
    """One shipped study at a scale. Raises DifflabError where it does not come at that one."""
    place = _place(name, scale)
    if not place.is_file():
        others = [f"{other}/{name}" for other in SCALES if _place(name, other).is_file()]
        raise DifflabError(f"{name}: no study of that name ships at the scale {scale}; take {' or '.join(others)}.")
    return parse_study(place.read_text(encoding="utf-8"), f"{scale}/{name}.yaml", changes)


def recorded(problem_set: str) -> list[Learning]:
    """The records of the problem set's studies of trainings that ship."""
    paths = [
        resources.files("difflab") / "assets" / "learning" / f"{name}.json" for name in LEARNING.get(problem_set, ())
    ]
    return [read_learning(Path(str(path))) for path in paths if path.is_file()]


def find_study(source: Path) -> Study | LearningStudy:
    """A study from a file, or a shipped one by name (at the demo scale) or by scale/name."""
    if source.exists():
        return _either(read_text(source), str(source))
    learning = {name for names in LEARNING.values() for name in names}
    if (name := source.as_posix().removesuffix(".yaml")) in learning:
        return _either((_folder() / "demo" / f"{name}.yaml").read_text(encoding="utf-8"), name)
    names = [name for names in PROBLEM_SETS.values() for name in names]
    shipped = {f"{scale}/{name}": (name, scale) for scale in SCALES for name in names}
    shipped |= {name: (name, "demo") for name in names}
    if (key := source.as_posix().removesuffix(".yaml")) in shipped:
        return shipped_study(*shipped[key])
    there = [known for known, place in shipped.items() if _place(*place).is_file()]
    raise DifflabError(
        f"{source}: no such study file, and no shipped study of that name.{suggest(key, {*there, *learning})}"
    )


def _either(text: str, name: str) -> Study | LearningStudy:
    """A study of samples, or of trainings, which says so by its kind."""
    fields = yaml_mapping(text, name, "a study")
    return parse_learning(fields, name) if fields.get("kind") == "learning" else parse_study(text, name)


def _place(name: str, scale: str) -> Any:
    return _folder() / scale / f"{name}.yaml"


def _folder() -> Any:
    return resources.files("difflab.study") / "presets"
