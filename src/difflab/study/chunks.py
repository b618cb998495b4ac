"""Cells are drawn in chunks: which there are, in what order, and how one is drawn."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np

from difflab.errors import DifflabError
from difflab.study.bench import Bench
from difflab.study.plan import Plan
from difflab.study.record import machine
from difflab.study.spec import Settings, key_of, parts_of
from difflab.study.truth import checked
from difflab.zoo.draw import labels_of


@dataclass(frozen=True)
class Chunk:
    """A part of a cell, drawn and stored as one: the number of its bench, the cell, its key, the number of the chunk,
    the indices of its samples, the bytes of memory that drawing takes."""

    bench: int
    settings: Settings
    key: str
    number: int
    rows: range
    memory: int = 0
    gpu: ClassVar[bool] = True


def chunks_in_turn(benches: Sequence[Bench]) -> Iterator[Chunk]:
    """The chunks of all cells of all studies, one of each cell in turn, in an order of its own within a turn.

    This is a randomised block design: one machine that slows down for a while slows no cell more than another.
    """
    for number, chunks in enumerate(zip_longest(*_of_cells(benches))):
        turn = [chunk for chunk in chunks if chunk is not None]
        yield from random.Random(number).sample(turn, len(turn))


def longest_first(benches: Sequence[Bench], plans: Sequence[Plan]) -> list[Chunk]:
    """The same chunks, those that take longest first: what many workers finish last should be short.

    plans: of the studies, in any unit of time that they have in common.
    """
    timed = [
        (task.seconds, replace(chunk, memory=int(plan.memory.needed)))
        for number, (bench, plan) in enumerate(zip(benches, plans, strict=True))
        for settings, cell in zip(bench.study.cells(), plan.cells, strict=True)
        for chunk, task in zip(_chunks(number, bench, settings), cell.chunks, strict=True)
    ]
    return [chunk for _, chunk in sorted(timed, key=lambda pair: -pair[0])]


def _of_cells(benches: Sequence[Bench]) -> list[list[Chunk]]:
    return [_chunks(number, bench, cell) for number, bench in enumerate(benches) for cell in bench.study.cells()]


def _chunks(number: int, bench: Bench, settings: Settings) -> list[Chunk]:
    key, parts = key_of(bench.decides(settings)), parts_of(settings.count, bench.study.chunk)
    return [Chunk(number, settings, key, n, rows) for n, rows in enumerate(parts)]


def draw(benches: Sequence[Bench], chunk: Chunk) -> None:
    """Draw a chunk if it is not there: another worker may have been given it, and have died after it was written.

    Raises DifflabError on a machine that sees another store than the one in which the cell was begun.
    """
    bench = benches[chunk.bench]
    cell = bench.store.at(chunk.key)
    if not cell.begun():
        raise DifflabError(
            f"{bench.store.root}: the machine {platform.node()} does not see the results of {bench.study.name} there; "
            "let --out be a folder that all machines share, or a bucket."
        )
    if not cell.has_chunk(chunk.number):
        cell.put_chunk(chunk.number, *_draw_chunk(bench, chunk.settings, chunk.rows))


def _draw_chunk(bench: Bench, settings: Settings, rows: range) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Features, kept pictures and truth of the samples with indices `rows`, and what drawing them cost."""
    bench.warm(settings)
    model = bench.model_of(settings)
    labels = labels_of(model, bench.draw(settings), settings.seed, rows)
    taps, views, truth, fits, pictures, seconds, sizes = [], [], [], [], [], [], []
    batches = bench.batches(settings, rows)
    have = rows.start
    while True:
        clock = time.perf_counter()
        images = next(batches, None)  # pixels on the CPU: the device has finished
        if images is None:
            break
        seconds.append(time.perf_counter() - clock)
        sizes.append(len(images))
        taps.append(bench.extractor.taps(images, bench.taps()))
        views.append(bench.viewed(images, have))
        pictures.append(images[: max(0, bench.study.keep - have)])
        told = bench.captions[have : have + len(images)]
        if bench.clip is not None:
            fits.append({"clipscore": bench.clip.cosines(images, told)})
        if bench.truth_known:
            begin = have - rows.start
            asked = None if labels is None else labels[begin : begin + len(images)].cpu().numpy()
            truth.append(checked(images, asked, told or None))
        have += len(images)
    arrays = {name: np.concatenate([getattr(part, name) for part in taps]) for name in sorted(bench.taps())}
    arrays["pictures"] = np.concatenate(pictures)
    arrays |= gathered(truth) | gathered(views) | gathered(fits)
    where = {
        "run": bench.shelf.run,
        "batch": min(bench.batch, bench.study.chunk),
        "machine": machine(bench.shelf.device),
    }
    each = [spent / size for spent, size in zip(seconds, sizes, strict=True)]
    return arrays, {"seconds": sum(seconds), "seconds per sample of a batch": each, "samples": len(rows), **where}


def gathered(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of batches, by name, as arrays of all."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
