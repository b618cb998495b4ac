"""Engines do the tasks of a study. The local one is a loop in this process; `cluster.Ray` runs them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from difflab.errors import DifflabError, first_line

Task = TypeVar("Task", bound="Demanding")
Answer = TypeVar("Answer")


class Demanding(Protocol):
    """What a task says of itself: how many bytes of memory it needs, 0 where that is not known, and whether a GPU is of
    use to it."""

    @property
    def memory(self) -> int: ...

    @property
    def gpu(self) -> bool: ...


@dataclass(frozen=True)
class Done(Generic[Task, Answer]):
    """A task and its answer."""

    task: Task
    answer: Answer


@dataclass(frozen=True)
class Failure(Generic[Task]):
    """A task that raised, and one sentence."""

    task: Task
    message: str


class Engine(Protocol):
    """Maps `run(*given, task)` over tasks; a failure is an answer, not an end.

    Tasks are taken from the iterable as they come up, so the caller may leave out what a failure has made useless. None
    among them says that the next one hangs on those under way: the engine asks again after their next answer.
    `given` is what tasks have in common, such as models: it is brought to whoever works once, not with every task.
    Used as a context, which ends what the engine has started.
    """

    alone: bool  # whether one task runs at a time, in the order of the tasks

    def map(
        self, run: Callable[..., Answer], tasks: Iterable[Task | None], *given: Any
    ) -> Iterator[Done[Task, Answer] | Failure[Task]]: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *raised: object) -> None: ...


class Local:
    """One task after the other, in this process."""

    alone = True

    def map(
        self, run: Callable[..., Answer], tasks: Iterable[Task | None], *given: Any
    ) -> Iterator[Done[Task, Answer] | Failure[Task]]:
        """Answers in the order of the tasks."""
        for task in tasks:
            assert task is not None, "nothing is under way that a task could hang on"
            yield attempt(run, task, given)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def attempt(run: Callable[..., Answer], task: Task, given: Iterable[Any]) -> Done[Task, Answer] | Failure[Task]:
    """The answer to a task, or its failure. A DifflabError, such as of a full disk, is raised: every later task would
    fail alike."""
    try:
        return Done(task, run(*given, task))
    except DifflabError:
        raise
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        return Failure(task, f"{type(error).__name__}: {first_line(error)}")


ENGINES = ("local", "ray")


def make_engine(
    name: str, *, address: str | None = None, workers: int | None = None, gpus: float | None = None
) -> Engine:
    """The engine called `name`; see `cluster.Ray` for the rest, which is its own.

    Raises DifflabError for an unknown one, and for what it does not take.
    """
    if name not in ENGINES:
        raise DifflabError(f"engine {name!r} is not there; choose {' or '.join(ENGINES)}.")
    if name == "local":
        told = {"address": address, "workers": workers, "gpus": gpus}
        if odd := [option for option, value in told.items() if value is not None]:
            raise DifflabError(f"{odd[0]} is told, but the engine local runs in this process; add --engine ray.")
        return Local()
    from difflab.study.cluster import Ray

    return Ray(address=address, workers=workers, gpus=gpus)
