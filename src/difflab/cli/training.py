"""`difflab train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="RECIPE.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example optim.lr=1e-4")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/train/<name> when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in the folder.")] = False,
) -> None:
    """Train a model or a feature network by a recipe."""
    from difflab.errors import DifflabError
    from difflab.train.config import read_recipe

    parsed = read_recipe(recipe, overrides or [])
    folder = out or Path("runs") / "train" / parsed.name
    try:
        from difflab.train.run import train as run
    except ModuleNotFoundError as error:
        raise DifflabError(f"training needs {error.name}, which is not installed; install difflab[train].") from error
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")]  # fmt: skip
    with Progress(*columns) as bar:
        task = bar.add_task(parsed.name, total=parsed.steps, loss="")

        def watch(progress: object) -> None:
            step, loss = progress.step, progress.loss  # type: ignore[attr-defined]
            bar.update(task, completed=step)
            if step % parsed.log_every == 0:
                bar.update(task, loss=f"loss {float(loss):.4g}")

        path = run(parsed, folder, resume=resume, watch=watch)
    print(f"{parsed.name}: {path}")
