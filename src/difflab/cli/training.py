"""`difflab train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from difflab.train.config import AnyRecipe
    from difflab.train.loop import Progress


def train(
    recipe: Annotated[Path, typer.Argument(help="RECIPE.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example optim.lr=1e-4")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/train/<name> when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in the folder.")] = False,
) -> None:
    """Train a model or a feature network by a recipe; the result can then be called by the recipe's name."""
    from difflab.errors import DifflabError
    from difflab.train.config import folder_of, read_recipe
    from difflab.zoo.registry import publish

    parsed = read_recipe(recipe, overrides or [])
    folder = out or Path("runs") / "train" / parsed.name
    try:
        from difflab.train.run import train as run
    except ModuleNotFoundError as error:
        raise DifflabError(f"training needs {error.name}, which is not installed; install difflab[train].") from error
    with watching(parsed) as (watch, reads):
        path = run(parsed, folder, resume=resume, watch=watch, reads=reads)
    print(f"{parsed.name}: {path}")
    from accelerate import PartialState

    if PartialState().is_main_process and (published := publish(path, folder_of(parsed))) is not None:
        print(f"It can be called {parsed.name} from now on: {published}")


@contextmanager
def watching(recipe: AnyRecipe) -> Iterator[tuple[Callable[[Progress], None], Callable[[int, int], None]]]:
    """Progress bars: over the steps of a training, with its loss, and before them over captions that are read."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")]  # fmt: skip
    with Bar(*columns) as bar:
        captions = bar.add_task("captions", total=None, visible=False, loss="")
        task = bar.add_task(recipe.name, total=recipe.steps, loss="")

        def watch(progress: Progress) -> None:
            bar.update(task, completed=progress.step)
            if progress.step % recipe.log_every == 0:
                bar.update(task, loss=f"loss {float(progress.loss):.4g}")

        def reads(done: int, of: int) -> None:
            bar.update(captions, completed=done, total=of, visible=True)

        yield watch, reads
