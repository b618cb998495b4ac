from __future__ import annotations

import json

import pytest

from difflab.errors import DifflabError
from difflab.report.page import Chapter, build_book
from difflab.study.learn import recipe_of, run_learning
from difflab.study.learning import LEARNING_FILE, parse_learning, read_learning
from difflab.study.presets import find_study, recorded

FIELDS = {
    "kind": "learning",
    "name": "tiny-learning",
    "recipe": {
        "family": "dit", "variance": "learned", "batch": 4, "save_every": 1, "ema_rate": 0.5,
        "network": {
            "input_size": 32, "patch_size": 8, "in_channels": 3, "hidden_size": 16, "depth": 1, "num_heads": 2,
            "num_classes": 20,
        },
        "data": {"source": "shapes", "flip": False}, "optim": {"name": "adamw", "lr": 1e-2},
    },
    "variants": {"zero": {}, "in context": {"network.conditioning": "in-context"}},
    "seeds": [0, 1],
    "snapshots": [1, 2],
    "draw": {"sampler": "ddim", "steps": 2, "count": 8, "classes": "balanced"},
    "reference": "shapes",
    "metrics": ["fid", "accuracy"],
    "held_out": 8,
}  # fmt: skip


class Stop(Exception):
    """Stands for a crash."""


@pytest.fixture
def study():
    return parse_learning(FIELDS, "tiny")


@pytest.mark.filterwarnings("ignore:FD:UserWarning")
def test_every_snapshot_of_every_training_is_measured_also_after_a_kill(study, tmp_path):
    def stop(name: str, progress) -> None:
        if name == "in-context-seed0" and progress is not None and progress.step == 1:
            raise Stop

    with pytest.raises(Stop):
        run_learning(study, tmp_path / "cut", device="cpu", watch=stop)
    cut = run_learning(study, tmp_path / "cut", device="cpu")
    whole = run_learning(study, tmp_path / "whole", device="cpu")
    assert len(whole.points) == 8
    assert {(p.variant, p.seed, p.step, p.images) for p in whole.points} == {
        (v, s, t, 4 * t) for v in FIELDS["variants"] for s in (0, 1) for t in (1, 2)
    }
    assert [p.model_dump() for p in cut.points] == [p.model_dump() for p in whole.points]
    assert len({p.loss for p in whole.points}) == 8
    assert whole.variants[0].parameters > whole.variants[1].parameters
    assert read_learning(tmp_path / "whole" / LEARNING_FILE) == whole
    page = build_book([Chapter(None, [], [whole])], tmp_path / "report").read_text()
    assert "Differences of held-out loss from zero, seed by seed: in context" in page


def test_losses_at_the_start_do_not_depend_on_the_design(study):
    """All designs answer nothing at first, so their losses differ by their learning alone."""
    recipes = [recipe_of(study, variant, 0) for variant in study.variants]
    assert [r.network.conditioning for r in recipes] == ["adaln-zero", "in-context"]
    assert recipes[0].seed == recipes[1].seed
    assert recipes[0].name == "zero-seed0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"snapshots": [2, 1]}, "must ascend"),
        ({"variants": {}}, "variants"),
        ({"variants": {"a/b": {}}}, "must name a folder"),
        ({"recipes": {}}, "'recipes' is not known"),
    ],
)
def test_what_is_wrong_is_told(changes, words):
    with pytest.raises(DifflabError, match=words):
        parse_learning({**FIELDS, **changes}, "tiny")


def test_a_variant_that_is_no_recipe_is_told_before_any_is_trained(tmp_path):
    study = parse_learning({**FIELDS, "variants": {"good": {}, "bad": {"network.depht": 2}}}, "tiny")
    with pytest.raises(DifflabError, match=r"tiny-learning, bad: network: has no field 'depht'.*depth"):
        run_learning(study, tmp_path)
    assert not (tmp_path / "trainings").exists()


def test_the_shipped_study_parses_and_its_record_is_whole():
    from pathlib import Path

    study = find_study(Path("dit-conditioning"))
    for variant in study.variants:
        recipe_of(study, variant, 0)
    for learning in recorded("dit"):
        assert learning.study == study
        assert len(learning.points) == len(study.variants) * len(study.seeds) * len(study.snapshots)
        assert json.loads(learning.model_dump_json())["machine"]
