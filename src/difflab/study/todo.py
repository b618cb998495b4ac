"""What is left of studies: chunks to draw, and cells to score once all their chunks are there."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from difflab.study.bench import Bench
from difflab.study.chunks import Chunk, draw
from difflab.study.scoring import Against, Scored, ToScore, score

Task = Chunk | ToScore
Cell = tuple[str, str]  # store, key: studies may have one in common


def work(benches: Sequence[Bench], against: Sequence[Against], task: Task) -> Scored | None:
    """Do a task: draw a chunk, or score a cell."""
    if isinstance(task, Chunk):
        draw(benches, task)
        return None
    return score(benches, against, task)


class Todo:
    """The tasks of studies as they come up.

    Args:
        benches: of the studies; what decides the numbers of their cells is recorded now.
        chunks: of all cells, in the order in which they are to be drawn.
        at_once: score a cell as soon as it is drawn, while others are still; else when all are.
    """

    def __init__(self, benches: Sequence[Bench], chunks: Iterable[Chunk], at_once: bool) -> None:
        self.failed: dict[Cell, str] = {}  # what was raised, in one sentence
        self.samples: Counter[Cell] = Counter()  # that are there
        self._benches, self._at_once = benches, at_once
        self._of_cell: dict[Cell, list[ToScore]] = {}
        there = self._begin()
        self._drawn, self._missing = deque[ToScore](), deque[Chunk]()
        seen: set[tuple[Cell, int]] = set()  # chunks of a cell in two studies come twice
        for chunk in chunks:
            cell = self.cell(chunk)
            if (cell, chunk.number) in seen:
                continue
            seen.add((cell, chunk.number))
            if chunk.number in there[cell]:
                self.drawn(chunk)
            else:
                self._missing.append(chunk)

    def _begin(self) -> dict[Cell, set[int]]:
        """Record what decides the numbers of every cell, and find the chunks that are there."""
        there: dict[Cell, set[int]] = {}
        for number, bench in enumerate(self._benches):
            for settings in bench.study.cells():
                decides = bench.decides(settings)
                stored = bench.store.cell(decides)
                task = ToScore.of(number, bench, settings, stored.key)
                if self.cell(task) not in there:
                    stored.begin(decides)
                    there[self.cell(task)] = stored.drawn()
                self._of_cell.setdefault(self.cell(task), []).append(task)
        return there

    @property
    def cells(self) -> list[ToScore]:
        """All cells, each as often as studies ask for it."""
        return [task for tasks in self._of_cell.values() for task in tasks]

    def cell(self, task: Task) -> Cell:
        """Where a task belongs."""
        return str(self._benches[task.bench].store.root), task.key

    def tasks(self) -> Iterator[Task | None]:
        """What to do next; None while that hangs on tasks that are not done yet."""
        left = len(self.cells)
        while left > sum(len(self._of_cell[cell]) for cell in self.failed):
            if self._drawn and (self._at_once or not self._missing):
                left -= 1
                yield self._drawn.popleft()
            elif self._missing:
                chunk = self._missing.popleft()
                if self.cell(chunk) not in self.failed:
                    yield chunk
            else:
                yield None

    def drawn(self, chunk: Chunk) -> None:
        """A chunk is there."""
        cell = self.cell(chunk)
        self.samples[cell] += len(chunk.rows)
        if self.samples[cell] == chunk.settings.count:
            self._drawn.append(self._of_cell[cell][0])

    def scored(self, task: ToScore) -> None:
        """A cell has its scores, or cannot have them. Another study that has it is next: both write its record."""
        same = self._of_cell[self.cell(task)]
        self._drawn += same[same.index(task) + 1 :][:1]

    def fail(self, chunk: Chunk, message: str) -> None:
        """A chunk cannot be drawn: nothing comes of its cell."""
        self.failed[self.cell(chunk)] = message
