"""Studies as data: what they span, how they are read, how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from difflab.core.names import calls_a_step
from difflab.errors import DifflabError
from difflab.study.presets import PROBLEM_SETS, SCALES, find_study, problem_sets, shipped_study, studies_of
from difflab.study.spec import Settings, Study, key_of, read_study

NO_DEMO = ("ddim-imagenet",)

GOOD = """
name: s
model: m
reference: r
base: {steps: 10, count: 100}
axes: {eta: [0.0, 1.0], steps: [5, 10]}
"""


def _read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read_study(path)


def test_cells_are_all_combinations_last_axis_fastest(tmp_path: Path) -> None:
    study = _read(tmp_path, GOOD)
    assert [(c.eta, c.steps) for c in study.cells()] == [(0.0, 5), (0.0, 10), (1.0, 5), (1.0, 10)]
    assert {c.count for c in study.cells()} == {100}


def test_axes_hold_what_cells_hold(tmp_path: Path) -> None:
    """YAML reads 1e-1, without a dot, as text."""
    study = _read(tmp_path, GOOD.replace("eta: [0.0, 1.0], steps: [5, 10]", 'eta: [0, 1e-1], steps: ["5", 10]'))
    assert study.axes == {"eta": [0.0, 0.1], "steps": [5, 10]}
    assert [study.varied(cell) for cell in study.cells()][1:3] == [{"eta": 0.0, "steps": 10}, {"eta": 0.1, "steps": 5}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("axes:", "axs:"), "Did you mean 'axes'"),
        (("{steps: 10,", "{stps: 10,"), "Did you mean 'steps'"),
        (("{eta:", "{etta:"), "Did you mean 'eta'"),
        (("steps: [5, 10]", "steps: [0, 10]"), "steps"),
        (("eta: [0.0, 1.0]", "eta: [-0.5]"), "eta"),
        (("eta: [0.0, 1.0]", "eta: []"), "no values"),
        (("eta: [0.0, 1.0]", "eta: [1.0, 1.0]"), "twice"),
        (("steps: [5, 10]", 'steps: [5, "5"]'), "twice"),
        (("steps: [5, 10]", "steps: [true, 10]"), "true or false"),
        (("name: s", "nam: s"), "nam"),
        (("name: s", "name: [s"), "not YAML"),
        (("base: {", "base:\n\t{"), "not YAML"),
        (("name: s", "name: ../../s"), "must name a folder"),
        (("name: s", "name: s\nquestion: 2024-13-45"), "not YAML"),
        (("name: s", "name: s\nquestion: " + "[" * 3000), "not YAML"),
        (("name: s", "name: s\nmetrics: []"), "metrics"),
        (("model: m\n", ""), "'model' is missing"),
        (("{steps: 10,", "{sampler: ddpm,"), "only the sampler ddim has an eta"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(DifflabError) as caught:
        _read(tmp_path, GOOD.replace(*change))
    assert said in str(caught.value)
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [name for names in PROBLEM_SETS.values() for name in names if name not in NO_DEMO])
def test_shipped_studies_are_sound(scale: str, name: str) -> None:
    study = shipped_study(name, scale)
    assert study.name == name
    assert study.question.endswith("?")
    assert len({c.count for c in study.cells()}) == 1, "cells of one study use one n"


@pytest.mark.parametrize("scale", ["lab", "paper"])
@pytest.mark.parametrize("name", NO_DEMO)
def test_studies_of_models_that_do_not_ship_come_at_the_other_scales(scale: str, name: str) -> None:
    study = find_study(Path(f"{scale}/{name}"))
    assert isinstance(study, Study)
    assert (study.name, study.question[-1]) == (name, "?")
    for asked in (name, f"demo/{name}.yaml"):
        with pytest.raises(DifflabError, match=f"no study .* at the scale demo; take lab/{name} or paper/{name}"):
            find_study(Path(asked))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("base: {classifier_scale: 2.0, steps", "classifier_scale is 2, but no classifier is told"),
        ("classifier: c.pt\nbase: {steps", "classifier is c.pt, but no cell has a classifier_scale above 0"),
        ("classifier: c.pt\nbase: {classifier_scale: 0, steps", "but no cell has a classifier_scale above 0"),
        ("classifier: c.pt\nbase: {classifier_scale: -1, steps", "greater than or equal to 0"),
    ],
)
def test_a_classifier_and_its_scale_belong_together(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(DifflabError, match=said):
        _read(tmp_path, GOOD.replace("base: {steps", change))


def test_all_are_those_that_ship_at_the_scale() -> None:
    assert problem_sets("all", "paper") == ["ddim", "dit", "vdm"]
    with pytest.raises(DifflabError, match="scale 'labb' is not known"):
        problem_sets("all", "labb")
    assert problem_sets("all") == [name for name in PROBLEM_SETS if name != "imagenet"]
    with pytest.raises(DifflabError, match="take lab/ddim-imagenet or paper/ddim-imagenet"):
        studies_of("imagenet", "demo")


def test_problem_set_takes_changes() -> None:
    studies = studies_of("ddim", "paper", {"model": "x"}, count=3)
    assert {s.model for s in studies} == {"x"}
    assert {c.count for s in studies for c in s.cells()} == {3}


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(DifflabError, match="Did you mean 'demo'"):
        studies_of("ddim", "dem")
    with pytest.raises(DifflabError, match="Did you mean 'ddim-steps'"):
        find_study(Path("ddim-step"))


@pytest.mark.parametrize(
    ("calls", "sampler", "steps"), [(10, "ddim", 10), (9, "heun", 5), (10, "heun", 5), (1, "heun", 1)]
)
def test_calls_become_the_most_steps_that_they_pay_for(calls: int, sampler: str, steps: int) -> None:
    """Heun asks twice a step, but for the last one."""
    settings = Settings.model_validate({"sampler": sampler, "calls": calls})
    assert settings.steps == steps
    assert calls_a_step(settings.sampler) * steps - (calls_a_step(settings.sampler) - 1) <= calls


@pytest.mark.parametrize(
    "told",
    [
        {"base": {"calls": 3}, "axes": {"steps": [2, 20]}},
        {"axes": {"calls": [3], "steps": [2]}},
        {"base": {"calls": 10, "corrector": 0.1}, "axes": {"seed": [0]}},
    ],
)
def test_calls_beside_what_else_decides_them_are_refused(told: dict) -> None:
    with pytest.raises(ValidationError, match=r"both calls and steps|asks the network besides"):
        Study.model_validate({"name": "s", "model": "m", "reference": "shapes", **told})


def test_calls_are_an_axis_beside_samplers() -> None:
    study = Study(name="s", model="m", reference="shapes", axes={"calls": [4, 9], "sampler": ["ddim", "heun"]})
    assert [cell.steps for cell in study.cells()] == [4, 2, 9, 5]
    assert Study.model_validate(study.model_dump()) == study, "as it is written down and read again"


def test_key_ignores_order_and_sees_every_value() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})
