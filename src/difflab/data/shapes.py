"""`shapes`: a procedural world whose truth is known, drawn on the fly and never stored.

A scene has a background and one or two shapes. Each shape has a kind, a colour, a size and a place, one of nine, all of
them independent, but two shapes lie on opposite sides of the picture, so that they do not touch. The main shape is the
first in reading order. The class label is its (kind, colour); the caption names everything. So the world is finite, and
a caption determines its picture.

Scene i of seed s depends on (s, i) alone. Scenes are drawn from a table of antialiased masks, so that a batch costs a
few array operations. `recognise` goes the other way: one after the other it takes the shapes that explain most of a
picture, by comparing it with every shape the world can draw, and says whether they explain it well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np

from difflab.data.dataset import Item

KINDS = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 50, 47),
    "green": (40, 160, 70),
    "blue": (45, 95, 220),
    "yellow": (240, 200, 40),
    "purple": (150, 60, 180),
}
SIZES = {"small": 4.5, "large": 6.0}  # half the side of the bounding box, in pixels of a 32x32 image
BACKGROUNDS = {"black": (25, 25, 28), "grey": (128, 128, 128), "white": (243, 241, 236)}
ROWS = ("top", "", "bottom")
COLUMNS = ("left", "", "right")
CLASSES = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)

SCENE_SIDE = 32  # the world is defined at 32x32 pixels; other sizes scale it
_ANCHORS = (8, 16, 24)  # centres of the three rows and columns, in pixels
PHASES = 4  # masks are drawn for centres on quarter pixels
_BLOCK = 1024  # scenes that share one random stream
_DRAWS = 9  # uniform numbers a scene uses

PALETTE = np.array(list(COLOURS.values()), np.float32)
BACKGROUND = np.array(list(BACKGROUNDS.values()), np.float32)


@dataclass(frozen=True)
class Scenes:
    """N scenes as arrays; shape 1 of a scene with `count` 1 is meaningless.

    count (N,) 1 or 2; background (N,); kind, colour, size, row, column (N, 2): indices into the tables above;
    y, x (N, 2): centres in quarter pixels of a 32x32 image.
    """

    count: np.ndarray
    background: np.ndarray
    kind: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    row: np.ndarray
    column: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: np.ndarray | slice) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def labels(self) -> np.ndarray:
        """(N,) class labels, indices into `CLASSES`."""
        return self.kind[:, 0] * len(COLOURS) + self.colour[:, 0]

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64: equal where two scenes, and with them their pictures, are the same."""
        shape = self.kind * len(COLOURS) + self.colour
        shape = (shape * len(SIZES) + self.size) * len(ROWS) * len(COLUMNS) + self.row * len(COLUMNS) + self.column
        shape = np.where(np.arange(2) < self.count[:, None], shape + 1, 0)
        most = len(CLASSES) * len(SIZES) * len(ROWS) * len(COLUMNS) + 1
        return (shape[:, 0] * most + shape[:, 1]) * len(BACKGROUNDS) + self.background

    def captions(self) -> list[str]:
        """One sentence a scene."""
        return [self._caption(i) for i in range(len(self))]

    def _caption(self, i: int) -> str:
        things = " and ".join(self._thing(i, j) for j in range(self.count[i]))
        return f"{things} on a {list(BACKGROUNDS)[self.background[i]]} background"

    def _thing(self, i: int, j: int) -> str:
        size, colour = list(SIZES)[self.size[i, j]], list(COLOURS)[self.colour[i, j]]
        words = f"{ROWS[self.row[i, j]]} {COLUMNS[self.column[i, j]]}".strip()
        return f"a {size} {colour} {KINDS[self.kind[i, j]]} {f'at the {words}' if words else 'in the middle'}"


