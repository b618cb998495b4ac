"""How fast the machine at hand is, by a short try of a study's own networks with random weights."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from difflab.core.sampler import final
from difflab.study.cards import Throughput
from difflab.study.disk import picture_of
from difflab.study.outline import Outline, look, outline_extractor, told_nothing
from difflab.study.record import machine
from difflab.zoo.autoencoder import open_autoencoder
from difflab.zoo.draw import Draw
from difflab.zoo.families import FAMILIES
from difflab.zoo.model import Model
from difflab.zoo.registry import find
from difflab.zoo.sampling import seeded_noise, walk

_STEPS = 4
_A_PASS = {"cpu": 4e10, "cuda": 4e12}  # operations of a pass that is timed: about half a second
_AT_LEAST = 1.0  # seconds that are timed in all
_FEWEST = 3  # times


def measured_here(outline: Outline, device: str) -> Throughput:
    """What the networks of a study reach on a device of this machine, the sampler's own work included."""
    settings, kind = outline.bench.study.cells()[0], "cpu" if device == "cpu" else "cuda"
    model = _real(outline.bench.model_of(settings), device)  # of the cell's length
    work = outline.network(settings)
    rows = max(1, min(outline.rows, int(_A_PASS[kind] / work.flops)))
    draw = Draw("ddim", steps=_STEPS, spacing="trailing")

    def sampled() -> None:
        told = told_nothing(model, rows)
        final(walk(model, draw, seeded_noise(model, 0, range(rows)), told[0] if told else None))

    network = rows * _STEPS * work.flops / _seconds(sampled, device)
    decoder, features = _decoder_rate(outline, device, rows), _features_rate(outline, device)
    what = f"{rows} samples, {_STEPS} steps of {work.flops / 1e9:.3g} GFLOP a sample"
    how = f"{network / 1e9:.1f} GFLOP/s, tried just now on {machine(device)['device']} with {what}"
    return Throughput(device, network, decoder or network, features, _memory(device), how)


def _real(model: Model, device: str) -> Model:
    network = FAMILIES[model.card.family].build(model.card.network).eval().requires_grad_(False)
    placed = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(placed, model.card, torch.device(device))


def _decoder_rate(outline: Outline, device: str, rows: int) -> float | None:
    """Of the decoder, where its weights are here."""
    codec, work = outline.model.card.codec, outline.decoding
    entry = find(codec.vae) if codec is not None else None
    if work is None or codec is None or entry is None or entry.path is None:
        return None
    decoder = open_autoencoder(codec.vae, device)
    latents = torch.zeros(rows, *outline.model.shape, device=device)
    return rows * work.flops / _seconds(lambda: decoder.decode(latents), device)


def _features_rate(outline: Outline, device: str) -> float:
    bench, settings = outline.bench, outline.bench.study.cells()[0]
    work, kind = outline.features(settings), "cpu" if device == "cpu" else "cuda"
    rows = max(1, min(outline.rows, int(_A_PASS[kind] / work.flops)))
    extractor = outline_extractor(bench.study.features or "", torch.device(device))
    pictures = torch.zeros(rows, *picture_of(bench, settings), dtype=torch.uint8, device=device)
    return rows * work.flops / _seconds(lambda: look(extractor, pictures), device)


def _seconds(run: Callable[[], object], device: str) -> float:
    """The median of some runs, after one that warms up."""
    # Of one thread the time on its processor, which other programs beside it do not lengthen.
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    taken: list[float] = []
    run()
    while len(taken) < _FEWEST or sum(taken) < _AT_LEAST:
        began = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize(device)
        taken.append(clock() - began)
    return statistics.median(taken)


def _memory(device: str) -> float:
    """Bytes of the device, or of this machine."""
    if device == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return float(torch.cuda.get_device_properties(device).total_memory)
