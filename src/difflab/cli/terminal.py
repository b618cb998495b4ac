"""Progress bars and tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Rows in columns, folded where the terminal is narrow; in a file or a pipe each row is one line."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    for column in table.columns:
        column.overflow = "fold"
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


@contextmanager
def bar_to(total: int | None, what: str) -> Iterator[Callable[..., None]]:
    """A progress bar that is told how far things are, and of how many where that was not known."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of=total: bar.update(task, completed=done, total=of)


def with_bar(batches: Iterable[np.ndarray], total: int, what: str) -> Iterator[np.ndarray]:
    """Pass batches through, with a progress bar on a terminal."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