class Shapes:
    """The world as a data set of `count` images of `size` x `size` pixels.

    Args:
        size: side in pixels, a multiple of 8.
        count: number of scenes; indices beyond it are refused.
        seed: another seed is another draw of scenes from the same world.
    """

    def __init__(self, size: int = 32, count: int = 50_000, seed: int = 0) -> None:
        self.size, self.count, self.seed = size, count, seed
        self.description = f"shapes ({count} images of {size}x{size}, seed {seed})"
        self.classes = CLASSES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = sample_scenes(self.seed, np.array([index]))
        return Item(draw(scene, self.size)[0], int(scene.labels[0]), scene.captions()[0])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, size, size, 3) uint8 and labels (N,) of many scenes at once: the fast way."""
        scenes = sample_scenes(self.seed, indices)
        return draw(scenes, self.size), scenes.labels


@lru_cache(maxsize=1)
def world_fingerprint() -> str:
    """What tells whether this is still the same world: a hash of its words and of a thousand scenes."""
    digest = hashlib.sha256(repr((CLASSES, tuple(SIZES), MIN_MATCH, MAX_RESIDUAL)).encode())
    digest.update(Shapes().batch(np.arange(1000))[0].tobytes())
    return digest.hexdigest()[:16]


def sample_scenes(seed: int, indices: np.ndarray) -> Scenes:
    """The scenes with the given indices (N,); each depends on (seed, its index) alone."""
    return _scenes_from(uniforms(seed, indices, _DRAWS))


def uniforms(seed: int, indices: np.ndarray, draws: int, stream: int = 0) -> np.ndarray:
    """(N, draws) uniform numbers of the samples with these indices (N,), each by (seed, its index) alone.

    stream: the block at which this kind of sample begins; kinds that are far apart share no numbers.
    """
    indices = np.asarray(indices, np.int64)
    blocks, inverse = np.unique(indices // _BLOCK, return_inverse=True)
    table = [_block(seed, stream + int(block), draws) for block in blocks] or [np.empty((0, draws))]
    return np.stack(table)[inverse, indices % _BLOCK]


@lru_cache(maxsize=64)
def _block(seed: int, block: int, draws: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64))).random((_BLOCK, draws))


def _scenes_from(u: np.ndarray) -> Scenes:
    """Scenes (N,) from uniform numbers (N, 9)."""

    def pick(column: int, n: int) -> np.ndarray:
        return (u[:, column] * n).astype(np.int64)

    count = 1 + pick(0, 2)
    two = count == 2
    kind = np.stack([pick(2, len(KINDS)), pick(3, len(KINDS))], 1)
    colour = np.stack([pick(4, len(COLOURS)), pick(5, len(COLOURS))], 1)
    size = np.stack([pick(6, len(SIZES)), pick(7, len(SIZES))], 1)
    lone, pairs = pick(8, 9), place_pairs()
    place = np.where(two[:, None], pairs[pick(8, len(pairs))], np.stack([lone, lone], 1))
    row, column = place // 3, place % 3
    anchors = np.array(_ANCHORS) * PHASES
    return Scenes(
        count=count,
        background=pick(1, len(BACKGROUNDS)),
        kind=kind,
        colour=colour,
        size=size,
        row=row,
        column=column,
        y=anchors[row],
        x=anchors[column],
    )


def every_scene() -> tuple[Scenes, np.ndarray]:
    """All scenes of the world, those of one shape first, and their probabilities (N,), which sum to 1."""
    shape = [len(KINDS), len(COLOURS), len(SIZES)]
    lone = np.indices((len(BACKGROUNDS), 9, *shape)).reshape(5, -1)
    background, pair, *both = np.indices((len(BACKGROUNDS), len(place_pairs()), *shape, *shape)).reshape(8, -1)
    kind, colour, size = (
        np.concatenate([np.stack([lone[2 + i]] * 2, 1), np.stack([both[i], both[3 + i]], 1)]) for i in range(3)
    )
    place = np.concatenate([np.stack([lone[1]] * 2, 1), place_pairs()[pair]])
    anchors = np.array(_ANCHORS) * PHASES
    numbers = lone.shape[1], len(background)
    scenes = Scenes(
        count=np.repeat([1, 2], numbers),
        background=np.concatenate([lone[0], background]),
        kind=kind,
        colour=colour,
        size=size,
        row=place // 3,
        column=place % 3,
        y=anchors[place // 3],
        x=anchors[place % 3],
    )
    return scenes, np.repeat([0.5 / n for n in numbers], numbers)


@lru_cache(maxsize=1)
def place_pairs() -> np.ndarray:
    """(P, 2): the places (row * 3 + column) of two shapes on opposite sides, across or down, in reading order."""
    places = [(a, b) for a in range(9) for b in range(a + 1, 9)]
    return np.array([(a, b) for a, b in places if abs(a // 3 - b // 3) == 2 or abs(a % 3 - b % 3) == 2])


def draw(scenes: Scenes, size: int = 32) -> np.ndarray:
    """Pictures (N, size, size, 3) uint8 of N scenes."""
    background = BACKGROUND[scenes.background]  # (N, 3)
    image = np.broadcast_to(background[:, None, None, :], (len(scenes), size, size, 3)).copy()
    for j in range(2):
        mask = _masks(scenes, j, size)  # (N, size, size), 0 .. 1
        image += mask[..., None] * (PALETTE[scenes.colour[:, j]] - background)[:, None, None, :]
    image += 0.5  # round half up
    return image.astype(np.uint8)


def _masks(scenes: Scenes, j: int, size: int) -> np.ndarray:
    """Coverage (N, size, size) of shape `j` of each scene; zero where there is none."""
    windows, origin = mask_windows(size)
    scale = size / SCENE_SIDE
    y, x = (np.rint(c[:, j] * scale).astype(np.int64) for c in (scenes.y, scenes.x))
    kind = np.where(scenes.count > j, scenes.kind[:, j], len(KINDS))  # the last entry of the table is empty
    y_pixel, x_pixel = y // PHASES, x // PHASES
    return windows[kind, scenes.size[:, j], y % PHASES, x % PHASES, origin - y_pixel, origin - x_pixel]


@lru_cache(maxsize=4)
def mask_windows(size: int) -> tuple[np.ndarray, int]:
    """A view (kind, size, phase y, phase x, top, left, size, size) into masks drawn once on a double canvas.

    The mask's pixel (origin, origin) holds the shape's centre; the window that starts at origin - p shows it at p.
    """
    table = np.zeros((len(KINDS) + 1, len(SIZES), PHASES, PHASES, 2 * size, 2 * size), np.float32)
    for k, kind in enumerate(KINDS):
        for s, radius in enumerate(SIZES.values()):
            for py in range(PHASES):
                for px in range(PHASES):
                    centre = size + py / PHASES, size + px / PHASES
                    table[k, s, py, px] = _coverage(kind, radius * size / SCENE_SIDE, centre, 2 * size)
    return np.lib.stride_tricks.sliding_window_view(table, (size, size), axis=(4, 5)), size


def _coverage(kind: str, radius: float, centre: tuple[float, float], side: int, samples: int = 8) -> np.ndarray:
    """Share (side, side) of each pixel that lies inside the shape, by samples x samples points a pixel."""
    grid = (np.arange(side * samples) + 0.5) / samples
    y, x = (grid - centre[0])[:, None], (grid - centre[1])[None, :]
    inside = _inside(kind, y / radius, x / radius)
    return inside.reshape(side, samples, side, samples).mean((1, 3), dtype=np.float32)


def _inside(kind: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points, in units of the bounding box's half side and y downwards, lie inside the shape."""
    ax, ay = np.abs(x), np.abs(y)
    if kind == "circle":
        return x**2 + y**2 <= 1
    if kind == "square":
        return np.maximum(ax, ay) <= 0.88
    if kind == "triangle":  # apex up, base along the bottom of the box
        return (y <= 0.9) & (ax <= (y + 1) / 1.9)
    return ((ax <= 0.36) & (ay <= 1)) | ((ay <= 0.36) & (ax <= 1))  # cross


