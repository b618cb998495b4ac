"""`difflab data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difflab.cli.options import Batch, Device, Size, SkipBroken, Split

app = typer.Typer(help="Data sets: which have a name, what a path is taken for.", invoke_without_command=True)


@app.callback()
def names(context: typer.Context) -> None:
    """List the data sets that have a name, and where each is looked for."""
    if context.invoked_subcommand is not None:
        return
    from difflab.cli.terminal import print_table
    from difflab.data.film_sets import FILM_SETS
    from difflab.data.sources import KNOWN, REFERENCE_BATCHES, SHAPES, data_root

    origins = {**{name: known.origin for name, known in KNOWN.items()}, **FILM_SETS}
    here = {name: "yes" if (data_root() / name).is_dir() else "" for name in origins}
    print_table(
        ["name", "here", "from"],
        [[SHAPES, "yes", "ships, drawn on the fly"], *([name, here[name], origin] for name, origin in origins.items())],
    )
    print(f"\nEach is looked for in {data_root()}/NAME; $DIFFLAB_DATA names another place.\n")
    print_table(
        ["reference batches of ADM, given by their path", "from"], [[*row] for row in REFERENCE_BATCHES.items()]
    )


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="Data set name, folder, archive or lmdb.")],
    grid: Annotated[Path | None, typer.Option(help="Write the first 64 pictures as grid.png.")] = None,
    split: Split = None,
    size: Size = None,
    skip_broken: SkipBroken = False,
) -> None:
    """Say what a source is taken for; decode all of it once, or of films look into each, so that what is broken is known."""
    from difflab.data.clips import describe_films
    from difflab.data.dataset import Captioned, batches
    from difflab.data.film_sets import holds_films
    from difflab.data.sources import open_data
    from difflab.data.writers import save_samples
    from difflab.errors import DifflabError

    if holds_films(source):
        if grid is not None or size is not None or skip_broken:
            raise DifflabError(
                f"{source}: holds films, which --grid, --size and --skip-broken are not for; leave them out."
            )
        print("\n".join(describe_films(source, split)))
        return
    dataset = open_data(source, split=split, size=size)
    print(dataset.description)
    kept, count, skipped, shape = None, 0, 0, (0, 0)
    for batch in batches(dataset, 64, workers=2, skip_broken=skip_broken):
        kept = batch.x if kept is None else kept
        count, skipped, shape = count + len(batch.x), batch.skipped, batch.x.shape[1:3]
    print(f"{count} pictures of {shape[1]}x{shape[0]}" + (f", {skipped} broken ones passed over" if skipped else ""))
    if dataset.classes:
        shown = ", ".join(dataset.classes[:12]) + (", .." if len(dataset.classes) > 12 else "")
        print(f"{len(dataset.classes)} classes: {shown}")
    if isinstance(dataset, Captioned):
        captions = sum(len(dataset.captions_of(index)) for index in range(len(dataset)))
        print(f"{captions} captions of {len(dataset)} pictures, such as: {dataset.captions_of(0)[0]}")
    if grid is not None and kept is not None:
        save_samples(grid, kept)
        print(f"grid: {grid}")


@app.command()
def latents(
    source: Annotated[str, typer.Argument(help="Data set name, folder, archive or lmdb.")],
    vae: Annotated[str, typer.Option(help="Autoencoder: a name, a folder in diffusers' layout, or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the latents; a recipe's data.source may then be it.")],
    split: Split = None,
    size: Size = None,
    crop: Annotated[str | None, typer.Option(help="How pictures are brought to --size: center-short, stretch, celeba, or adm, as for ImageNet.")] = None,
    batch: Batch = 32,
    device: Device = None,
) -> None:  # fmt: skip
    """Store the latents of pictures, as they are and mirrored, so that a training need not encode them."""
    from difflab.cli.draw import checked
    from difflab.cli.options import pick_device
    from difflab.cli.terminal import bar_to
    from difflab.data.dataset import Crop
    from difflab.train.latents import store_latents

    how = None if crop is None else checked(crop, Crop)
    with bar_to(None, "pictures") as watch:
        count = store_latents(
            source, vae, out, split=split, size=size, crop=how, batch=batch, device=pick_device(device), watch=watch
        )
    print(f"latents of {count} pictures in {out}")
