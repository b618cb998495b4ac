"""Results read from their folders, in chapters. What a report is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.study.learning import LEARNING_FILE, Learning, read_learning
from difflab.study.presets import PROBLEM_SETS
from difflab.study.result import RESULT_FILE, Result, read_result


@dataclass(frozen=True)
class Chapter:
    """The studies of a problem set, whose written questions the report answers; None for studies of one's own.

    learnings: its studies of trainings.
    """

    problem_set: str | None
    results: Sequence[Result]
    learnings: Sequence[Learning] = ()


def load_chapters(root: Place | str) -> list[Chapter]:
    """The chapters below a folder of several problem sets, or the one that a study or a problem set makes.

    Raises DifflabError as `load_results` does.
    """
    root = place(root)
    if files.exists(root / LEARNING_FILE):
        return [Chapter(None, [], [read_learning(root / LEARNING_FILE)])]
    sets = [name for name in PROBLEM_SETS if _one_below(root / name, RESULT_FILE)]
    if sets:
        return [Chapter(name, load_results(root / name), _load_learnings(root / name)) for name in sets]
    results = load_results(root)
    names = {result.study.name for result in results}
    of = next((name for name, studies in PROBLEM_SETS.items() if set(studies[:2]) <= names), None)
    return [Chapter(of, results, _load_learnings(root))]


def load_results(root: Place | str) -> list[Result]:
    """The results of a study's folder, or of a problem set's, which has one folder a study.

    Shipped studies come in the order of their problem set, others after them, those with fewest axes first.

    Raises DifflabError when there is none, or one cannot be read.
    """
    root = place(root)
    here = [root / RESULT_FILE] if files.exists(root / RESULT_FILE) else []
    folders = [path.parent for path in (*here, *_one_below(root, RESULT_FILE))]
    if not folders:
        raise DifflabError(
            f"{root}: no {RESULT_FILE} here or one folder below; give the folder of a study that was run to its end."
        )
    order = [name for studies in PROBLEM_SETS.values() for name in studies]
    rank = {name: i for i, name in enumerate(order)}
    results = (_load(folder, root) for folder in folders)
    return sorted(results, key=lambda r: (rank.get(r.study.name, len(order)), len(r.study.axes)))


def _load_learnings(root: Place) -> list[Learning]:
    return [read_learning(path) for path in _one_below(root, LEARNING_FILE)]


def _one_below(root: Place, name: str) -> list[Place]:
    """The files of that name in the folders of `root`, in the order of these."""
    return [path for inner in sorted(files.names(root)) if files.exists(path := root / inner / name)]


def _load(folder: Place, root: Place) -> Result:
    try:
        return read_result(folder, root if files.exists(root / "cells") else folder)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DifflabError(
            f"{folder / RESULT_FILE}: this is no record of a study ({reason}); run the study again to write it anew."
        ) from error
