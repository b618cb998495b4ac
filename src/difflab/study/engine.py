"""Engines do the tasks of a study. The local one is a loop in this process; others run the same function elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from difflab.errors import DifflabError, first_line

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Failure(Generic[Task]):
    """A task that raised, and one sentence."""

    task: Task
    message: str


class Engine(Protocol):
    """Maps a function over tasks, in order; a failure is an answer, not an end.

    Tasks are taken from the iterable as they come up, so the caller may leave out what a failure has made useless.
    """

    def map(self, run: Callable[[Task], Answer], tasks: Iterable[Task]) -> Iterator[Answer | Failure[Task]]: ...


class Local:
    """One task after the other, in this process."""

    def map(self, run: Callable[[Task], Answer], tasks: Iterable[Task]) -> Iterator[Answer | Failure[Task]]:
        """Answers in the order of the tasks. A full disk ends the study: every later task would fail alike."""
        for task in tasks:
            try:
                yield run(task)
            except DifflabError:
                raise
            except (RuntimeError, ArithmeticError, MemoryError) as error:
                yield Failure(task, f"{type(error).__name__}: {first_line(error)}")


ENGINES: dict[str, type[Local]] = {"local": Local}


def engine(name: str) -> Engine:
    """The engine called `name`; raises DifflabError for an unknown one."""
    if name not in ENGINES:
        raise DifflabError(f"engine {name!r} is not there; this version runs studies with the engine local.")
    return ENGINES[name]()
