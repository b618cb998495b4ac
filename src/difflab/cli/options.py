"""Options that several commands share."""

from __future__ import annotations

import os
from typing import Annotated, Any, get_args

import typer

Config = Annotated[str | None, typer.Option(help="What a checkpoint does not say: cifar10.yml, celeba.yml, church.yml, bedroom.yml or a path; a size such as DiT-B/4 or ADM-256; or fields, num_heads=4,num_classes=10.")]  # fmt: skip
Vae = Annotated[str | None, typer.Option(help="Another autoencoder for a latent model: a name, a folder in diffusers' layout, or a hub id such as stabilityai/sd-vae-ft-mse.")]  # fmt: skip
Seed = Annotated[int, typer.Option(min=0, help="Seed of the noise.")]
Batch = Annotated[
    int,
    typer.Option(min=1, help="Samples at a time; decides speed and memory, and the numbers only in their last digits."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ..; a GPU where there is one when left out.")]
Features = Annotated[str | None, typer.Option(help="Feature network: inception, shapes-image, cifar10-image, or a .safetensors file.")]  # fmt: skip
Split = Annotated[str | None, typer.Option(help="Split of data that has several: train, test, ..")]
Size = Annotated[int | None, typer.Option(min=1, max=8192, help="Bring pictures to SIZE x SIZE pixels.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Pass over pictures that cannot be decoded, and count them.")]  # fmt: skip
Frames = Annotated[
    int | None, typer.Option(min=1, help="Frames of the clips taken from films, for fvd and kvd and their statistics.")
]
Stride = Annotated[int, typer.Option(min=1, help="Take every STRIDE-th frame of a film.")]
Fps = Annotated[float | None, typer.Option(help="Bring films to so many frames a second before that.")]
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Folder for the results, on this machine or in an object store, as s3://bucket/run.")]  # fmt: skip


def one_of(names: Any) -> str:
    """The members of a Literal for a help text: "a, b or c"."""
    *head, last = get_args(names)
    return f"{', '.join(head)} or {last}"


def pick_device(device: str | None) -> str:
    """The device asked for, or a GPU where there is one. Raises DifflabError for one that is not there."""
    import torch

    from difflab.errors import DifflabError

    if device is None:
        local = os.environ.get("LOCAL_RANK")  # set by torchrun: each process has a GPU of its own
        return (f"cuda:{local}" if local else "cuda") if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise DifflabError(f"device {device!r} is not available here; use cpu, or leave --device out.") from error
    return device
