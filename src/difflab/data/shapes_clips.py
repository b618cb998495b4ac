"""Clips of the procedural world: one shape that moves straight on, bounces off the border, and never changes.

A clip has a background and a shape of some kind, colour and size, which moves in one of four directions, slowly or
fast, from a place where it does not bounce before the fourth frame. All are independent. The class label is its (kind,
direction); the caption names everything but the place. Clip i of seed s depends on (s, i) alone, and its first frames
do not depend on how many there are.

`recognise_clips` goes the other way: it finds the shape that explains a clip best, where it is in each frame, and says
whether shape and motion obey the rules.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np

from difflab.data.dataset import Item
from difflab.data.shapes import (
    BACKGROUND,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_RESIDUAL,
    MIN_MATCH,
    PALETTE,
    PHASES,
    SCENE_SIDE,
    SIZES,
    mask_windows,
    uniforms,
)

DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}  # (y, x)
SPEEDS = {"slowly": 1, "fast": 2}  # pixels of a 32x32 frame, a frame
CLASSES = tuple(f"{kind} moving {direction}" for kind in KINDS for direction in DIRECTIONS)

_NEAR, _FAR = 7, 25  # where centres turn back, in pixels
_ACROSS = (8, 16, 24)  # where they lie across their way
_FREE = 3  # frames before the first bounce
_DRAWS = 8  # uniform numbers a clip uses
_STREAM = 1 << 62  # apart from the streams of scenes
_TOLERANCE = 1.0  # pixels that a centre may be off its way

_WAYS = np.array(list(DIRECTIONS.values()))
_RATES = np.array(list(SPEEDS.values()))


@dataclass(frozen=True)
class Motions:
    """N clips as arrays (N,): indices into the tables above, and where the centre is in the first frame, in pixels."""

    background: np.ndarray
    kind: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    direction: np.ndarray
    speed: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def labels(self) -> np.ndarray:
        """(N,) class labels, indices into `CLASSES`."""
        return self.kind * len(DIRECTIONS) + self.direction

    def captions(self) -> list[str]:
        """One sentence a clip."""
        return [
            f"a {list(SIZES)[size]} {list(COLOURS)[colour]} {KINDS[kind]} moves {list(DIRECTIONS)[direction]} "
            f"{list(SPEEDS)[speed]} on a {list(BACKGROUNDS)[background]} background"
            for size, colour, kind, direction, speed, background in zip(
                self.size, self.colour, self.kind, self.direction, self.speed, self.background, strict=True
            )
        ]

    def centres(self, frames: int) -> np.ndarray:
        """(N, frames, 2) y and x of the centre in pixels of a 32x32 frame, with all bounces."""
        way = _WAYS[self.direction] * _RATES[self.speed][:, None]  # (N, 2)
        straight = np.stack([self.y, self.x], 1)[:, None] + np.arange(frames)[None, :, None] * way[:, None]
        moving = (way != 0)[:, None]
        return np.where(moving, _folded(straight), straight)


def _folded(place: np.ndarray) -> np.ndarray:
    """A straight way reflected at both ends of [_NEAR, _FAR]."""
    span = _FAR - _NEAR
    return _FAR - np.abs((place - _NEAR) % (2 * span) - span)


class ShapesClips:
    """The world's clips as a data set of `count` clips of `frames` frames of `size` x `size` pixels.

    Args:
        size: side in pixels, a multiple of 8.
        frames: of each clip.
        count: number of clips; indices beyond it are refused.
        seed: another seed is another draw of clips from the same world.
    """

    def __init__(self, size: int = 32, frames: int = 8, count: int = 50_000, seed: int = 0) -> None:
        self.size, self.frames, self.count, self.seed = size, frames, count, seed
        self.description = f"shapes ({count} clips of {frames} frames of {size}x{size}, seed {seed})"
        self.classes = CLASSES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.count:
            raise IndexError(index)
        motion = sample_motions(self.seed, np.array([index]))
        return Item(draw_clips(motion, self.frames, self.size)[0], int(motion.labels[0]), motion.captions()[0])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips (N, frames, size, size, 3) uint8 and labels (N,) of many at once: the fast way."""
        motions = sample_motions(self.seed, indices)
        return draw_clips(motions, self.frames, self.size), motions.labels


@lru_cache(maxsize=1)
def clips_fingerprint() -> str:
    """What tells whether this is still the same world: a hash of its words and of some hundred clips."""
    digest = hashlib.sha256(repr((CLASSES, tuple(SIZES), MIN_MATCH, MAX_RESIDUAL, _TOLERANCE)).encode())
    digest.update(ShapesClips().batch(np.arange(200))[0].tobytes())
    return digest.hexdigest()[:16]


