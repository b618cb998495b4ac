"""`difflab dit`: the flags of facebookresearch/DiT's sample.py, sample_ddp.py and train.py, as written there.

What differs on purpose: sample i has its own noise and class, so pictures do not depend on the number of processes, and
an interrupted run goes on; "no class" is the model's own, whatever --num-classes is; nothing needs a GPU; errors are
errors. Under torchrun every process draws its share.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflab.cli.options import Device, pick_device

if TYPE_CHECKING:
    from difflab.zoo.draw import Classes as Asked
    from difflab.zoo.draw import Draw
    from difflab.zoo.model import Model

app = typer.Typer(help="Run a command written for facebookresearch/DiT.", no_args_is_help=True)

LABELS = (207, 360, 387, 974, 88, 979, 417, 279)  # of sample.py

Size = Annotated[int, typer.Option("--image-size", help="256 or 512.")]
Name = Annotated[str, typer.Option("--model", help="A size of DiT: DiT-XL/2, DiT-B/4, ..")]
Classes = Annotated[int, typer.Option("--num-classes", min=1, help="Classes of the model.")]
Checkpoint = Annotated[str | None, typer.Option("--ckpt", help="A checkpoint; the released DiT-XL/2 when left out.")]
SdVae = Annotated[str, typer.Option("--vae", help="ema or mse: which autoencoder of Stable Diffusion; or another one by path.")]  # fmt: skip
Steps = Annotated[int, typer.Option("--num-sampling-steps", min=2, help="Ancestral steps.")]


@app.command("sample")
def sample(
    model: Name = "DiT-XL/2",
    vae: SdVae = "mse",
    image_size: Size = 256,
    num_classes: Classes = 1000,
    cfg_scale: Annotated[float, typer.Option("--cfg-scale", help="Guidance scale, on three channels.")] = 4.0,
    num_sampling_steps: Steps = 250,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    ckpt: Checkpoint = None,
    out: Annotated[Path, typer.Option(help="The grid (not an official flag).")] = Path("sample.png"),
    device: Device = None,
) -> None:
    """sample.py: eight pictures of fixed classes in one grid."""
    import numpy as np
    from PIL import Image

    from difflab import files
    from difflab.data.writers import grid
    from difflab.zoo.sampling import sample_batches

    loaded = _model(model, ckpt, image_size, num_classes, vae, device)
    classes = tuple(label for label in LABELS if label < num_classes) or (0,)
    draw = _draw(num_sampling_steps, cfg_scale, classes)
    pictures = np.concatenate(list(sample_batches(loaded, draw, seed, range(len(LABELS)), len(LABELS))))
    with files.writing(out) as file:
        Image.fromarray(grid(pictures, columns=4)).save(file, "PNG")
    print(f"{len(pictures)} pictures of the classes {', '.join(map(str, classes))} in {out}")


@app.command("sample_ddp")
def sample_ddp(
    model: Name = "DiT-XL/2",
    vae: SdVae = "ema",
    sample_dir: Annotated[Path, typer.Option("--sample-dir", help="Folder of the samples.")] = Path("samples"),
    per_proc_batch_size: Annotated[int, typer.Option("--per-proc-batch-size", min=1, help="Samples at a time.")] = 32,
    num_fid_samples: Annotated[int, typer.Option("--num-fid-samples", min=1, help="How many samples.")] = 50_000,
    image_size: Size = 256,
    num_classes: Classes = 1000,
    cfg_scale: Annotated[float, typer.Option("--cfg-scale", min=1.0, help="Guidance scale, on three channels; 1 is off.")] = 1.5,
    num_sampling_steps: Steps = 250,
    global_seed: Annotated[int, typer.Option("--global-seed", min=0, help="Seed of noise and classes.")] = 0,
    tf32: Annotated[bool, typer.Option("--tf32/--no-tf32", help="Matrix products in TF32, on GPUs that have it.")] = True,
    ckpt: Checkpoint = None,
    device: Device = None,
) -> None:  # fmt: skip
    """sample_ddp.py: many samples of random classes in one .npz for an evaluator."""
    import torch

    from difflab.cli.terminal import bar_to
    from difflab.study.draws import Share, draw_npz

    share = Share.of_environment()
    loaded = _model(model, ckpt, image_size, num_classes, vae, device)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    stem = "pretrained" if ckpt is None else Path(ckpt).stem
    name = f"{model.replace('/', '-')}-{stem}-size-{image_size}-vae-{Path(vae).name}-cfg-{cfg_scale}-seed-{global_seed}"
    out = sample_dir / f"{name}-steps-{num_sampling_steps}.npz"  # the official name leaves the steps out
    draw = _draw(num_sampling_steps, cfg_scale, "random")
    with bar_to(num_fid_samples, "samples") as watch:
        draw_npz(
            out, loaded, draw, n=num_fid_samples, seed=global_seed, batch=per_proc_batch_size, share=share, watch=watch
        )
    if share.rank == 0:
        print(f"{num_fid_samples} samples in {out}; score them with `difflab score adm {out} REFERENCE.npz`")


@app.command("train")
def train(
    data_path: Annotated[str, typer.Option("--data-path", help="Folder with a folder of pictures for each class.")],
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Folder of the runs.")] = Path("results"),
    model: Name = "DiT-XL/2",
    image_size: Size = 256,
    num_classes: Classes = 1000,
    epochs: Annotated[int, typer.Option(min=1)] = 1400,
    global_batch_size: Annotated[int, typer.Option("--global-batch-size", min=1)] = 256,
    global_seed: Annotated[int, typer.Option("--global-seed", min=0)] = 0,
    vae: SdVae = "ema",
    num_workers: Annotated[int, typer.Option("--num-workers", min=0, help="Taken, but threads are chosen here.")] = 4,
    log_every: Annotated[int, typer.Option("--log-every", min=1)] = 100,
    ckpt_every: Annotated[int, typer.Option("--ckpt-every", min=1)] = 50_000,
    resume: Annotated[Path | None, typer.Option(help="Go on with the training in this folder (not an official flag).")] = None,
) -> None:  # fmt: skip
    """train.py: the official recipe, on a folder of pictures."""
    from difflab.cli.training import watching
    from difflab.data.sources import open_data
    from difflab.errors import DifflabError
    from difflab.train.config import DataConfig, DiffusionRecipe, OptimConfig
    from difflab.train.run import check_begun
    from difflab.train.run import train as run
    from difflab.zoo.families import DiTConfig
    from difflab.zoo.sizes import dit_size

    if image_size not in (256, 512):
        raise DifflabError(f"--image-size is {image_size}, but must be 256 or 512.")
    pictures = len(open_data(data_path))
    recipe = DiffusionRecipe(
        name=model.replace("/", "-"),
        family="dit",
        network=DiTConfig.model_validate(
            {**dit_size(model), "input_size": image_size // 8, "num_classes": num_classes}
        ),
        autoencoder=_vae(vae),
        variance="learned",
        data=DataConfig(source=data_path, size=image_size, crop="adm", split=None),
        optim=OptimConfig(name="adamw", lr=1e-4, grad_clip=None),
        steps=max(1, epochs * (pictures // global_batch_size)),
        batch=global_batch_size,
        seed=global_seed,
        log_every=log_every,
        save_every=ckpt_every,
    )
    folder = resume or results_dir / f"{len(list(results_dir.glob('*'))):03d}-{recipe.name}"
    if resume is not None:
        check_begun(resume)
    with watching(recipe) as (watch, _):
        path = run(recipe, folder, resume=resume is not None, watch=watch)
    print(f"{recipe.name}: {path}")


def _model(name: str, ckpt: str | None, image_size: int, num_classes: int, vae: str, device: str | None) -> Model:
    from difflab.errors import DifflabError
    from difflab.zoo.load import load
    from difflab.zoo.sizes import dit_size

    if image_size not in (256, 512):
        raise DifflabError(f"--image-size is {image_size}, but must be 256 or 512.")
    if ckpt is None and (name, num_classes) != ("DiT-XL/2", 1000):
        raise DifflabError(
            f"only DiT-XL/2 with 1000 classes was released, but {name} with {num_classes} was asked for; give --ckpt."
        )
    config = {**dit_size(name), "num_classes": num_classes, "input_size": image_size // 8}
    source = ckpt or f"dit-xl-2-{image_size}x{image_size}"
    loaded = load(source, config=config, vae=_vae(vae), device=pick_device(device))
    print(loaded.card.summary())
    return loaded


def _vae(name: str) -> str:
    return f"stabilityai/sd-vae-ft-{name}" if name in ("ema", "mse") else name


def _draw(steps: int, scale: float, classes: Asked) -> Draw:
    from difflab.core.guidance import Guidance
    from difflab.zoo.draw import Draw

    return Draw("ddpm", steps, spacing="respaced", classes=classes, guidance=Guidance(scale, channels=3))
