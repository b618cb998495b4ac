"""The language of `shapes`: what is said is true, what is true is understood, and what is false is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from difflab.data.captions import (
    ASPECTS,
    RELATIONS,
    WORDS,
    Claim,
    Thing,
    clip_captions,
    judge_clips,
    judge_scenes,
    read,
    scene_captions,
    tell_scenes,
)
from difflab.data.shapes import BACKGROUNDS, COLOURS, COLUMNS, KINDS, ROWS, SIZES, Scenes, sample_scenes
from difflab.data.shapes_clips import DIRECTIONS, SPEEDS, sample_motions
from difflab.errors import DifflabError

MANY = np.arange(3000)
TABLES = {"kind": KINDS, "colour": list(COLOURS), "size": list(SIZES)}


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return sample_scenes(4, MANY)


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return [read(text) for text in scene_captions(4, MANY)]


def holds(judged: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) whether all of what was claimed is so."""
    return np.all([judged[aspect] != 0 for aspect in ASPECTS], axis=0)


def told(claims: list[Claim], name: str) -> np.ndarray:
    """(N,) the first value that a thing of each claim is said to have, -1 where none is."""
    values = [[v for thing in claim.things if (v := getattr(thing, name)) is not None] for claim in claims]
    return np.array([said[0] if said else -1 for said in values])


def test_what_is_told_of_a_scene_is_true_of_it(scenes, claims):
    judged = judge_scenes(claims, scenes)
    assert holds(judged).all()
    assert (judged["objects"] == 1).all()
    for aspect in ("colour", "size", "place", "relation", "background"):
        assert 0.1 < (judged[aspect] == 1).mean() < 0.9, aspect  # sometimes told, sometimes not


def test_what_is_told_of_a_clip_is_true_of_it():
    judged = judge_clips([read(text) for text in clip_captions(4, MANY)], sample_motions(4, MANY), np.ones(len(MANY)))
    assert holds(judged).all()
    for aspect in ("kind", "direction"):
        assert (judged[aspect] == 1).all()
    for aspect in ("colour", "size", "background", "speed"):
        assert 0.1 < (judged[aspect] == 1).mean() < 0.9, aspect


def test_a_sentence_that_tells_all_is_read_as_all_there_is(scenes):
    for i, claim in enumerate(map(read, scenes.captions())):
        expected = [
            Thing(
                *(int(getattr(scenes, name)[i, j]) for name in TABLES), int(3 * scenes.row[i, j] + scenes.column[i, j])
            )
            for j in range(scenes.count[i])
        ]
        assert claim == Claim(tuple(expected), background=int(scenes.background[i]))
    motions = sample_motions(4, MANY)
    for i, claim in enumerate(map(read, motions.captions())):
        values = {name: int(getattr(motions, name)[i]) for name in ("background", "direction", "speed")}
        assert claim == Claim((Thing(*(int(getattr(motions, name)[i]) for name in TABLES)),), **values)