def sample_motions(seed: int, indices: np.ndarray) -> Motions:
    """The clips with the given indices (N,); each depends on (seed, its index) alone."""
    u = uniforms(seed, indices, _DRAWS, _STREAM)

    def pick(column: int, n: int) -> np.ndarray:
        return (u[:, column] * n).astype(np.int64)

    direction, speed = pick(4, len(DIRECTIONS)), pick(5, len(SPEEDS))
    along = (u[:, 7] * (_room(speed) + 1)).astype(np.int64)
    y, x = _start(direction, along, pick(6, len(_ACROSS)))
    return Motions(
        pick(0, len(BACKGROUNDS)), pick(1, len(KINDS)), pick(2, len(COLOURS)), pick(3, len(SIZES)), direction, speed,
        y, x,
    )  # fmt: skip


def every_way() -> tuple[Motions, np.ndarray]:
    """All ways that a shape of any kind and size can move, W of them, and their probabilities (W,).

    The colours of shape and background, on which they do not depend, are the first.
    """
    choices = (len(KINDS), len(SIZES), len(DIRECTIONS), len(SPEEDS), len(_ACROSS), _FAR - _NEAR)
    kind, size, direction, speed, across, along = np.indices(choices).reshape(len(choices), -1)
    probability = 1 / (math.prod(choices[:-1]) * (_room(speed) + 1))
    y, x = _start(direction, along, across)
    colour = np.zeros_like(kind)
    possible = along <= _room(speed)
    ways = (colour, kind, colour, size, direction, speed, y, x)
    return Motions(*(values[possible] for values in ways)), probability[possible]


def _room(speed: np.ndarray) -> np.ndarray:
    """(N,) pixels by which a clip may begin later on its way, such that it still moves freely at first."""
    return _FAR - _NEAR - _FREE * _RATES[speed]


def _start(direction: np.ndarray, along: np.ndarray, across: np.ndarray) -> list[np.ndarray]:
    """y and x (N,) of the first centre, `along` pixels from where its way begins, the `across`th of its direction."""
    way = _WAYS[direction]
    begin = np.where(way.sum(1) > 0, _NEAR + along, _FAR - along)
    return [np.where(way[:, axis] != 0, begin, np.array(_ACROSS)[across]) for axis in (0, 1)]


