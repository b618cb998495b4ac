"""The language of `shapes`: sentences about scenes and clips, and whether a scene or clip is what a sentence says.

    a small red circle                                      one shape; size and colour may be left out
    a red circle at the top left                            .. where it is
    a circle above a large square                           two shapes; also below, left of, right of
    a circle at the left and a square at the right          .. each with its place
    a green triangle moves left slowly                      a clip
    .. on a white background                                may end any of them

What a sentence leaves out is not asked for. `tell_scenes` and `tell_clips` say true sentences of random form, `read`
goes the other way, and `judge_scenes` and `judge_clips` compare what was asked for with what a picture shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from difflab.data.shapes import BACKGROUNDS, COLOURS, COLUMNS, KINDS, ROWS, SIZES, Scenes, sample_scenes, uniforms
from difflab.data.shapes_clips import DIRECTIONS, SPEEDS, Motions, sample_motions
from difflab.errors import DifflabError

PLACES = tuple(f"at the {row} {column}".replace("  ", " ").strip() for row in ROWS for column in COLUMNS)
PLACES = tuple(place if place != "at the" else "in the middle" for place in PLACES)
RELATIONS = {"above": (1, 0), "below": (-1, 0), "left of": (0, 1), "right of": (0, -1)}  # from the first to the second
WORDS = tuple(sorted({
    word for phrase in (*KINDS, *COLOURS, *SIZES, *BACKGROUNDS, *PLACES, *RELATIONS, *DIRECTIONS, *SPEEDS,
                        "a and moves on background to") for word in phrase.split()
}))  # fmt: skip
ASPECTS = ("objects", "kind", "colour", "size", "place", "relation", "background", "direction", "speed")

_FORMS, _CLIP_FORMS = 1 << 61, 3 << 61  # streams of random numbers apart from those of scenes and clips
_DRAWS = 8

_SHAPE = rf"a (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(KINDS)})"
_THING = rf"{_SHAPE}(?: ({'|'.join(PLACES)}))?"
_BETWEEN = rf"(and|{'|'.join(RELATIONS)}|to the left of|to the right of)"
_GROUND = rf"(?: on a ({'|'.join(BACKGROUNDS)}) background)?"
_SCENE = re.compile(rf"{_THING}(?: {_BETWEEN} {_THING})?{_GROUND}")
_CLIP = re.compile(rf"{_SHAPE} moves ({'|'.join(DIRECTIONS)})(?: ({'|'.join(SPEEDS)}))?{_GROUND}")


@dataclass(frozen=True)
class Thing:
    """A shape as a sentence has it: indices into the world's tables, None where it is silent."""

    kind: int
    colour: int | None = None
    size: int | None = None
    place: int | None = None