@pytest.mark.parametrize("aspect", ["kind", "colour", "size", "place"])
def test_a_scene_that_is_otherwise_in_one_aspect_is_seen_to_be(aspect, scenes, claims):
    """Both shapes get the same wrong value, so that no other order of them can save the sentence."""
    said = told(claims, aspect)
    if aspect == "place":
        wrong = (said + 1) % 9
        changed = replace(scenes, row=np.stack([wrong // 3] * 2, 1), column=np.stack([wrong % 3] * 2, 1))
    else:
        changed = replace(scenes, **{aspect: np.stack([(said + 1) % len(TABLES[aspect])] * 2, 1)})
    judged, rows = judge_scenes(claims, changed), said >= 0
    assert rows.sum() > 300
    assert (judged[aspect][rows] == 0).all()
    assert (judged[aspect][~rows] == -1).all()
    for other in set(ASPECTS) - {
        aspect,
        "relation",
    }:  # a place that is changed changes a relation, which is not told then
        assert (judged[other][rows] != 0).all(), other


def test_other_backgrounds_and_relations_and_numbers_of_shapes_are_seen(scenes, claims):
    before = judge_scenes(claims, scenes)
    middle = np.ones_like(scenes.row)
    one, two = scenes.count == 1, scenes.count == 2
    changes = {
        "background": (replace(scenes, background=(scenes.background + 1) % 3), before["background"] == 1),
        "relation": (replace(scenes, row=middle, column=middle), before["relation"] == 1),
        "objects": (replace(scenes, count=3 - scenes.count), one),
    }
    for aspect, (changed, rows) in changes.items():
        judged = judge_scenes(claims, changed)
        assert rows.sum() > 300
        assert (judged[aspect][rows] == 0).all()
        for other in set(ASPECTS) - {aspect}:  # so a claim of one thing fails of two by their number alone
            assert (judged[other][rows] != 0).all(), (aspect, other)
    assert (judge_scenes(claims, changes["objects"][0])["objects"][two] == 0).all()


@pytest.mark.parametrize("aspect", ["background", "kind", "colour", "size", "direction", "speed"])
def test_a_clip_that_is_otherwise_in_one_aspect_is_seen_to_be(aspect):
    motions, claims = sample_motions(4, MANY), [read(text) for text in clip_captions(4, MANY)]
    n = {"background": 3, "direction": 4, "speed": 2, **{name: len(table) for name, table in TABLES.items()}}[aspect]
    changed = replace(motions, **{aspect: (getattr(motions, aspect) + 1) % n})
    before, after = (judge_clips(claims, m, np.ones(len(MANY), bool)) for m in (motions, changed))
    assert (before[aspect] == 1).any()
    for name in ASPECTS:
        np.testing.assert_array_equal(after[name], np.where((name == aspect) & (before[name] == 1), 0, before[name]))


def test_a_clip_that_stands_still_moves_in_no_direction_and_at_no_speed():
    claims = [read("a red circle moves up slowly"), read("a red circle moves up slowly")]
    motions = replace(
        sample_motions(0, np.arange(2)),
        kind=np.zeros(2),
        colour=np.zeros(2),
        direction=np.full(2, 3),
        speed=np.zeros(2),
    )
    judged = judge_clips(claims, motions, np.array([True, False]))
    assert judged["direction"].tolist() == judged["speed"].tolist() == [1, 0]
    assert judged["kind"].tolist() == judged["colour"].tolist() == [1, 1]


def test_above_is_below_from_the_other_side(scenes):
    """And left of is right of; whatever the scene, both are true or neither."""
    draw = np.random.default_rng(0)
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    two = scenes[scenes.count == 2]
    names = draw.choice(list(RELATIONS), len(two))
    things = [
        tuple(f"a {KINDS[two.kind[i, j]]}" for j in draw.permutation(2)) for i in range(len(two))
    ]  # of the scene, so that the relation decides
    direct = [f"{a} {name} {b}" for (a, b), name in zip(things, names, strict=True)]
    mirrored = [f"{b} {opposite[name]} {a}" for (a, b), name in zip(things, names, strict=True)]
    longer = [text.replace(" left", " to the left").replace(" right", " to the right") for text in direct]
    found = [holds(judge_scenes([read(text) for text in said], two)) for said in (direct, mirrored, longer)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert 0.2 < found[0].mean() < 0.8


def test_above_is_above():
    """And only across the whole picture: a red circle at the top left, a blue one in the middle of the bottom."""
    scene = hand_made(colour=(0, 2), row=(0, 2), column=(0, 1))
    truth = {"a red circle above a blue circle": 1, "a blue circle above a red circle": 0,
             "a blue circle below a red circle": 1, "a red circle left of a blue circle": 0,
             "a circle above a circle": 1, "a circle right of a circle": 0}  # fmt: skip
    judged = judge_scenes([read(text) for text in truth], scene[np.zeros(len(truth), int)])
    assert holds(judged).tolist() == list(map(bool, truth.values()))


def test_two_things_are_found_in_either_order(scenes):
    two = scenes[scenes.count == 2]
    turned = replace(
        two, **{name: getattr(two, name)[:, ::-1] for name in ("kind", "colour", "size", "row", "column", "y", "x")}
    )
    claims = [read(text) for text in tell_scenes(two, 0, np.arange(len(two)))]
    backwards = [replace(c, things=c.things[::-1]) if c.relation is None else c for c in claims]
    for said in (claims, backwards):
        assert holds(judge_scenes(said, two)).all()
        assert holds(judge_scenes(said, turned)).all()


def test_two_things_are_not_both_found_in_one_shape():
    scene = hand_made(colour=(0, 2), row=(0, 2), column=(1, 1))
    for text in ("a red circle and a red circle", "a red circle at the top and a circle at the top"):
        assert not holds(judge_scenes([read(text)], scene)).any()


def hand_made(**values: tuple[int, int]) -> Scenes:
    """One scene of two small circles on black."""
    pair = {name: np.array([values.get(name, (0, 0))]) for name in ("kind", "colour", "size", "row", "column")}
    return Scenes(count=np.array([2]), background=np.array([0]), **pair, y=np.zeros((1, 2)), x=np.zeros((1, 2)))


@pytest.mark.parametrize("telling", [scene_captions, clip_captions])
def test_a_sentence_depends_on_seed_and_index_alone(telling):
    texts = telling(2, MANY)
    order = np.random.default_rng(0).permutation(len(MANY))[:50]
    assert telling(2, order) == [texts[i] for i in order]
    assert [telling(2, np.array([i]))[0] for i in order[:5]] == [texts[i] for i in order[:5]]
    assert telling(3, MANY[:50]) != texts[:50]
    assert len({len(text.split()) for text in texts}) > 5


@pytest.mark.parametrize("objects", [1, 2])
def test_scenes_of_so_many_shapes_are_told_of_as_such(objects):
    texts = scene_captions(5, np.arange(500), objects)
    assert {len(read(text).things) for text in texts} == {objects}
    assert scene_captions(5, np.array([400, 3]), objects) == [texts[400], texts[3]]
    assert scene_captions(5, np.array([], int), objects) == []


@pytest.mark.parametrize("objects", [0, 3])
def test_scenes_of_none_or_three_shapes_are_refused(objects):
    with pytest.raises(DifflabError, match=f"^scenes of {objects} shapes were asked for"):
        scene_captions(5, np.arange(3), objects)


def test_all_words_are_known_and_all_that_are_known_are_used():
    texts = scene_captions(1, MANY) + clip_captions(1, MANY)
    assert {word for text in texts for word in text.split()} == set(WORDS)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("a small red circle", Claim((Thing(0, 0, 0),))),
        ("a circle", Claim((Thing(0),))),
        ("a large cross", Claim((Thing(3, size=1),))),
        ("a red circle at the top left", Claim((Thing(0, 0, place=0),))),
        ("a circle at the top", Claim((Thing(0, place=1),))),
        ("a circle in the middle", Claim((Thing(0, place=4),))),
        ("a circle at the right", Claim((Thing(0, place=5),))),
        ("a circle at the bottom right", Claim((Thing(0, place=8),))),
        ("a circle above a large square", Claim((Thing(0), Thing(1, size=1)), "above")),
        ("a circle to the left of a square", Claim((Thing(0), Thing(1)), "left of")),
        ("a circle right of a square", Claim((Thing(0), Thing(1)), "right of")),
        ("a circle and a square", Claim((Thing(0), Thing(1)))),
        ("a circle at the left and a square at the right", Claim((Thing(0, place=3), Thing(1, place=5)))),
        ("a green triangle moves left slowly", Claim((Thing(2, 1),), direction=1, speed=0)),
        ("a triangle moves down", Claim((Thing(2),), direction=2)),
        ("a triangle moves up fast on a white background", Claim((Thing(2),), None, 2, 3, 1)),
        ("a circle below a square on a black background", Claim((Thing(0), Thing(1)), "below", 0)),
        ("  A  Red circle ON a grey background. ", Claim((Thing(0, 0),), background=1)),
    ],
)
def test_every_form_is_read(text, claim):
    assert read(text) == claim


def test_places_are_named_by_row_and_column():
    for row, vertical in enumerate(ROWS):
        for column, horizontal in enumerate(COLUMNS):
            where = f"at the {vertical} {horizontal}" if vertical or horizontal else "in the middle"
            assert read(f"a circle {' '.join(where.split())}").things[0].place == len(COLUMNS) * row + column


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a dog", "circle", "two red circles", "a red small circle", "a circle above", "above a circle",
        "a circle moves", "a circle moves left above a square", "a circle and a square and a cross",
        "a circle and a square moves left", "a circle on a red background", "a circle at the centre",
        "a circle a square", "a circle moves slowly left", "a red\ncircle, please",
    ],
)  # fmt: skip
def test_another_language_is_refused_in_one_sentence(text):
    with pytest.raises(DifflabError, match="no sentence about shapes; write such as") as told:
        read(text)
    assert "\n" not in str(told.value)


def test_tables_are_those_that_these_tests_take_them_for():
    """The numbers in the claims above."""
    assert (KINDS, tuple(COLOURS)[:3]) == (("circle", "square", "triangle", "cross"), ("red", "green", "blue"))
    assert (tuple(BACKGROUNDS), tuple(SIZES)) == (("black", "grey", "white"), ("small", "large"))
    assert (tuple(DIRECTIONS), tuple(SPEEDS)) == (("right", "left", "down", "up"), ("slowly", "fast"))
