"""What a study needs before anyone starts it: network calls, operations, seconds of a GPU, memory, disk.

Nothing of the study has to be there: networks are counted on the meta device (`study.outline`), machines by what was
measured on them (`study.cards`), or by a short try of the one at hand (`study.trial`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from difflab.errors import DifflabError
from difflab.score.adm import REFERENCE_POINTS
from difflab.study.bench import draw_of
from difflab.study.cards import Throughput, card_of, throughput_of
from difflab.study.disk import kept_of, reference_bytes, result_bytes
from difflab.study.outline import Outline, sketch
from difflab.study.scoring_cost import scoring_seconds
from difflab.study.spec import Scalar, Settings, Study, parts_of
from difflab.study.trial import measured_here
from difflab.zoo.draw import calls_of

OPERATIONS = Throughput("cpu", 1.0, 1.0, 1.0, None, "one operation a second")  # where only ratios of times count
_CONTEXT = 0.6 * 2**30  # bytes that CUDA and its libraries take before any tensor, an assumption


@dataclass(frozen=True)
class ChunkTask:
    """What a worker does at once: number of the chunk in its cell, samples, seconds of one GPU, bytes it leaves."""

    number: int
    samples: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class CellPlan:
    """One cell.

    varied: its values of the axes; calls: of the network a sample, a guided step makes two; flops: of all its samples,
    decoder and features included; sampling, features: seconds of one GPU; scoring: seconds of one CPU thread; record:
    bytes beside the chunks.
    """

    settings: Settings
    varied: dict[str, Scalar]
    calls: int
    flops: float
    sampling: float
    features: float
    scoring: float
    record: int
    chunks: tuple[ChunkTask, ...]

    @property
    def seconds(self) -> float:
        """Seconds of one GPU, scoring left out."""
        return self.sampling + self.features

    @property
    def seconds_per_chunk(self) -> float:
        """Of its first chunk, a full one."""
        return self.chunks[0].seconds

    @property
    def bytes(self) -> int:
        """What the cell takes in the store."""
        return self.record + sum(chunk.bytes for chunk in self.chunks)


@dataclass(frozen=True)
class Memory:
    """Bytes that a worker needs on its GPU: weights of all networks, the most that values take at once, and what CUDA
    takes; available: of the GPU."""

    weights: int
    values: int
    context: float
    available: float | None

    @property
    def needed(self) -> float:
        return self.weights + self.values + self.context

    @property
    def fits(self) -> bool:
        """Whether that is there; where it is not known, it is taken to be."""
        return self.available is None or self.needed <= self.available


@dataclass(frozen=True)
class Plan:
    """What a study needs on one kind of machine.

    batch: samples at a time; gflop: 10^9 operations of the network for a sample and a call; reference: bytes of what is
    kept of the reference; notes: sentences about what is assumed and left out.
    """

    study: Study
    throughput: Throughput
    batch: int
    gflop: float
    cells: tuple[CellPlan, ...]
    memory: Memory
    reference: int
    notes: tuple[str, ...]

    @cached_property
    def gpu_seconds(self) -> float:
        """Seconds of one GPU for all cells, scoring left out."""
        return sum(cell.seconds for cell in self.cells)

    @property
    def flops(self) -> float:
        return sum(cell.flops for cell in self.cells)

    @property
    def scoring(self) -> float:
        """Seconds of one CPU thread."""
        return sum(cell.scoring for cell in self.cells)

    @property
    def bytes(self) -> int:
        """What the study leaves on disk, its report left out."""
        return self.reference + sum(cell.bytes for cell in self.cells)

    def chunk_seconds(self) -> list[float]:
        """Seconds of all chunks of all cells."""
        return [chunk.seconds for cell in self.cells for chunk in cell.chunks]

    def wall(self, gpus: int) -> float:
        """Seconds until the last chunk is drawn by so many GPUs (see `makespan`), scoring left out."""
        return makespan(self.chunk_seconds(), gpus)


def makespan(tasks: Iterable[float], workers: int) -> float:
    """When the last task ends, where the longest one left always goes to the worker that is free first.

    No schedule is shorter than 3/4 of that (Graham 1969: at most 4/3 - 1 / (3 workers) times the best). Raises
    DifflabError for fewer than one worker.
    """
    if workers < 1:
        raise DifflabError(f"gpus is {workers}, but at least one is needed.")
    free = [0.0] * workers
    for seconds in sorted(tasks, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def plan(study: Study, gpu: str, batch: int = 64) -> Plan:
    """What a study needs on a `gpu`: a name in `cards.CARDS`, `cpu` or `here`, where the machine at hand is tried.

    Raises DifflabError for an unknown card, and for a study whose networks are neither here nor known by name.
    """
    here = gpu in ("cpu", "here")
    if not here:
        card_of(gpu)
    outline = sketch(study, batch)
    base = outline.network(study.cells()[0])
    device = "cuda" if gpu == "here" and torch.cuda.is_available() else "cpu"
    throughput = measured_here(outline, device) if here else throughput_of(gpu, base.flops / 1e9)
    return plan_of(outline, throughput)


def plan_of(outline: Outline, throughput: Throughput) -> Plan:
    """The plan of a study in outline on a machine of this throughput."""
    bench = outline.bench
    cells = tuple(_cell(outline, throughput, settings) for settings in bench.study.cells())
    first = bench.study.cells()[0]
    return Plan(
        bench.study, throughput, outline.rows, outline.network(first).flops / 1e9, cells, _memory(outline, throughput),
        reference_bytes(bench), tuple(_notes(outline)),
    )  # fmt: skip


def _cell(outline: Outline, throughput: Throughput, settings: Settings) -> CellPlan:
    bench, count = outline.bench, settings.count
    drawing, decoding, seeing = _sample_flops(outline, settings)
    sampling = drawing / throughput.network + decoding / throughput.decoder
    features = seeing / throughput.features
    kept, parts = kept_of(bench, settings), parts_of(count, bench.study.chunk)
    tasks = tuple(
        ChunkTask(
            n, len(rows), len(rows) * (sampling + features), kept.chunk_bytes(rows, bench.study.keep, outline.rows)
        )
        for n, rows in enumerate(parts)
    )
    scoring = scoring_seconds(bench.study.metrics, count, bench.extractor.dim, REFERENCE_POINTS, bench.study.replicates)
    return CellPlan(
        settings, bench.study.varied(settings), bench.calls(settings), count * (drawing + decoding + seeing),
        count * sampling, count * features, scoring, result_bytes(bench, settings), tasks,
    )  # fmt: skip


def _sample_flops(outline: Outline, settings: Settings) -> tuple[float, float, float]:
    """Operations for one sample of a cell: of the network and what guides it, of the decoder, of the features."""
    bench, blocks = outline.bench, outline.bench.blocks(settings)
    calls = calls_of(bench.model_of(settings), draw_of(settings))  # of one block
    drawing = calls * outline.network(settings).flops
    if blocks > 1:
        goes_on = outline.completing(settings) if settings.reconstruction else outline.network(settings)
        drawing += (blocks - 1) * calls * goes_on.flops
    if settings.classifier_scale and outline.classifier is not None:
        alone = settings.model_copy(update={"guidance": 1.0})
        drawing += calls_of(bench.model_of(settings), draw_of(alone)) * outline.classifier.flops
    decoding = outline.decoding.flops if outline.decoding is not None else 0.0
    seeing = outline.features(settings).flops + sum(outline.features(settings, view).flops for view in bench.views)
    return drawing, decoding, seeing


def _memory(outline: Outline, throughput: Throughput) -> Memory:
    bench = outline.bench
    passes = [outline.decoding, outline.classifier]
    weights = [outline.network(bench.study.cells()[0]), *passes]
    for settings in bench.study.cells():
        goes_on = bench.blocks(settings) > 1 and settings.reconstruction
        passes += [outline.network(settings), outline.completing(settings) if goes_on else None]
        passes += [outline.features(settings, view) for view in (None, *bench.views)]
    seen = {extractor.name: extractor.network for extractor in bench.extractors}  # type: ignore[attr-defined]
    held = sum(work.weights for work in weights if work is not None)
    held += sum(weight.nbytes for network in seen.values() for weight in network.state_dict().values())
    context = 0.0 if throughput.name == "cpu" else _CONTEXT
    return Memory(held, max(work.peak for work in passes if work is not None), context, throughput.memory)


def _notes(outline: Outline) -> Iterable[str]:
    bench = outline.bench
    study, card = bench.study, bench.model.card
    yield (
        "Seconds are operations over the speed above, the same for all networks and batches on a listed card; random "
        "numbers, copies, starts of kernels and writing are left out there."
    )
    if card.codec is not None and outline.decoder is None:
        yield f"The decoder {card.codec.vae} is left out: how it is built is not known without diffusers or its file."
    if card.text is not None:
        yield f"Reading captions with {card.text.encoder} is left out: it is done once for each sample, not each step."
    if "clipscore" in study.metrics:
        yield f"CLIPScore's network, {study.clip}, is left out."
    if any(bench.blocks(settings) > 1 for settings in study.cells()):
        yield "Calls of blocks after the first, with their gradient, are counted by what they cost."
    yield (
        "Values in memory are as a GPU makes them, with attention that holds its whole matrix: fused kernels need "
        "less, and so do CPUs, which take it in parts."
    )
    yield (
        "Scoring is for one thread of an AMD EPYC; what is left out is the floors of real samples and the features of "
        "the reference. Precision and its like are faster where distances are computed on a GPU."
    )
