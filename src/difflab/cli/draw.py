"""`difflab sample`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflab.cli.options import Batch, Config, Device, Seed, one_of, pick_device
from difflab.core.names import SamplerName, Spacing

if TYPE_CHECKING:
    import numpy as np


def sample(
    model: Annotated[str, typer.Argument(help="Zoo name, checkpoint file, or diffusers folder.")],
    out: Annotated[Path, typer.Option(help="samples.npz, grid.png, or a folder.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 64,
    sampler: Annotated[str, typer.Option(help=f"{one_of(SamplerName)}; ddpm is ancestral, ddpm-noisy ermongroup's.")] = "ddim",
    steps: Annotated[int, typer.Option(help="Sampler steps, 1 to the model's training timesteps.")] = 50,
    eta: Annotated[float, typer.Option(help="DDIM stochasticity, 0 (deterministic) to 1 (DDPM).")] = 0.0,
    spacing: Annotated[str | None, typer.Option(help=f"Where the steps lie: {one_of(Spacing)}; the family's own when left out (unet2d: uniform).")] = None,
    official_grid: Annotated[bool, typer.Option("--official-grid", help="The reference code's grid, quirks included; uniform and quad only.")] = False,
    clip: Annotated[bool | None, typer.Option("--clip/--no-clip", help="Clamp x0 to [-1, 1]; the sampler's habit when left out.")] = None,
    seed: Seed = 0,
    batch: Batch = 64,
    config: Config = None,
    prediction: Annotated[str | None, typer.Option(help="Read the output as eps, x0 or v, whatever the card says.")] = None,
    device: Device = None,
) -> None:  # fmt: skip
    """Draw samples from a model."""
    from difflab.data.writers import check_grid, save_samples
    from difflab.zoo.load import load
    from difflab.zoo.sampling import Draw, grid_note, sample_batches

    if out.suffix == ".png" and not out.is_dir():
        check_grid(out, n)
    loaded = load(model, config=config, prediction=prediction, device=pick_device(device))  # type: ignore[arg-type]
    print(loaded.card.summary())
    draw = Draw(sampler, steps, eta, spacing, official_grid, clip)  # type: ignore[arg-type]
    if note := grid_note(loaded, draw):
        print(note)
    batches = sample_batches(loaded, draw, seed, range(n), batch)
    count = save_samples(out, with_bar(batches, n, "samples"))
    print(f"{count} samples in {out}")


def with_bar(batches: Iterable[np.ndarray], total: int, what: str) -> Iterator[np.ndarray]:
    """Pass batches through, with a progress bar on a terminal."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