def masks_of(motions: Motions, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The different masks (M, 32, 32) that the frames of some clips show, and which one each shows (N, frames)."""
    centres = motions.centres(frames)
    seen = np.stack(np.broadcast_arrays(motions.kind[:, None], motions.size[:, None], *np.moveaxis(centres, -1, 0)), -1)
    unlike, index = np.unique(seen.reshape(-1, 4), axis=0, return_inverse=True)
    masks = _masks(unlike[:, 0], unlike[:, 1], unlike[:, None, 2:])[:, 0]
    return masks, index.reshape(len(motions), frames)


def draw_clips(motions: Motions, frames: int, size: int = SCENE_SIDE) -> np.ndarray:
    """Clips (N, frames, size, size, 3) uint8."""
    mask = _masks(motions.kind, motions.size, motions.centres(frames), size)[..., None]
    ground = BACKGROUND[motions.background][:, None, None, None]
    image = ground + mask * (PALETTE[motions.colour][:, None, None, None] - ground)
    return (image + 0.5).astype(np.uint8)  # round half up


def _masks(kind: np.ndarray, size: np.ndarray, centres: np.ndarray, side: int = SCENE_SIDE) -> np.ndarray:
    """Coverage (N, F, side, side) of shapes with centres (N, F, 2) in pixels of a 32x32 frame."""
    windows, origin = mask_windows(side)
    quarter = np.rint(centres * (side / SCENE_SIDE) * PHASES).astype(np.int64)
    y, x = np.clip(quarter, 0, PHASES * side - 1).transpose(2, 0, 1)
    return windows[kind[:, None], size[:, None], y % PHASES, x % PHASES, origin - y // PHASES, origin - x // PHASES]


@dataclass(frozen=True)
class MotionRecognition:
    """What `recognise_clips` saw in N clips.

    motions: the explanation found for each clip; match (N,): of the worst frame, how much of the energy of the shape is
    explained, 1 is perfect; residual (N,): of the worst frame, root mean square of what is left, in grey levels;
    astray (N,): pixels by which the centre is at most off its way; moved (N,): whether it gets on at half the slow
    pace or more, without which its direction says nothing.
    """

    motions: Motions
    match: np.ndarray
    residual: np.ndarray
    astray: np.ndarray
    moved: np.ndarray

    @cached_property
    def valid(self) -> np.ndarray:
        """(N,) whether the clip is one of this world: the shape clear in every frame, and on its way."""
        clear = (self.match >= MIN_MATCH) & (self.residual <= MAX_RESIDUAL)
        return clear & (self.astray <= _TOLERANCE) & self.moved


def recognise_clips(clips: np.ndarray, batch: int = 32) -> MotionRecognition:
    """Explain clips (N, F, 32, 32, 3) uint8 of two frames or more as one moving shape.

    Raises ValueError for clips of another form.
    """
    if clips.ndim != 5 or clips.shape[2:] != (SCENE_SIDE, SCENE_SIDE, 3) or clips.shape[1] < 2:
        raise ValueError(f"recognise_clips takes clips (N, F, 32, 32, 3) of two frames or more, not {clips.shape}")
    parts = [_recognise(clips[i : i + batch].astype(np.float32)) for i in range(0, len(clips), batch)]
    motions = Motions(**{f.name: np.concatenate([getattr(p.motions, f.name) for p in parts]) for f in fields(Motions)})
    return MotionRecognition(
        motions,
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("match", "residual", "astray", "moved")),
    )


def _recognise(x: np.ndarray) -> MotionRecognition:
    near = np.linalg.norm(x[..., None, :] - BACKGROUND, axis=-1) < 40.0  # (N, F, 32, 32, backgrounds)
    background = near.sum((1, 2, 3)).argmax(1)
    rest = x - BACKGROUND[background][:, None, None, None]
    colour, cover = _coverage(rest, background)
    difference = (PALETTE[colour] - BACKGROUND[background])[:, None, None, None]
    n = np.arange(len(x))
    kinds, sizes = np.meshgrid(np.arange(len(KINDS)), np.arange(len(SIZES)), indexing="ij")
    gains, energies, centres, masks = [], [], [], []
    for kind, size in zip(kinds.ravel(), sizes.ravel(), strict=True):
        place = _centroids(cover) - _offset(kind, size)
        mask = _masks(np.full(len(x), kind), np.full(len(x), size), place)
        gains.append(((2 * cover - mask) * mask).sum((2, 3)))  # (N, F): what placing the shape takes from the energy
        energies.append((mask**2).sum((2, 3)))
        centres.append(place)
        masks.append(mask)
    best = np.stack([gain.sum(1) for gain in gains], 1).argmax(1)
    gain, energy, centre, mask = (np.stack(parts, 1)[n, best] for parts in (gains, energies, centres, masks))
    match = (gain / np.maximum(energy, 1e-6)).min(1)
    left = rest - mask[..., None] * difference
    residual = np.sqrt((left**2).mean((2, 3, 4))).max(1)
    direction, pace = _motion(centre)
    speed = np.abs(pace[:, None] - _RATES).argmin(1)
    kind, size = kinds.ravel()[best], sizes.ravel()[best]
    motions = Motions(background, kind, colour, size, direction, speed, centre[:, 0, 0], centre[:, 0, 1])
    astray = np.abs(motions.centres(x.shape[1]) - centre).max((1, 2))
    return MotionRecognition(motions, match, residual, astray, pace >= _RATES.min() / 2)


def _coverage(rest: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colour (N,) that explains most of what is not background, and how much of each pixel it covers."""
    difference = PALETTE[None] - BACKGROUND[background][:, None]  # (N, C, 3)
    energy = (difference**2).sum(-1)
    along = np.einsum("nfyxk,nck->ncfyx", rest, difference) / energy[:, :, None, None, None]
    cover = np.clip(along, 0.0, 1.0)
    gain = ((2 * along - cover) * cover).sum((2, 3, 4)) * energy
    colour = gain.argmax(1)
    return colour, cover[np.arange(len(rest)), colour]


def _centroids(cover: np.ndarray) -> np.ndarray:
    """(N, F, 2) y and x of the middle of what is covered, in pixels from the upper left corner of the frame."""
    cover = np.where(cover > 0.2, cover, 0.0)  # haze has no middle
    place = np.arange(SCENE_SIDE) + 0.5
    mass = np.maximum(cover.sum((2, 3)), 1e-6)
    y, x = (cover.sum(axis) @ place for axis in (3, 2))
    return np.stack([y, x], -1) / mass[..., None]


@lru_cache(maxsize=16)
def _offset(kind: int, size: int) -> np.ndarray:
    """From a shape's centre to its centroid."""
    middle = np.full((1, 1, 2), SCENE_SIDE / 2)
    return (_centroids(_masks(np.array([kind]), np.array([size]), middle)) - middle)[0, 0]


def _motion(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Direction (N,) and pace (N,), pixels a frame, of centres (N, F, 2), as they are before any bounce."""
    free = min(_FREE, centre.shape[1] - 1)
    moved = centre[:, free] - centre[:, 0]
    return (moved @ _WAYS.T).argmax(1), np.abs(moved).max(1) / free
