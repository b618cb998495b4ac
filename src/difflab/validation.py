"""What pydantic finds wrong with a user's values, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from difflab.errors import DifflabError, suggest

Validated = TypeVar("Validated", bound=BaseModel)


def validated(model: type[Validated], values: Any, where: str) -> Validated:
    """`values` as a `model`.

    Raises DifflabError that begins with `where` and names the first wrong field, with the nearest name if unknown.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise DifflabError(f"{where}: {_first_problem(error, model)}") from error


def plain_name(name: str, what: str) -> str:
    """`name`, which names a `what` (file, folder) and must not lead elsewhere. Raises ValueError, for validators."""
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise ValueError(f"name is {name!r}, but must name a {what}: letters, digits, '-', '_', '.', no '/'")
    return name


def yaml_mapping(text: str, name: str, what: str) -> dict[str, Any]:
    """The mapping in YAML `text`, which came from `name` and should be `what`, for example "a study".

    Raises DifflabError for anything else, with the line where reading stopped.
    """
    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that are none, brackets without end
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DifflabError(
            f"{name}: not YAML{line} ({problem}); indent with spaces and write `field: value`."
        ) from error
    if not isinstance(fields, dict):
        raise DifflabError(f"{name}: found {type(fields).__name__}, but {what} is a YAML mapping, `field: value`.")
    return fields


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    problems = error.errors()
    # A typo shows twice, as a missing field and as an unknown one; the unknown one is the one to name.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place = [str(part) for part in problem["loc"]]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"the field {name!r} is not known.{suggest(place[-1], _inner(model, place[:-1]).model_fields)}"
    if problem["type"] == "missing":
        return f"the field {name!r} is missing; add it."
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        ended = said if said.endswith(("?", ".")) else f"{said}."
        return f"{name}: {ended}" if name else ended
    subject = f"the field {name!r}" if name else "it"
    return f"{subject} is {problem['input']!r}: {said[0].lower()}{said[1:]}."


def _inner(model: type[BaseModel], place: Sequence[str]) -> type[BaseModel]:
    """The model of the group at `place`."""
    for part in place:
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))  # `Group` or `Group | None`
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model
