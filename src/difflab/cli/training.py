"""`difflab train`."""

from __future__ import annotations

import os
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in the folder, or begin it.")
    ] = False,
    parallel: Annotated[
        str,
        typer.Option(
            help="How processes started by torchrun share a training: ddp keeps a whole copy of the network on each; "
            "fsdp shards the fp32 weights, gradients, optimiser state and averages; the whole network must fit once while "
            "it is built, and in half precision during a step unless checkpointing is on. "
            "Either goes on with what the other has saved, on any number of processes."
        ),
    ] = "ddp",
) -> None:
    """Train a model or a feature network by a recipe; the result can then be called by the recipe's name."""
    from typing import Literal

    from difflab.cli.draw import checked
    from difflab.errors import DifflabError, see
    from difflab.train.config import folder_of, read_recipe
    from difflab.zoo.registry import publish

    parsed = read_recipe(recipe, overrides or [])
    folder = out or Path("runs") / "train" / parsed.name
    try:
        from difflab.train.run import train as run
    except ModuleNotFoundError as error:
        raise DifflabError(
            f"training needs {error.name}, which is not installed; get it with `pip install 'difflab[train]'`; "
            f"{see('how-to/missing')}."
        ) from error
    way = checked(parallel, Literal["ddp", "fsdp"])
    with watching(parsed) as (watch, reads):
        path = run(parsed, folder, resume=resume, parallel=way, watch=watch, reads=reads)
    if not is_main():
        return
    print(f"{parsed.name}: {path}")
    if (published := publish(path, folder_of(parsed))) is not None:
        print(f"It can be called {parsed.name} from now on: {published}")


def is_main() -> bool:
    """Whether this process is the one to speak for all that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def watching(recipe: AnyRecipe) -> Iterator[tuple[Callable[[Progress], None], Callable[[int, int], None]]]:
    """Progress bars: over the steps of a training, with its loss, and before them over captions that are read."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")]  # fmt: skip
    with Bar(*columns, disable=not is_main()) as bar:
        captions = bar.add_task("captions", total=None, visible=False, loss="")
        task = bar.add_task(recipe.name, total=recipe.steps, loss="")

        def watch(progress: Progress) -> None:
            bar.update(task, completed=progress.step)
            if progress.step % recipe.log_every == 0:
                bar.update(task, loss=f"loss {float(progress.loss):.4g}")

        def reads(done: int, of: int) -> None:
            bar.update(captions, completed=done, total=of, visible=True)

        yield watch, reads
