"""Engines run cells. The local one is a loop in this process; others run the same function elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from difflab.errors import DifflabError
from difflab.study.result import Row
from difflab.study.spec import Settings


@dataclass(frozen=True)
class Failure:
    """A cell that raised: its setting and one sentence."""

    settings: Settings
    message: str


class Engine(Protocol):
    """Maps a function over cells, in order; a failure is an answer, not an end."""

    def map(self, run: Callable[[Settings], Row], cells: Iterable[Settings]) -> Iterator[Row | Failure]: ...


class Local:
    """One cell after the other, in this process."""

    def map(self, run: Callable[[Settings], Row], cells: Iterable[Settings]) -> Iterator[Row | Failure]:
        """Results in the order of the cells. A full disk ends the study: every later cell would fail alike."""
        for settings in cells:
            try:
                yield run(settings)
            except DifflabError:
                raise
            except (RuntimeError, ArithmeticError, MemoryError) as error:
                yield Failure(
                    settings, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
                )


ENGINES: dict[str, type[Local]] = {"local": Local}


def engine(name: str) -> Engine:
    """The engine called `name`; raises DifflabError for an unknown one."""
    if name not in ENGINES:
        raise DifflabError(f"engine {name!r} is not there; this version runs studies with the engine local.")
    return ENGINES[name]()