@dataclass(frozen=True)
class Recognition:
    """What `recognise` saw in N pictures.

    scenes: the explanation found for each picture; match (N,): how much of the energy of its worst-matched shape is
    explained, 1 is perfect; residual (N,): root mean square of what is left unexplained, in grey levels.
    """

    scenes: Scenes
    match: np.ndarray
    residual: np.ndarray

    @cached_property
    def valid(self) -> np.ndarray:
        """(N,) whether the picture is a scene of this world: every shape clear, and little else in the picture."""
        return (self.match >= MIN_MATCH) & (self.residual <= MAX_RESIDUAL) & self.lawful

    @cached_property
    def lawful(self) -> np.ndarray:
        """(N,) whether two shapes lie on opposite sides."""
        s = self.scenes
        apart = (np.abs(s.row[:, 0] - s.row[:, 1]) == 2) | (np.abs(s.column[:, 0] - s.column[:, 1]) == 2)
        return (s.count == 1) | apart


MIN_MATCH = 0.8
MAX_RESIDUAL = 14.0
_PRESENT = 0.5  # a second shape is there when it explains at least this share of its own energy


def recognise(images: np.ndarray, batch: int = 64) -> Recognition:
    """Explain pictures (N, 32, 32, 3) uint8 as scenes: the shape that explains most, then the one that explains most of
    the rest, each by an exhaustive search over all shapes the world can draw.

    Raises ValueError for pictures of another size.
    """
    if images.ndim != 4 or images.shape[1:] != (SCENE_SIDE, SCENE_SIDE, 3):
        raise ValueError(f"recognise takes pictures (N, 32, 32, 3), not {images.shape}")
    parts = [_recognise(images[i : i + batch]) for i in range(0, len(images), batch)]
    scenes = Scenes(**{f.name: np.concatenate([getattr(p.scenes, f.name) for p in parts]) for f in fields(Scenes)})
    return Recognition(scenes, *(np.concatenate([getattr(p, k) for p in parts]) for k in ("match", "residual")))


