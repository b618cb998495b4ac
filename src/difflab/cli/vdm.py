"""`difflab vdm`: lucidrains' video-diffusion-pytorch by the names of its arguments, which it has for Python alone.

What differs on purpose: `--timesteps` of a model that is trained already visits so many of its timesteps, each told as
it was in training, in the place of a file that is refused; clips begin at a random frame, not always at the first, and
short ones are left out, not filled up with black; an interrupted training goes on; nothing needs a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from difflab.cli.options import Device, Seed, pick_device

app = typer.Typer(help="Use a model or a training of video-diffusion-pytorch.", no_args_is_help=True)

Frames = Annotated[int, typer.Option("--num_frames", min=1, help="Frames of a clip.")]
Side = Annotated[int, typer.Option("--image_size", min=1, help="Side of a frame in pixels.")]


@app.command("sample")
def sample(
    checkpoint: Annotated[str, typer.Argument(help="model-<m>.pt of its trainer, or any model of clips.")],
    timesteps: Annotated[int | None, typer.Option("--timesteps", min=1, help="Ancestral steps; all of the model's when left out.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num_frames", min=1, help="Frames of a clip; the model's own when left out.")] = None,
    image_size: Annotated[int | None, typer.Option("--image_size", min=1, help="Side of a frame, which the file does not tell.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="How many clips.")] = 16,
    cond_scale: Annotated[float, typer.Option("--cond_scale", min=0.0, help="Guidance scale; 1 is off.")] = 1.0,
    use_dynamic_thres: Annotated[bool, typer.Option("--use_dynamic_thres", help="Dynamic thresholding.")] = False,
    dynamic_thres_percentile: Annotated[float, typer.Option("--dynamic_thres_percentile", help="Its percentile.")] = 0.9,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="clips.gif, .mp4, .png, .npz, or a folder.")] = Path("clips.gif"),
    device: Device = None,
) -> None:  # fmt: skip
    """GaussianDiffusion.sample: clips from a trained model."""
    from difflab.cli.draw import draw_to
    from difflab.core.guidance import Guidance
    from difflab.data.writers import check_target
    from difflab.errors import DifflabError
    from difflab.zoo.draw import Draw
    from difflab.zoo.load import load

    told = {"image_size": image_size, "num_frames": num_frames}
    config = {name: value for name, value in told.items() if value is not None} or None
    model = load(checkpoint, config=config, device=pick_device(device))
    if model.frames is None:
        raise DifflabError(f"{checkpoint}: is a model of pictures; draw from it with `difflab sample`.")
    check_target(out, batch_size, clips=True)
    print(model.card.summary())
    percentile = dynamic_thres_percentile if use_dynamic_thres else None
    draw = Draw(
        "ddpm", model.steps if timesteps is None else timesteps, guidance=Guidance(cond_scale), percentile=percentile
    )
    draw_to(out, model, draw, batch_size, seed, batch_size, None)


@app.command("train")
def train(
    folder: Annotated[str, typer.Argument(help="Folder of films, of any usual kind, or a data set by name.")],
    timesteps: Annotated[int, typer.Option("--timesteps", min=2, help="Noise levels that are trained.")] = 1000,
    num_frames: Frames = 16,
    image_size: Side = 64,
    dim: Annotated[int, typer.Option("--dim", help="Base width.")] = 64,
    dim_mults: Annotated[str, typer.Option("--dim_mults", help="Width of each level, in base widths.")] = "1,2,4,8",
    channels: Annotated[int, typer.Option("--channels", help="Of a frame; 3, since films are read in colour.")] = 3,
    loss_type: Annotated[str, typer.Option("--loss_type", help="l1 or l2.")] = "l1",
    train_batch_size: Annotated[int, typer.Option("--train_batch_size", min=1)] = 32,
    train_lr: Annotated[float, typer.Option("--train_lr")] = 1e-4,
    train_num_steps: Annotated[int, typer.Option("--train_num_steps", min=1)] = 100_000,
    gradient_accumulate_every: Annotated[int, typer.Option("--gradient_accumulate_every", min=1, help="Batches a step.")] = 2,
    ema_decay: Annotated[float, typer.Option("--ema_decay", help="Here of every step, not of every tenth.")] = 0.995,
    save_and_sample_every: Annotated[int, typer.Option("--save_and_sample_every", min=1)] = 1000,
    max_grad_norm: Annotated[float | None, typer.Option("--max_grad_norm")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Half precision: bfloat16 here.")] = False,
    seed: Seed = 0,
    results_folder: Annotated[Path, typer.Option("--results_folder", help="Folder of the training.")] = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that is there (not of the reference).")] = False,
) -> None:  # fmt: skip
    """Trainer.train: an unconditional model of a folder's clips."""
    from difflab.cli.draw import checked
    from difflab.cli.training import watching
    from difflab.errors import DifflabError
    from difflab.train.config import parse_recipe
    from difflab.train.run import check_begun
    from difflab.train.run import train as run

    if channels != 3:
        raise DifflabError(f"--channels is {channels}, but films are read in colour; leave it out.")
    try:
        mults = [int(part) for part in dim_mults.split(",")]
    except ValueError as error:
        raise DifflabError(f"--dim_mults is {dim_mults!r}, but must be numbers, such as 1,2,4,8.") from error
    recipe = parse_recipe(
        {
            "name": "vdm", "family": "unet3d",
            "network": {"image_size": image_size, "num_frames": num_frames, "dim": dim, "dim_mults": mults},
            "schedule": {"name": "cosine-9999", "timesteps": timesteps},
            "error": checked(loss_type, Literal["l1", "l2"]),
            "data": {"source": folder, "size": image_size, "frames": num_frames, "flip": False},
            "optim": {"name": "adam", "lr": train_lr, "grad_clip": max_grad_norm},
            "ema_rate": ema_decay, "steps": train_num_steps, "seed": seed,
            "batch": train_batch_size * gradient_accumulate_every, "accumulate": gradient_accumulate_every,
            "precision": "bf16" if amp else "fp32",
            "save_every": save_and_sample_every, "sample_every": save_and_sample_every,
        },
        "difflab vdm train",
    )  # fmt: skip
    if resume:
        check_begun(results_folder)
    with watching(recipe) as (watch, _):
        print(f"model: {run(recipe, results_folder, resume=resume, watch=watch)}")
