"""`difflab models` and `difflab convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difflab.cli.options import Config

app = typer.Typer(
    help="The models and feature networks that have a name: list, fetch, show.", invoke_without_command=True
)


@app.callback()
def models(context: typer.Context) -> None:
    """List what has a name: what ships, what can be fetched, what was trained here."""
    if context.invoked_subcommand is not None:
        return
    from difflab.cli.terminal import print_table
    from difflab.zoo.registry import home, list_models

    rows = []
    for row in list_models():
        size = f"{row.size / 1e6:,.1f} MB" if row.size else ""
        rows.append([row.name, row.kind, "yes" if row.present else "", size, _told(row.where, home())])
    print_table(["name", "kind", "here", "size", "file"], rows)
    print(f"\nFiles are looked for in {home()}; `difflab models fetch NAME` gets one.")


def _told(path: Path, home: Path) -> str:
    """Where a file is, as short as it can be said."""
    if path.is_relative_to(Path(__file__).parents[1]):
        return "ships"
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Names from `difflab models`.")]) -> None:
    """Download models: resumable, checked against their checksum."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from difflab.zoo.fetch import fetch_model

    for name in names:
        with Progress(TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn()) as bar:
            task = bar.add_task(name, total=None)
            path = fetch_model(name, lambda done, total: bar.update(task, completed=done, total=total))  # noqa: B023
        print(f"{name}: {path}")


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(help="i3d_torchscript.pt, of StyleGAN-V.")],
    trust: Annotated[bool, typer.Option("--trust", help="The file is TorchScript, which is code of its author, and reading it may execute some: say that you trust it.")] = False,
) -> None:  # fmt: skip
    """Take the weights of I3D out of a TorchScript file to where FVD looks for them; its code is never asked for FVD."""
    from difflab.errors import DifflabError
    from difflab.score.i3d import unpack_torchscript
    from difflab.zoo.registry import i3d_place

    if not trust:
        raise DifflabError(
            f"{source}: is TorchScript, which is code of its author, and reading it may execute some; if you trust it, "
            "repeat this with --trust."
        )
    if (place := i3d_place()).exists():
        raise DifflabError(f"{place}: weights of I3D are there already; delete the file to replace them.")
    print(f"The weights of I3D are in {unpack_torchscript(source, place)}")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Zoo name, checkpoint file, or diffusers folder.")], config: Config = None
) -> None:
    """What a model is taken for: its card and the hash of its weights."""
    from difflab.zoo.load import load

    loaded = load(model, config=config)
    print(loaded.card.summary())
    print(loaded.card.model_dump_json(indent=2))
    count = sum(p.numel() for p in loaded.network.parameters())
    print(f"{count:,} parameters, weights sha256 {loaded.weights_hash}")


def convert(
    source: Annotated[str, typer.Argument(help="Zoo name, checkpoint file, or diffusers folder.")],
    dest: Annotated[str, typer.Argument(help="File or folder to write.")],
    to: Annotated[str, typer.Option(help="difflab (safetensors and card), diffusers (folder), official (plain state dict, as its --use_pretrained files).")] = "difflab",
    config: Config = None,
) -> None:  # fmt: skip
    """Convert a model between formats, bit for bit."""
    from difflab.zoo.convert import convert as run

    print(run(source, dest, to, **({"config": config} if config else {})))  # type: ignore[arg-type]