def _recognise(images: np.ndarray) -> Recognition:
    x = images.reshape(len(images), -1, 3).astype(np.float32)  # (N, P, 3)
    near = np.linalg.norm(x[:, :, None] - BACKGROUND, axis=-1) < 40.0  # (N, P, backgrounds)
    background = near.sum(1).argmax(1)
    rest = x - BACKGROUND[background][:, None]
    first = _best_shape(rest, background)
    after_first = rest - first.explained
    second = _best_shape(after_first, background)
    two = second.match >= _PRESENT
    left = after_first - np.where(two[:, None, None], second.explained, 0.0)
    shapes = [first, second]
    before = np.array([10_000, 100]) @ [first.parts[:, i] - second.parts[:, i] for i in (2, 3)] <= 0  # in reading order
    parts = np.stack([s.parts for s in shapes], 1)  # (N, 2, 5)
    parts = np.where((~two | before)[:, None, None], parts, parts[:, ::-1])
    kind, size, y, x_, colour = (parts[..., i] for i in range(5))
    scenes = Scenes(1 + two, background, kind, colour, size, _nearest_anchor(y), _nearest_anchor(x_), y, x_)
    match = np.where(two, np.minimum(first.match, second.match), first.match)
    return Recognition(scenes, match, np.sqrt((left**2).mean((1, 2))))


@dataclass(frozen=True)
class _Found:
    parts: np.ndarray  # (N, 5) kind, size, y, x, colour
    match: np.ndarray  # (N,)
    explained: np.ndarray  # (N, P, 3)


def _best_shape(rest: np.ndarray, background: np.ndarray) -> _Found:
    """The one shape that takes most energy out of `rest` (N, P, 3), the picture minus its background.

    Placing template m with colour difference d removes 2 <rest, m d> - |m|^2 |d|^2.
    """
    masks, parts = _templates()  # (M, P), (M, 4)
    difference = PALETTE[None] - BACKGROUND[background][:, None]  # (N, C, 3)
    along = np.einsum("npk,nck->ncp", rest, difference)
    correlation = along.reshape(-1, masks.shape[1]) @ masks.T
    energy = (masks**2).sum(1)[None, None] * (difference**2).sum(-1)[..., None]  # (N, C, M)
    gain = 2 * correlation.reshape(energy.shape) - energy
    best = gain.reshape(len(rest), -1).argmax(1)
    colour, m = np.divmod(best, len(masks))
    n = np.arange(len(rest))
    explained = masks[m][..., None] * difference[n, colour][:, None]
    return _Found(np.concatenate([parts[m], colour[:, None]], 1), gain[n, colour, m] / energy[n, colour, m], explained)


def placed_masks() -> np.ndarray:
    """(size, place, kind, 1024) float32: coverage of every shape the world can place in a 32x32 picture."""
    masks = _templates()[0].reshape(len(KINDS), len(SIZES), -1, SCENE_SIDE**2)
    return np.ascontiguousarray(masks.transpose(1, 2, 0, 3))


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """All masks (M, 1024) the world can place in a 32x32 picture, and their (kind, size, y, x) (M, 4)."""
    axis = np.array(_ANCHORS) * PHASES
    grid = np.meshgrid(np.arange(len(KINDS)), np.arange(len(SIZES)), axis, axis, indexing="ij")
    kind, size, y, x = (g.ravel() for g in grid)
    windows, origin = mask_windows(SCENE_SIDE)
    masks = windows[kind, size, y % PHASES, x % PHASES, origin - y // PHASES, origin - x // PHASES]
    return masks.reshape(len(kind), -1), np.stack([kind, size, y, x], 1)


def _nearest_anchor(position: np.ndarray) -> np.ndarray:
    anchors = np.array(_ANCHORS) * PHASES
    return np.abs(position[..., None] - anchors).argmin(-1)
