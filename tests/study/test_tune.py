"""The search for settings: within its budget, on seeds of its own."""

from __future__ import annotations

import json

import pytest
from tests.zoo.dits import tiny_dit

from difflab.core.names import calls_a_step
from difflab.errors import DifflabError
from difflab.study.tune import CHOOSE, REPORT, SCREEN, candidates, tune
from difflab.zoo.draw import Draw, calls_of
from difflab.zoo.load import load

pytestmark = pytest.mark.filterwarnings("ignore:FD:UserWarning")


@pytest.mark.parametrize("budget", [2, 5, 10])
def test_no_candidate_asks_the_network_more_often_than_the_budget_allows(budget):
    model = tiny_dit(num_classes=20)
    found = candidates(model, budget, 16)
    assert found
    for one in found:
        calls = calls_of(model, Draw(one.sampler, one.steps, spacing=one.spacing))
        assert calls * (1 if one.guidance == 1.0 else 2) <= budget
        assert one.steps == (
            budget // (1 if one.guidance == 1.0 else 2) + calls_a_step(one.sampler) - 1
        ) // calls_a_step(one.sampler)


def test_models_that_know_no_classes_are_not_guided():
    assert {one.guidance for one in candidates(load("shapes-unet2d"), 4, 16)} == {1.0}


def test_seeds_of_choice_and_of_report_are_apart():
    assert not {SCREEN, CHOOSE} & set(REPORT)


def test_the_winner_is_the_best_of_the_finalists_and_reported_on_other_seeds(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("difflab.study.tune.SAMPLERS", ("ddim", "unipc"))
    monkeypatch.setattr("difflab.study.tune.GRIDS", ("trailing", "logsnr"))
    told = {"reference": parts["reference"], "features": parts["tiny-features"], "count": 12, "device": "cpu"}
    found = tune(parts["tiny"], 3, tmp_path / "search", **told)
    values = [value for _, value in found.finalists]
    assert values == sorted(values)
    best = found.finalists[0][0]
    assert {**found.winner.settings.model_dump(), "seed": CHOOSE} == best.model_dump()
    assert found.winner.settings.seed in REPORT
    assert found.winner.low <= found.winner.value <= found.winner.high
    record = json.loads((tmp_path / "search" / "tuned.json").read_text())
    assert record["reported on seeds"] == list(REPORT)
    again = tune(parts["tiny"], 3, tmp_path / "search", **told)  # everything is there already
    assert again == found


def test_a_budget_that_no_sampler_can_keep_is_refused(parts, tmp_path):
    with pytest.raises(DifflabError, match="at least 2 are needed"):
        tune(parts["tiny"], 1, tmp_path, reference="shapes")


def test_a_search_opens_its_model_once(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("difflab.study.tune.SAMPLERS", ("ddim",))
    monkeypatch.setattr("difflab.study.tune.GRIDS", ("logsnr",))
    opened = []
    monkeypatch.setattr("difflab.study.shelf.load", lambda *told, **more: (opened.append(told), load(*told, **more))[1])
    told = {"reference": parts["reference"], "features": parts["tiny-features"], "count": 8, "device": "cpu"}
    tune(parts["tiny"], 2, tmp_path, **told)
    assert len(opened) == 1
