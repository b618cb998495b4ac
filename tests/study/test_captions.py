"""Studies of models that are told captions: what samples are asked for, and whether it is there."""

from __future__ import annotations

import numpy as np
import pytest
from tests.study.conftest import cell_bytes

from difflab.data.captions import judge_scenes, read, scene_captions
from difflab.data.shapes import Shapes, draw, recognise, sample_scenes
from difflab.errors import DifflabError
from difflab.study.bench import CAPTIONS_SEED, captions_of
from difflab.study.run import run_study
from difflab.study.spec import SAID, Study
from difflab.study.truth import UNSAID, checked, spoken_of

pytestmark = pytest.mark.filterwarnings("ignore:FD:UserWarning")


def study(**changes) -> Study:
    fields = {
        "name": "told", "model": "shapes-t2i", "reference": "shapes",
        "base": {"sampler": "unipc", "steps": 3, "count": 12}, "axes": {"guidance": [1.0, 3.0]},
        "metrics": ["caption", "caption-one", "caption-two", "colour", "fid"], "keep": 4, "chunk": 5, "replicates": 20,
    }  # fmt: skip
    return Study.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run_study(study(), tmp_path_factory.mktemp("told"), device="cpu")


def test_every_cell_draws_the_same_captions_and_they_lie_beside_it(result):
    asked = scene_captions(CAPTIONS_SEED, np.arange(12))
    assert (result.path / "captions.txt").read_text().splitlines() == asked
    assert result.captions == asked[:4]
    for row in result.rows:
        assert "--prompts captions.txt" in row.command


def test_scores_are_what_the_checker_says_of_the_caption(result):
    claims = [read(caption) for caption in scene_captions(CAPTIONS_SEED, np.arange(12))]
    for row in result.rows:
        cell = result.cell(row)
        seen = judge_scenes(claims[:4], recognise(cell.pictures(4)).scenes)
        assert np.array_equal(cell.gather("colour")[:4], seen["colour"])
        every = cell.gather("caption")
        assert row.scores["caption"].value == every.mean()
        one, two = (cell.gather(f"caption-{n}") for n in ("one", "two"))
        assert np.array_equal(np.where(one == UNSAID, two, one), every)
        assert row.scores["caption-one"].n == sum(len(claim.things) == 1 for claim in claims)


def test_batches_and_a_second_run_change_nothing(result, tmp_path):
    run_study(study(), tmp_path, batch=2, device="cpu")
    assert cell_bytes(tmp_path).keys() == cell_bytes(result.path).keys()


def test_distances_have_a_floor_of_real_scenes_and_captions_need_none(result):
    assert result.floors.keys() == {"fid"}


def test_a_metric_that_no_caption_tells_is_refused(tmp_path):
    told = spoken_of(scene_captions(CAPTIONS_SEED, np.arange(2)))
    untold = next(m for m in ("relation", "caption-two", "caption-one", "place", "background") if m not in told)
    with pytest.raises(DifflabError, match=f"none of 2 captions tells what the metric '{untold}' looks for"):
        run_study(study(base={"steps": 2, "count": 2}, metrics=[untold]), tmp_path / "run", device="cpu")


def test_captions_speak_of_what_they_name():
    assert spoken_of(["a small circle"]) == {"caption", "caption-one", "objects", "kind", "size"}
    two = {"caption", "caption-two", "objects", "kind", "relation", "background"}
    assert spoken_of(["a circle above a square on a grey background"]) == two
    assert spoken_of(["a red cross moves up fast"]) == {"caption", "caption-one", "kind", "colour", "speed"}


def test_a_caption_decides_the_cell(result, monkeypatch, tmp_path):
    monkeypatch.setattr("difflab.study.bench.CAPTIONS_SEED", CAPTIONS_SEED + 1)
    other = run_study(study(), tmp_path, device="cpu")
    assert {row.key for row in other.rows}.isdisjoint(row.key for row in result.rows)


def test_every_aspect_is_checked_of_true_scenes_and_of_false_ones():
    scenes, rows = sample_scenes(5, np.arange(40)), np.arange(40)
    told = scene_captions(5, rows)
    right, wrong = checked(draw(scenes), captions=told), checked(draw(scenes), captions=told[::-1])
    assert set(SAID) - {"speed"} <= right.keys()
    for name in SAID:
        assert not (right[name] == 0).any(), name
        if name != "speed":
            assert (wrong[name] == 0).any(), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "shapes-dit"}, "needs a model that draws what captions say"),
        ({"metrics": ["accuracy"]}, "needs a model that is told the 20 classes"),
        ({"reference": "{}", "metrics": ["fid"]}, "draws what captions say, but the reference"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes, said, tmp_path):
    np.savez(tmp_path / "reference.npz", Shapes().batch(np.arange(16))[0])
    changes = {k: v.format(tmp_path / "reference.npz") if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(DifflabError, match=said) as caught:
        run_study(study(features="shapes-image", **changes), tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class _Told:
    """Ten items of three captions each, and five of none."""

    def __len__(self) -> int:
        return 15

    def captions_of(self, index: int) -> tuple[str, ...]:
        return () if index >= 10 else tuple(f"{index} {which}" for which in "abc")


def test_captions_of_a_data_set_are_one_of_each_of_some_items_at_random():
    told = captions_of(study(), _Told(), 8)
    items = [int(caption.split()[0]) for caption in told]
    assert len(set(items)) == 8
    assert items != sorted(items)
    assert len({caption.split()[1] for caption in told}) > 1
    assert told == captions_of(study(), _Told(), 8)
    with pytest.raises(DifflabError, match="12 samples need a caption each, but shapes has 10 items with such"):
        captions_of(study(), _Told(), 12)
