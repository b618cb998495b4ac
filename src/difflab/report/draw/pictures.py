"""Samples drawn: sheets of pictures from common noise, with the names of rows and columns; clips play."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from difflab.report import words
from difflab.report.curves import curves, first_axis
from difflab.report.draw.canvas import MUTED, Film, blank, finished, styled
from difflab.report.nearest import Near
from difflab.study.result import Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TILE = 96
EDGE = 0.36  # inches for the names of rows
_CAPTION_EDGE, _CAPTION_LETTERS = 1.32, 22  # for captions, and letters of a line of such
_MOST_COLUMNS = 10


def strip(result: Result) -> str | None:
    """Samples from common noise: a row a sample, a column a value of the first axis, a block a setting of the others.

    None when no pictures were kept. Failed cells have no column.
    """
    blocks = _blocks(result)
    if not blocks:
        return None
    across = min(len(blocks), 2 if blocks[0].columns <= 5 else 1)
    side, head, gap = 0.82, 0.24 if len(blocks) == 1 else 0.5, 0.3
    columns = max(block.columns for block in blocks)
    edge = blocks[0].shown.edge
    block_height = head + side * max(block.shown.rows for block in blocks)
    width = across * (edge + columns * side) + (across - 1) * gap
    height = block_height * -(-len(blocks) // across)
    with styled():
        figure, films = blank(width, height), []
        for i, block in enumerate(blocks):
            left = (i % across) * (edge + columns * side + gap) + edge
            tall = side * block.shown.rows
            bottom = height - block_height * (i // across) - head - tall
            box = (left / width, bottom / height, block.columns * side / width, tall / height)
            axes = figure.add_axes(box)
            films += sheet(axes, block.shown)
            _heads(axes, block)
        return finished(figure, films)


def nearest(result: Result, near: Near) -> str:
    """Samples, and below each the training sample nearest to it."""
    pairs = zip(result.cell(near.row).pictures(len(near.pictures)), near.pictures, strict=True)
    shown = Shown([np.stack(pair) for pair in pairs], ["drawn", "trained\non"])
    width, height = EDGE + 0.82 * len(shown.columns), 0.82 * shown.rows
    with styled():
        figure = blank(width, height)
        films = sheet(figure.add_axes((EDGE / width, 0, 1 - EDGE / width, 1)), shown)
        return finished(figure, films)


def _evenly(rows: list[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


@dataclass(frozen=True)
class Shown:
    """Samples from common noise: for each cell the same ones, (n, H, W, 3), of clips (n, F, H, W, 3), and the names of
    their classes if known, or, told, their captions."""

    columns: list[np.ndarray]
    names: list[str]
    told: bool = False

    @property
    def edge(self) -> float:
        """Inches for the names."""
        return _CAPTION_EDGE if self.told else EDGE if self.names else 0.0

    @property
    def rows(self) -> int:
        return len(self.columns[0])


@dataclass(frozen=True)
class _Block:
    """One block of a strip: its name, its columns' heads and pictures."""

    name: str
    heads: list[str]
    shown: Shown

    @property
    def columns(self) -> int:
        return len(self.shown.columns)


def _blocks(result: Result) -> list[_Block]:
    along = first_axis(result)
    lines = curves([row for row in result.rows if not row.error and result.cell(row).chunks()], along)
    blocks = []
    for line in lines:
        kept = _evenly(line.rows, _MOST_COLUMNS)
        shown = common_pictures(result, kept, 4 if len(lines) == 1 else 2)
        if shown:
            first, *rest = (row.varied[along] for row in kept)
            heads = [words.setting(along, first), *map(words.plain, rest)]
            blocks.append(_Block(words.settings(line.setting), heads, shown))
    return blocks


