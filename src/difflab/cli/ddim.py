"""`difflab ddim`: the flags of ermongroup/ddim's main.py, as written there.

What differs on purpose: sample i has its own noise, so an interrupted `--fid` goes on where it stopped without repeating
pictures, and 50,000 pictures are 50,000; nothing needs a GPU; errors are errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflab.cli.options import Batch, Device, pick_device

if TYPE_CHECKING:
    from difflab.zoo.draw import Draw
    from difflab.zoo.model import Model
    from difflab.zoo.official import OfficialConfig

_SAMPLERS = {"generalized": "ddim", "ddpm_noisy": "ddpm-noisy"}
_PRETRAINED = {
    "CIFAR10": "ema_cifar10",
    "church_outdoor": "ema_lsun_church",
    "bedroom": "ema_lsun_bedroom",
    "cat": "ema_lsun_cat",
}
_DATA = {"CIFAR10": "cifar10", "CELEBA": "celeba", "church_outdoor": "lsun-church", "bedroom": "lsun-bedroom"}
OFFICIAL_CHECKPOINT, OWN_CHECKPOINT = "ckpt.pth", "checkpoint"
SEQUENCES = 8  # latents of --sequence
RUN_FILE = ".run.json"  # in the folder of --fid: what its pictures were drawn with
SHARES = [k / 10 for k in range(11)]  # of --interpolation


def ddim(
    config: Annotated[str, typer.Option(help="cifar10.yml, celeba.yml, church.yml, bedroom.yml, or a path.")],
    exp: Annotated[Path, typer.Option(help="Folder of everything that runs write.")] = Path("exp"),
    doc: Annotated[str, typer.Option(help="Name of the run: checkpoints lie in EXP/logs/DOC.")] = "",
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead of training.")] = False,
    fid: Annotated[bool, typer.Option("--fid", help="Fill the image folder with numbered pictures.")] = False,
    interpolation: Annotated[bool, typer.Option("--interpolation", help="11 pictures between two latents.")] = False,
    sequence: Annotated[bool, typer.Option("--sequence", help="The x0 predictions of every step, for 8 latents.")] = False,
    image_folder: Annotated[str, typer.Option("--image_folder", "-i", help="Name below EXP/image_samples.")] = "images",
    use_pretrained: Annotated[bool, typer.Option("--use_pretrained", help="The released model of the config's data set.")] = False,
    sample_type: Annotated[str, typer.Option("--sample_type", help="generalized or ddpm_noisy.")] = "generalized",
    skip_type: Annotated[str, typer.Option("--skip_type", help="uniform or quad.")] = "uniform",
    timesteps: Annotated[int, typer.Option(help="Steps asked for; the official grid may make more.")] = 1000,
    eta: Annotated[float, typer.Option(help="0 deterministic, 1 DDPM.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, or of the training.")] = 1234,
    ni: Annotated[bool, typer.Option("--ni", help="Do not ask before going on in a folder that is there.")] = False,
    resume_training: Annotated[bool, typer.Option("--resume_training", help="Go on with the training of DOC.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Pictures of --fid (not an official flag).")] = 50_000,
    batch: Batch = 64,
    device: Device = None,
) -> None:  # fmt: skip
    """Run a command written for ermongroup/ddim."""
    from difflab.errors import DifflabError
    from difflab.zoo.official import read_config

    for option, name in (("--image_folder", image_folder), ("--doc", doc)):
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DifflabError(f"{option} is {name!r}, but must name a folder below --exp.")
    settings = read_config(config)
    if not sample:
        _train(settings, doc, exp / "logs" / doc, resume_training, seed)
        return
    if sample_type not in _SAMPLERS:
        raise DifflabError(f"--sample_type is {sample_type!r}, but must be generalized or ddpm_noisy.")
    if skip_type not in ("uniform", "quad"):
        raise DifflabError(f"--skip_type is {skip_type!r}, but must be uniform or quad.")
    modes = [name for name, on in (("fid", fid), ("interpolation", interpolation), ("sequence", sequence)) if on]
    if len(modes) != 1:
        raise DifflabError(
            f"{len(modes)} of --fid, --interpolation and --sequence were given, but --sample needs exactly one."
        )
    model = _model(settings, config, exp / "logs" / doc, use_pretrained, pick_device(device))
    print(model.card.summary())
    folder = exp / "image_samples" / image_folder
    draw = _draw(model, sample_type, skip_type, timesteps, eta)
    if sequence:
        _clear(folder, ni)
    if fid:
        _same_run(folder, model, draw, seed)
    {"fid": _fid, "interpolation": _interpolation, "sequence": _sequence}[modes[0]](
        model, draw, seed, folder, count, batch
    )


def _draw(model: Model, sample_type: str, skip_type: str, timesteps: int, eta: float) -> Draw:
    from difflab.zoo.draw import Draw, grid_note, plan

    eta = eta if sample_type == "generalized" else 0.0  # the official code ignores it there
    draw = Draw(_SAMPLERS[sample_type], timesteps, eta, skip_type, official_grid=True)  # type: ignore[arg-type]
    plan(model, draw)  # refuses what does not fit before a folder is touched
    if note := grid_note(model, draw):
        print(note)
    return draw


def _model(settings: OfficialConfig, config: str, logs: Path, use_pretrained: bool, device: str) -> Model:
    from difflab.errors import DifflabError
    from difflab.zoo.load import load

    if use_pretrained:
        name = _PRETRAINED.get(settings.data.category or "", _PRETRAINED.get(settings.data.dataset))
        if name is None:
            raise DifflabError(
                f"{config}: there is no released model for {settings.data.dataset}; give --doc with a checkpoint."
            )
        return load(name, config=settings, device=device)
    number = settings.sampling.ckpt_id if settings.sampling else None
    path = logs / (f"ckpt_{number}.pth" if number is not None else OFFICIAL_CHECKPOINT)
    if not path.exists() and number is None and (logs / OWN_CHECKPOINT / "state.json").exists():
        path = logs / OWN_CHECKPOINT  # of a training begun by this command
    if not path.exists():
        raise DifflabError(
            f"{path}: there is no checkpoint; put the official trainer's file there, or give --use_pretrained."
        )
    return load(path, config=settings, device=device)


def _clear(folder: Path, ni: bool) -> None:
    """As the official code before --sequence: pictures of another run are removed, if the user agrees or said --ni."""
    from difflab.errors import DifflabError

    pictures = sorted(folder.glob("*.png"))
    if not pictures:
        return
    if not ni and not typer.confirm(f"{folder} holds {len(pictures)} pictures. Remove them?"):
        raise DifflabError(f"{folder}: left as it is; choose another --image_folder.")
    for picture in pictures:
        picture.unlink()


def _same_run(folder: Path, model: Model, draw: Draw, seed: int) -> None:
    """Refuse to fill up a folder whose pictures were drawn with other settings."""
    import json
    from dataclasses import asdict

    from difflab import files
    from difflab.errors import DifflabError

    record = folder / RUN_FILE
    now = json.loads(json.dumps({"weights": model.weights_hash, "seed": seed, **asdict(draw)}))  # JSON has no tuples
    if not record.exists() and any(folder.glob("*.png")):
        raise DifflabError(f"{folder}: holds pictures of an unknown run; choose another --image_folder.")
    try:
        before = {**json.loads(record.read_text(encoding="utf-8"))} if record.exists() else now
    except (ValueError, TypeError) as error:
        raise DifflabError(f"{record}: this record of the run is damaged; choose another --image_folder.") from error
    if changed := [name for name in now if before.get(name) != now[name]]:
        was, is_now = before.get(changed[0]), now[changed[0]]
        raise DifflabError(
            f"{folder}: its pictures were drawn with {changed[0]} {was}, not {is_now}; choose another --image_folder."
        )
    files.write_json(record, now)


def _fid(model: Model, draw: Draw, seed: int, folder: Path, count: int, batch: int) -> None:
    from difflab.cli.terminal import with_bar
    from difflab.zoo.sampling import sample_batches

    missing = [i for i in range(count) if not (folder / f"{i}.png").exists()]
    if len(missing) < count:
        print(f"{count - len(missing)} of {count} pictures are there already")
    numbers = iter(missing)
    for images in with_bar(sample_batches(model, draw, seed, missing, batch), len(missing), "pictures"):
        for image in images:
            _save(folder / f"{next(numbers)}.png", image)
    print(f"{count} pictures in {folder}")


def _interpolation(model: Model, draw: Draw, seed: int, folder: Path, count: int, batch: int) -> None:
    import torch

    from difflab.core.noise import StartedNoise, slerp
    from difflab.core.sampler import final
    from difflab.zoo.sampling import seeded_noise, walk

    z1, z2 = seeded_noise(model, seed, [0, 1]).draw(0)
    latents = torch.stack([slerp(z1, z2, share) for share in SHARES])
    noise = StartedNoise(latents, seeded_noise(model, seed, range(len(SHARES))))
    images = model.codec.decode(final(walk(model, draw, noise)))
    for number, image in enumerate(images):
        _save(folder / f"{number}.png", image)
    print(f"{len(images)} pictures in {folder}")


def _sequence(model: Model, draw: Draw, seed: int, folder: Path, count: int, batch: int) -> None:
    from difflab.zoo.sampling import seeded_noise, walk

    steps = 0
    for steps, step in enumerate(walk(model, draw, seeded_noise(model, seed, range(SEQUENCES))), start=1):
        for number, image in enumerate(model.codec.decode(step.estimate.x0)):
            _save(folder / f"{number}_{steps - 1}.png", image)
    print(f"{SEQUENCES} sequences of {steps} pictures in {folder}")


def _save(path: Path, image: object) -> None:
    from PIL import Image

    from difflab import files

    with files.writing(path, sync=False) as file:
        Image.fromarray(image.squeeze()).save(file, "PNG")  # type: ignore[attr-defined]


def _train(settings: OfficialConfig, doc: str, folder: Path, resume: bool, seed: int) -> None:
    """The official objective and optimiser, as a recipe; the state goes to the folder's `checkpoint`."""
    from difflab.cli.training import watching
    from difflab.data.sources import open_data
    from difflab.errors import DifflabError
    from difflab.train.config import DataConfig, DiffusionRecipe, OptimConfig
    from difflab.train.run import check_begun, train

    if (folder / OFFICIAL_CHECKPOINT).exists():
        raise DifflabError(
            f"{folder / OFFICIAL_CHECKPOINT}: a training of the official code is here, which difflab can sample from but "
            "not continue; choose another --doc."
        )
    if settings.training is None or settings.optim is None:
        raise DifflabError(
            "the config has no groups training and optim, which a training needs; add --sample to sample."
        )
    source = _DATA.get(settings.data.category or "", _DATA.get(settings.data.dataset))
    if source is None:
        raise DifflabError(
            f"the config's data set {settings.data.dataset!r} is not known; train with a recipe instead."
        )
    optim, card, batch = settings.optim, settings.card_fields(), settings.training.batch_size
    pictures = len(open_data(source, split="train" if source in ("cifar10", "celeba") else None))
    recipe = DiffusionRecipe(
        name=doc or source,
        network=card["network"],
        schedule=card["schedule"],
        variance=card["variance"],
        reduction="sum",
        timesteps="antithetic",
        ema_rate=settings.model.ema_rate if settings.model.ema else 0.0,
        data=DataConfig(
            source=source, size=settings.data.image_size, flip=settings.data.random_flip,
            dequantization=settings.data.dequantization,
        ),
        optim=OptimConfig(
            name=optim.optimizer.lower(),  # type: ignore[arg-type]
            lr=optim.lr, betas=(optim.beta1, 0.999), eps=optim.eps, weight_decay=optim.weight_decay,
            amsgrad=optim.amsgrad, grad_clip=optim.grad_clip,
        ),
        steps=settings.training.n_epochs * -(-pictures // batch),
        batch=batch,
        save_every=settings.training.snapshot_freq,
        seed=seed,
    )  # fmt: skip
    if resume:
        check_begun(folder)
    with watching(recipe) as (watch, _):
        path = train(recipe, folder, resume=resume, watch=watch)
    print(f"{recipe.name}: {path}")
