"""How long a study of paper scale takes on many GPUs, and what holds it up first: a simulation of the engine on Ray.

    python benchmarks/scaling.py paper/dit-cfg paper/dit-steps --gpu h200 [--gpus 8 64 512]

Seconds of chunks, bytes and seconds of scoring are those of `difflab study plan`. What the engine adds is assumed:
its parts were measured on two cores (`benchmarks/engine.py`) or are of a data sheet, and are printed with the result.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difflab.study.plan import Plan, plan
from difflab.study.presets import find_study
from difflab.study.spec import Study


@dataclass(frozen=True)
class Assumed:
    """handing: seconds of the driver for each task; up: seconds until a worker has started Python and torch; network:
    bytes a second into a machine; machine: GPUs of one; put: seconds to begin a write; bucket: bytes a second that all
    workers together write or read at most; pause: seconds between hearing of a task's end and the next one's start;
    threads: how many times faster the eight threads beside GPUs score than one."""

    handing: float = 0.003
    up: float = 20.0
    network: float = 1.25e9
    machine: int = 8
    put: float = 0.1
    bucket: float = 5e9
    pause: float = 0.01
    threads: float = 4.0


@dataclass(frozen=True)
class Outcome:
    """Seconds until all is scored, and their parts. start: until the last worker draws; drawing: from then to the last
    chunk; scoring: from there; tail: what workers wait on average for the last chunk; handing: of the driver, in all;
    written: bytes; work: of all chunks."""

    gpus: int
    start: float
    drawing: float
    scoring: float
    tail: float
    handing: float
    written: float
    work: float

    @property
    def wall(self) -> float:
        return self.start + self.drawing + self.scoring

    @property
    def share(self) -> float:
        """Of the GPUs' time that is spent on chunks."""
        return self.work / (self.gpus * self.wall)


def simulate(planned: Plan, gpus: int, a: Assumed, beside: bool = True) -> Outcome:
    """Chunks, longest first, to whoever is free. Cells are scored as soon as they are drawn, by processors beside the
    GPUs, several threads each; or else when all are drawn, by one thread each of the workers that have drawn."""
    start = a.up + _sending(planned, gpus, a)
    written = a.put + max(1.0 / a.network, gpus / a.bucket) * _mean(chunk.bytes for chunk in _chunks(planned))
    free, number, drawn = [0.0] * gpus, 0, []
    for cell in sorted(planned.cells, key=lambda cell: -cell.seconds_per_chunk):
        end = 0.0
        for chunk in cell.chunks:
            begun = max(free[0], number * a.handing if number < gpus else 0.0)
            heapq.heapreplace(free, begun + chunk.seconds + written + a.pause)
            end, number = max(end, begun + chunk.seconds + written + a.pause), number + 1
        drawn.append((end, cell))
    last = max(free)
    slots = [0.0] * (max(1, gpus // a.machine) if beside else gpus)
    read = max(1.0 / a.network, min(len(slots), len(planned.cells)) / a.bucket)
    for end, cell in sorted(drawn, key=lambda pair: pair[0]):
        seconds = cell.scoring / (a.threads if beside else 1.0) + read * cell.bytes
        heapq.heapreplace(slots, max(slots[0], end if beside else last) + seconds)
    work = sum(chunk.seconds for chunk in _chunks(planned))
    waited = _mean(last - worker for worker in free)
    return Outcome(gpus, start, last, max(slots) - last, waited, a.handing * number, planned.bytes, work)


def _chunks(planned: Plan) -> list:
    return [chunk for cell in planned.cells for chunk in cell.chunks]


def _sending(planned: Plan, gpus: int, a: Assumed) -> float:
    """Seconds until the last machine has the models: the driver's machine sends, and who has them sends, too."""
    machines, rounds = -(-gpus // a.machine), 0
    while 2**rounds < machines:
        rounds += 1
    return (rounds + 1) * planned.memory.weights / a.network  # and once more to the GPU


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunks", type=int, nargs="+", default=[500, 128], help="samples a chunk to compare")
    options = parser.parse_args()
    print(Assumed())
    for file in options.studies:
        study = find_study(file)
        assert isinstance(study, Study)
        for size in options.chunks:
            planned = plan(study.model_copy(update={"chunk": size}), options.gpu, options.batch)
            for beside in (False, True):
                outcomes = [simulate(planned, gpus, Assumed(), beside) for gpus in options.gpus]
                _say(planned, f"of {size}, scored {'beside' if beside else 'at the end'}", outcomes)


def _say(planned: Plan, how: str, outcomes: list[Outcome]) -> None:
    each = max(cell.seconds_per_chunk for cell in planned.cells)
    print(f"{planned.study.name}, {len(_chunks(planned)):,} chunks {how}; the longest chunk {each / 60:.1f} min")
    for o in outcomes:
        print(
            f"  {o.gpus:4d} GPUs: {o.wall / 3600:7.2f} h (start {o.start / 60:.1f} min, "
            f"drawing {o.drawing / 3600:.2f} h, scoring {o.scoring / 60:.1f} min); "
            f"{o.share:.0%} of the GPUs' time is on chunks, "
            f"the last one is waited for {o.tail / 60:.1f} min; driver {o.handing:.0f} s, "
            f"{o.written / o.drawing / 1e6:.2f} MB/s written"
        )


if __name__ == "__main__":
    main()
