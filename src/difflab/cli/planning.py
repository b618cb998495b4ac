"""`difflab study plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difflab.cli.options import Batch
from difflab.cli.terminal import print_table

if TYPE_CHECKING:
    from difflab.study.plan import CellPlan, Plan

_GIB, _MB = 2**30, 1e6


def plan(
    file: Annotated[Path, typer.Argument(help="STUDY.yaml, or a shipped study: dit-cfg, paper/dit-cfg.")],
    gpu: Annotated[str, typer.Option(help="h100, h200, a100 or l4; cpu or here to try the machine at hand.")] = "here",
    gpus: Annotated[int, typer.Option(help="How many of them.")] = 1,
    batch: Batch = 64,
    price: Annotated[float | None, typer.Option(min=0.0, help="Of one GPU for an hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, all chunks included.")] = False,
) -> None:
    """What a study needs in GPUs, hours, memory and disk. Neither its model nor its data have to be there."""
    from difflab.errors import DifflabError
    from difflab.study.learning import LearningStudy
    from difflab.study.plan import makespan
    from difflab.study.plan import plan as plan_of
    from difflab.study.presets import find_study

    makespan([], gpus)  # refuses a wrong number before any work
    study = find_study(file)
    if isinstance(study, LearningStudy):
        raise DifflabError(
            f"{file}: compares trainings, which are not planned; `difflab study explain` tells their work."
        )
    found = plan_of(study, gpu, batch)
    if as_json:
        print(json.dumps(_as_json(found, gpus, price), indent=1))
    else:
        _print(found, gpus, price)


def _print(plan: Plan, gpus: int, price: float | None) -> None:

    rows = [[*map(str, cell.varied.values()), *_row(cell)] for cell in plan.cells]
    columns = ["calls a sample", "PFLOP", f"on one {plan.throughput.name}", "scoring", "chunks", "of each", "store MB"]
    print(f"{plan.study.name}: {plan.study.model}, {plan.gflop:.4g} GFLOP a sample and call")
    print_table([*plan.study.axes, *columns], rows)
    wall, memory = plan.wall(gpus), plan.memory
    print(f"speed: {plan.throughput.how}")
    print(
        f"in all: {_time(plan.gpu_seconds)} of one {plan.throughput.name}; with {gpus}, until the last chunk: {_time(wall)}"
    )
    if price is not None:
        print(f"cost: {plan.gpu_seconds / 3600 * price:,.2f}, {price:g} for an hour of a GPU, idle time left out")
    print(
        f"scoring: {_time(plan.scoring)} of one CPU thread, the longest cell {_time(max(c.scoring for c in plan.cells))}"
    )
    print(f"disk: {plan.bytes / _MB:,.1f} MB, of the reference {plan.reference / _MB:,.1f} MB")
    has = (
        ""
        if memory.available is None
        else f", of {memory.available / _GIB:.0f}: {'fits' if memory.fits else 'too much'}"
    )
    print(
        f"memory of a worker, {plan.batch} samples at a time: {memory.needed / _GIB:.2f} GiB "
        f"(weights {memory.weights / _GIB:.2f}, values at most {memory.values / _GIB:.2f}){has}"
    )
    for note in plan.notes:
        print(f"note: {note}")


def _row(cell: CellPlan) -> list[str]:
    return [
        f"{cell.calls:,}", f"{cell.flops / 1e15:,.4g}", _time(cell.seconds), _time(cell.scoring),
        f"{len(cell.chunks)}", _time(cell.seconds_per_chunk), f"{cell.bytes / _MB:,.1f}",
    ]  # fmt: skip


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _as_json(plan: Plan, gpus: int, price: float | None) -> dict[str, Any]:
    """The plan for programs: times in seconds, sizes in bytes."""
    memory = plan.memory
    cells = [
        {
            **cell.varied, "calls": cell.calls, "flops": cell.flops, "sampling": cell.sampling,
            "features": cell.features, "scoring": cell.scoring, "bytes": cell.bytes,
            "chunks": [{"samples": c.samples, "seconds": c.seconds, "bytes": c.bytes} for c in cell.chunks],
        }
        for cell in plan.cells
    ]  # fmt: skip
    return {
        "study": plan.study.name, "gpu": plan.throughput.name, "speed": plan.throughput.how, "gpus": gpus,
        "batch": plan.batch, "gpu seconds": plan.gpu_seconds, "wall seconds": plan.wall(gpus),
        "scoring seconds": plan.scoring, "bytes": plan.bytes, "memory": memory.needed, "fits": memory.fits,
        "cost": None if price is None else plan.gpu_seconds / 3600 * price, "notes": plan.notes, "cells": cells,
    }  # fmt: skip
