"""What is left of studies, told by what is in their store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from difflab.study.bench import Bench
from difflab.study.chunks import Chunk, chunks_in_turn, draw
from difflab.study.opening import open_benches
from difflab.study.scoring import ToScore
from difflab.study.spec import Study
from difflab.study.store import Store
from difflab.study.todo import Todo


@pytest.fixture
def bench(study: Study, tmp_path: Path) -> Bench:
    """Two cells of 24 samples in chunks of 10."""
    few = study.model_copy(update={"axes": {"steps": [1, 2]}})
    return open_benches([(few, Store(tmp_path))], device="cpu")[0]


def _next(tasks: Iterator, many: int) -> list:
    return [next(tasks) for _ in range(many)]


def test_a_cell_is_scored_when_its_last_chunk_is_there(bench: Bench) -> None:
    chunks = sorted(chunks_in_turn([bench]), key=lambda chunk: (chunk.settings.steps, chunk.number))
    todo = Todo([bench], chunks, at_once=True)
    tasks = todo.tasks()
    first = _next(tasks, 3)
    assert first == chunks[:3]
    for chunk in reversed(first):
        todo.drawn(chunk)
    scored = next(tasks)
    assert isinstance(scored, ToScore)
    assert scored.key == chunks[0].key
    assert next(tasks) == chunks[3]


def test_one_worker_draws_all_before_it_scores(bench: Bench) -> None:
    todo = Todo([bench], chunks_in_turn([bench]), at_once=False)
    seen = []
    for task in todo.tasks():
        seen.append(type(task))
        todo.drawn(task) if isinstance(task, Chunk) else todo.scored(task)
    assert seen == [Chunk] * 6 + [ToScore] * 2


def test_nothing_is_to_do_while_chunks_are_under_way(bench: Bench) -> None:
    todo = Todo([bench], chunks_in_turn([bench]), at_once=True)
    tasks = todo.tasks()
    under_way = _next(tasks, 6)
    assert next(tasks) is None
    todo.fail(under_way[0], "RuntimeError: out of memory")
    for chunk in under_way[1:]:
        todo.drawn(chunk)
    assert [type(task) for task in tasks] == [ToScore]  # the other cell; then it ends
    assert list(todo.failed.values()) == ["RuntimeError: out of memory"]


def test_chunks_that_are_there_are_not_drawn(bench: Bench) -> None:
    first = next(iter(chunks_in_turn([bench])))
    Todo([bench], [], at_once=True)  # which begins the cells
    draw([bench], first)
    todo = Todo([bench], chunks_in_turn([bench]), at_once=True)
    assert todo.samples[todo.cell(first)] == len(first.rows)
    assert first not in _next(todo.tasks(), 5)


@pytest.mark.parametrize("at_once", [False, True])
def test_what_two_studies_have_in_common_is_drawn_once(bench: Bench, at_once: bool) -> None:
    other = bench.study.model_copy(update={"name": "other", "axes": {"steps": [2, 4]}})
    benches = open_benches([(bench.study, bench.store), (other, bench.store)], device="cpu")
    todo = Todo(benches, chunks_in_turn(benches), at_once)
    drawn, scored = [], []
    for task in todo.tasks():
        if isinstance(task, Chunk):
            drawn.append((task.settings.steps, task.number))
            todo.drawn(task)
        else:
            assert len([steps for steps, _ in drawn if steps == task.settings.steps]) == 3
            scored.append((task.bench, task.settings.steps))
            todo.scored(task)
    assert sorted(drawn) == [(steps, number) for steps in (1, 2, 4) for number in range(3)]
    assert sorted(scored) == [(0, 1), (0, 2), (1, 2), (1, 4)]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_cell_of_two_studies_that_was_begun_is_finished(bench: Bench, at_once: bool) -> None:
    """Its last chunk is smaller than the others, so that counting one twice would show."""
    other = bench.study.model_copy(update={"name": "other"})
    benches = open_benches([(bench.study, bench.store), (other, bench.store)], device="cpu")
    Todo(benches, [], at_once)
    for chunk in list(chunks_in_turn([bench]))[:3]:
        draw([bench], chunk)
    todo = Todo(benches, chunks_in_turn(benches), at_once)
    seen = []
    for task in todo.tasks():
        seen.append(type(task))
        todo.drawn(task) if isinstance(task, Chunk) else todo.scored(task)
    assert sorted(kind.__name__ for kind in seen) == ["Chunk"] * 3 + ["ToScore"] * 4
