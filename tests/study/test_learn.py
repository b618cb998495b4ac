from __future__ import annotations

import json

import numpy as np
import pytest

from difflab.data.shapes import Shapes
from difflab.errors import DifflabError
from difflab.report.page import Chapter, build_book
from difflab.study.learn import _held_out, held_out_loss, recipe_of, run_learning
from difflab.study.learning import LEARNING_FILE, parse_learning, read_learning
from difflab.study.presets import find_study, recorded
from difflab.study.reference import FRESH_SEED
from difflab.train.objective import DiffusionObjective
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint

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
    assert "Held-out loss at the end, means of 2 seeds: " in page


def test_an_untrained_network_has_the_same_loss_in_every_design(study, tmp_path):
    """All designs answer nothing at first, so their losses differ by their learning alone; and that loss is known.

    The error of a zero answer is mean(eps^2) = 1 up to the draw; the bound comes on top.
    """
    losses = []
    for variant in study.variants:
        recipe = recipe_of(study, variant, 0)
        network = DiffusionObjective(recipe).build()
        path = tmp_path / f"{variant}.safetensors"
        card = Card(
            name="untrained", family="dit", network=recipe.network, schedule=recipe.schedule, variance=recipe.variance
        )
        save_checkpoint(path, card, network.state_dict())
        losses.append(held_out_loss(study, recipe, path))
    assert losses[0] == losses[1]
    assert 0.9 < losses[0] < 1.5


def test_held_out_scenes_are_none_of_the_trainings_and_none_twice():
    fields = {**FIELDS, "held_out": 300, "snapshots": [2000], "recipe": {**FIELDS["recipe"], "batch": 32}}
    study = parse_learning(fields, "tiny")
    held_out = _held_out(study, recipe_of(study, "zero", 0)).pictures
    seen = {picture.tobytes() for picture in Shapes(32, 64_000, 0).batch(np.arange(64_000))[0]}
    assert len({picture.tobytes() for picture in held_out} - seen) == len(held_out) == 300
    fresh = Shapes(32, 300, FRESH_SEED).batch(np.arange(300))[0]
    assert sum(picture.tobytes() in seen for picture in fresh) > 150  # why it matters


def test_more_held_out_scenes_than_are_left_is_told_before_any_training(tmp_path):
    study = parse_learning({**FIELDS, "held_out": 60_000, "snapshots": [1_000_000]}, "tiny")
    with pytest.raises(DifflabError, match=r"only \d+ scenes were found that 1000000 steps of 4 do not show"):
        run_learning(study, tmp_path)
    assert not (tmp_path / "trainings").exists()


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


@pytest.mark.parametrize("change", [{"batch": 8}, {"steps": 3}, {"data.seed": 1}, {"seed": 4}, {"name": "x"}])
def test_variants_keep_to_equal_budgets(change):
    study = parse_learning({**FIELDS, "variants": {"good": {}, "bad": change}}, "tiny")
    with pytest.raises(DifflabError, match=f"tiny-learning, bad: changes {next(iter(change))}, but variants compare"):
        recipe_of(study, "bad", 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "nothing-here"}, "nothing-here"),
        ({"features": "nothing"}, "'nothing' are not known"),
        ({"variants": {"few": {"network.num_classes": 19}}}, "classes"),
    ],
)
def test_what_measuring_would_miss_is_told_before_any_training(changes, words, tmp_path):
    with pytest.raises(DifflabError, match=words):
        run_learning(parse_learning({**FIELDS, **changes}, "tiny"), tmp_path)
    assert not (tmp_path / "trainings").exists()


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