@dataclass(frozen=True)
class Claim:
    """What a sentence asks for. relation: a key of `RELATIONS`, from the first thing to the second; direction: of a
    clip; others are indices into the world's tables, None where it is silent."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: int | None = None
    direction: int | None = None
    speed: int | None = None


def read(caption: str) -> Claim:
    """What a sentence asks for. Raises DifflabError for one that is not of this language."""
    text = " ".join(caption.lower().rstrip(". ").split())
    if clip := _CLIP.fullmatch(text):
        *thing, direction, speed, ground = clip.groups()
        return Claim((_thing([*thing, None]),), None, _index(BACKGROUNDS, ground), _index(DIRECTIONS, direction),
                     _index(SPEEDS, speed))  # fmt: skip
    if scene := _SCENE.fullmatch(text):
        *parts, ground = scene.groups()
        between = parts[4]
        things = (_thing(parts[:4]),) if between is None else (_thing(parts[:4]), _thing(parts[5:]))
        relation = None if between in (None, "and") else between.removeprefix("to the ")
        return Claim(things, relation, _index(BACKGROUNDS, ground))
    raise DifflabError(
        f"{caption!r} is no sentence about shapes; write such as 'a small red circle above a large blue square', or of "
        "clips 'a green triangle moves left'."
    )


def _thing(words: Sequence[str | None]) -> Thing:
    size, colour, kind, place = words
    found = _index(KINDS, kind)
    assert found is not None
    return Thing(found, _index(COLOURS, colour), _index(SIZES, size), _index(PLACES, place))


def _index(names: Iterable[str], word: str | None) -> int | None:
    return None if word is None else list(names).index(word)


def tell_scenes(scenes: Scenes, seed: int, indices: np.ndarray) -> list[str]:
    """A true sentence about each scene, of a form that depends on (seed, its index) alone."""
    forms = uniforms(seed, indices, _DRAWS, _FORMS)
    return [_tell_scene(scenes, i, u) for i, u in enumerate(forms)]


def _tell_scene(s: Scenes, i: int, u: np.ndarray) -> str:
    ground = f" on a {list(BACKGROUNDS)[s.background[i]]} background" if u[0] < 0.5 else ""
    how = [(bool(u[1 + 2 * j] < 0.8), bool(u[2 + 2 * j] < 0.8)) for j in range(2)]  # is size told, is colour
    names = [_name(int(s.kind[i, j]), int(s.colour[i, j]), int(s.size[i, j]), *how[j]) for j in range(s.count[i])]
    places = [PLACES[s.row[i, j] * len(COLUMNS) + s.column[i, j]] for j in range(s.count[i])]
    if s.count[i] == 1:
        return names[0] + (f" {places[0]}" if u[5] < 0.5 else "") + ground
    if u[5] < 0.25:
        return f"{names[0]} {places[0]} and {names[1]} {places[1]}{ground}"
    order = (0, 1) if u[6] < 0.5 else (1, 0)
    if u[5] < 0.35:
        return f"{names[order[0]]} and {names[order[1]]}{ground}"
    relation = _relation(s, i, order, u[7])
    if relation.endswith(" of") and u[5] < 0.65:
        relation = f"to the {relation}"
    return f"{names[order[0]]} {relation} {names[order[1]]}{ground}"


def _relation(s: Scenes, i: int, order: tuple[int, int], u: float) -> str:
    """One of the relations, perhaps two, that hold from one shape to the other: those across the whole picture."""
    a, b = order
    between = int(s.row[i, b] - s.row[i, a]), int(s.column[i, b] - s.column[i, a])
    true = [name for name, step in RELATIONS.items() if _relates(step, *between)]
    return true[int(u * len(true))]


def _relates(step: tuple[int, int], rows: int, columns: int) -> bool:
    """Whether one shape lies at the other side of the picture, in this direction, from another one."""
    return rows * step[0] + columns * step[1] == 2


def _name(kind: int, colour: int, size: int, tells_size: bool, tells_colour: bool) -> str:
    words = ["a", list(SIZES)[size] if tells_size else "", list(COLOURS)[colour] if tells_colour else "", KINDS[kind]]
    return " ".join(word for word in words if word)


def tell_clips(motions: Motions, seed: int, indices: np.ndarray) -> list[str]:
    """A true sentence about each clip, of a form that depends on (seed, its index) alone."""
    forms = uniforms(seed, indices, _DRAWS, _CLIP_FORMS)
    return [_tell_clip(motions, i, u) for i, u in enumerate(forms)]


def _tell_clip(m: Motions, i: int, u: np.ndarray) -> str:
    name = _name(int(m.kind[i]), int(m.colour[i]), int(m.size[i]), bool(u[1] < 0.8), bool(u[2] < 0.8))
    pace = f" {list(SPEEDS)[m.speed[i]]}" if u[3] < 0.5 else ""
    ground = f" on a {list(BACKGROUNDS)[m.background[i]]} background" if u[0] < 0.5 else ""
    return f"{name} moves {list(DIRECTIONS)[m.direction[i]]}{pace}{ground}"


def scene_captions(seed: int, indices: np.ndarray, objects: int | None = None) -> list[str]:
    """Sentences about the scenes with these indices; with `objects`, about ones of so many shapes, 1 or 2."""
    indices = np.asarray(indices, np.int64)
    if objects not in (None, 1, 2):
        raise DifflabError(f"scenes of {objects} shapes were asked for, but a scene has 1 or 2; choose one of these.")
    if objects is not None:
        indices = _of_count(seed, objects, int(indices.max(initial=-1)) + 1)[indices]
    return tell_scenes(sample_scenes(seed, indices), seed, indices)


def _of_count(seed: int, objects: int, count: int) -> np.ndarray:
    """(count,) indices of the first scenes of so many shapes, which are about half of all."""
    looked = 4 * count + 64
    found = np.flatnonzero(sample_scenes(seed, np.arange(looked)).count == objects)
    return found[:count] if len(found) >= count else _of_count(seed, objects, 2 * count)[:count]


def clip_captions(seed: int, indices: np.ndarray) -> list[str]:
    """Sentences about the clips with these indices."""
    return tell_clips(sample_motions(seed, indices), seed, indices)


def judge_scenes(claims: Sequence[Claim], scenes: Scenes) -> dict[str, np.ndarray]:
    """For each aspect (N,) int8: 1 where a scene is what its claim says, 0 where it is not, -1 where it says nothing.

    Where a claim has two things, they stand for the scene's shapes in the way that makes most of it true.
    """
    rows = [_judge_scene(claim, scenes, i) for i, claim in enumerate(claims)]
    return _columns(rows)


def _judge_scene(claim: Claim, s: Scenes, i: int) -> dict[str, bool]:
    orders = [(0, 1), (1, 0)] if s.count[i] == 2 else [(0,)]
    found = [_matched(claim, s, i, order) for order in orders]
    return max(found, key=lambda said: sum(said.values()))


def _matched(claim: Claim, s: Scenes, i: int, order: Sequence[int]) -> dict[str, bool]:
    """What of a claim is true if its things are the scene's shapes in this order."""
    enough = len(order) >= len(claim.things)
    pairs = list(zip(claim.things, order, strict=False))
    place = s.row[i] * len(COLUMNS) + s.column[i]
    said = {"objects": int(s.count[i]) == len(claim.things)}
    for name, values in (("kind", s.kind[i]), ("colour", s.colour[i]), ("size", s.size[i]), ("place", place)):
        told = [(wanted, int(values[j])) for thing, j in pairs if (wanted := getattr(thing, name)) is not None]
        if told or any(getattr(thing, name) is not None for thing in claim.things):
            said[name] = enough and all(wanted == value for wanted, value in told)
    if claim.relation is not None:
        a, b = (order[0], order[1]) if len(order) == 2 else (0, 0)
        between = int(s.row[i, b] - s.row[i, a]), int(s.column[i, b] - s.column[i, a])
        said["relation"] = enough and _relates(RELATIONS[claim.relation], *between)
    if claim.background is not None:
        said["background"] = int(s.background[i]) == claim.background
    return said


def judge_clips(claims: Sequence[Claim], motions: Motions, moved: np.ndarray) -> dict[str, np.ndarray]:
    """For each aspect (N,) int8, as `judge_scenes`; a clip that has not `moved` (N,) moves in no direction."""
    rows = []
    for i, claim in enumerate(claims):
        thing = claim.things[0]
        wanted = {"kind": thing.kind, "colour": thing.colour, "size": thing.size, "background": claim.background,
                  "direction": claim.direction, "speed": claim.speed}  # fmt: skip
        said = {name: int(getattr(motions, name)[i]) == value for name, value in wanted.items() if value is not None}
        for name in ("direction", "speed"):
            if name in said:
                said[name] = said[name] and bool(moved[i])
        rows.append(said)
    return _columns(rows)


def _columns(rows: Sequence[dict[str, bool]]) -> dict[str, np.ndarray]:
    return {name: np.array([int(row[name]) if name in row else -1 for row in rows], np.int8) for name in ASPECTS}