def common_pictures(result: Result, rows: Sequence[Row], n: int) -> Shown | None:
    """At most n samples, the same ones of each cell: spread over the classes where these come in turn, else the first.

    None if some cell has no pictures.
    """
    if not rows or any(not result.cell(row).chunks() for row in rows):
        return None
    if result.captions:
        return _told_pictures(result, rows, n)
    names = _classes_in_turn(result)
    pictures = [result.cell(row).pictures(max(n, len(names))) for row in rows]
    if not (have := min(len(part) for part in pictures)):
        return None
    among = min(have, len(names)) if names else min(have, n)
    chosen = [round(i) for i in np.linspace(0, among - 1, min(n, among))]
    columns = [part[chosen].repeat(3, axis=-1) if part.shape[-1] == 1 else part[chosen] for part in pictures]
    return Shown(columns, [names[i].split(",")[0].replace(" ", "\n", 1) for i in chosen] if names else [])


def _told_pictures(result: Result, rows: Sequence[Row], n: int) -> Shown | None:
    """The first n samples of models that are told captions, beside these."""
    pictures = [result.cell(row).pictures(n) for row in rows]
    have = min(len(part) for part in pictures)
    names = [textwrap.fill(caption, _CAPTION_LETTERS) for caption in result.captions[:have]]
    return Shown([part[:have] for part in pictures], names, told=True) if have else None


def _classes_in_turn(result: Result) -> list[str]:
    """The names of the classes, if sample i of every cell is of the i-th, counted round."""
    in_turn = result.study.base.classes == "balanced" and "classes" not in result.study.axes
    return result.passport.get("model", {}).get("classes") or [] if in_turn else []


def sheet(axes: Axes, shown: Shown) -> list[Film]:
    """Columns of pictures with clear gaps, small pictures enlarged by whole pixels so that they stay sharp.

    Clips are drawn by no figure: they come back as a film that lies where the axes are.
    """
    axes.set_axis_off()
    for i, name in enumerate(shown.names):
        axes.annotate(
            name, (0.0, 1 - (i + 0.5) / shown.rows), xycoords="axes fraction", xytext=(-3, 0),
            textcoords="offset points", ha="right", va="center", rotation=0 if shown.told else 90,
            fontsize=7.5 if shown.told else 8.5, color=MUTED, multialignment="right" if shown.told else "center",
        )  # fmt: skip
    if shown.columns[0].ndim == 4:
        side = max(shown.columns[0].shape[1:3])
        tiles = _tiled(shown.columns, max(1, _TILE // side))
        axes.imshow(tiles, interpolation="none", aspect="auto", extent=(0, len(shown.columns), shown.rows, 0))
        return []
    length = max(column.shape[1] for column in shown.columns)
    frames = [  # a shorter clip waits in its last frame
        _tiled([column[:, min(t, column.shape[1] - 1)] for column in shown.columns], 1) for t in range(length)
    ]
    return [Film(axes.get_position().bounds, frames)]


def _tiled(columns: Sequence[np.ndarray], times: int) -> np.ndarray:
    """Columns of pictures (n, H, W, 3) as one RGBA picture, each enlarged so many times, with gaps between."""
    height, width = columns[0].shape[1:3]
    gap = max(2, times * max(height, width) // 24)
    tall, broad = height * times + gap, width * times + gap
    sheet = np.zeros((tall * len(columns[0]), broad * len(columns), 4), np.uint8)
    for j, column in enumerate(columns):
        for i, picture in enumerate(column):
            tile = picture.repeat(times, axis=0).repeat(times, axis=1)
            top, left = i * tall + gap // 2, j * broad + gap // 2
            sheet[top : top + height * times, left : left + width * times, :3] = tile
            sheet[top : top + height * times, left : left + width * times, 3] = 255
    return sheet


def _heads(axes: Axes, block: _Block) -> None:
    for j, head in enumerate(block.heads):
        _above(axes, head, (j + 0.5) / block.columns, 4, ha="center", fontsize=9.5)
    _above(axes, block.name, 0.0, 20, fontsize=10.5, fontweight="bold")


def _above(axes: Axes, text: str, place: float, lift: float, **look: Any) -> None:
    axes.annotate(text, (place, 1.0), xycoords="axes fraction", xytext=(0, lift), textcoords="offset points", **look)
