"""From a recipe to a model with its card: runs the loop, logs, saves, draws sample grids on the way."""

from __future__ import annotations

import math
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab import files
from difflab.data.clips import Window, open_clips
from difflab.data.dataset import Dataset
from difflab.data.latents import Latents, is_latents
from difflab.data.shapes import Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.data.sources import SHAPES, open_data
from difflab.data.writers import save_samples
from difflab.errors import DifflabError
from difflab.nets.autoencoder import KLAutoencoder
from difflab.score.features import SmallFeatures, save_small_features
from difflab.train.checks import check_data
from difflab.train.config import AnyRecipe, AutoencoderRecipe, DataConfig, DiffusionRecipe
from difflab.train.feed import captions_in
from difflab.train.loop import CHECKPOINT, Progress, Trainer
from difflab.train.objective import DiffusionObjective, TextObjective
from difflab.train.parallel import Parallel
from difflab.zoo.autoencoder import AutoencoderCard, codec_config
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import save_checkpoint, write_with_card
from difflab.zoo.codec import encode
from difflab.zoo.families import FAMILIES
from difflab.zoo.model import build_model
from difflab.zoo.sampling import sample
from difflab.zoo.text import SmallTextCard, text_config

GRID = 64  # samples in a grid
_INITIAL_SHARE = 0.01  # of the initial weights in the average, that goes unnoticed


def train(
    recipe: AnyRecipe,
    out: Path,
    *,
    resume: bool = False,
    parallel: Parallel = "ddp",
    snapshots: Collection[int] = (),
    watch: Callable[[Progress], None] | None = None,
    reads: Callable[[int, int], None] | None = None,
) -> Path:
    """Train by `recipe` in the folder `out`, or with `resume` go on with the training that is there, if one is; returns
    the finished model's file.

    The folder gets `checkpoint` (the whole state), TensorBoard logs, `samples/<step>.png` and, at the end,
    `<name>.safetensors`; after the steps in `snapshots` also the model as it is then. `watch` sees every step, and
    `reads`, before the first, how many captions a text encoder has read, of how many. Ctrl-C lets the step that runs
    end and saves the state before the interrupt goes on; a second Ctrl-C does not wait and saves nothing.

    With several processes, as torchrun starts them, `parallel` says how they share the training; it is no part of the
    recipe, and may be another one when it goes on, as may their number. Ctrl-C then saves nothing: processes would do
    so at different steps.

    Raises DifflabError when a training is there already and `resume` is off, or its data cannot be read.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise DifflabError(f"{out}: a training is here already; continue it with --resume, or choose another folder.")
    dataset = _open(recipe.data)
    check_data(recipe, dataset)
    trainer = Trainer(recipe, dataset, out, parallel)
    if resume and trainer.begun():
        trainer.resume()
    if isinstance(trainer.objective, DiffusionObjective):  # before anything is written
        trainer.objective.opened_autoencoder(trainer.accelerator.device)
        trainer.objective.read_ahead(dataset, trainer.accelerator.device, reads)
    main = trainer.accelerator.is_main_process
    if main:
        _warn_of_initial_weights(recipe, trainer)
    log = _Log(out) if main else None
    with closing(log) if log else nullcontext(), _interrupts_between_steps(trainer) as interrupted:
        for progress in trainer.run():
            if log:
                log.see(progress, recipe)
            if progress.step in snapshots:  # before the state: one past it would never make it
                _save_model(recipe, trainer, snapshot_file(out, progress.step))
            if progress.step % recipe.save_every == 0 or progress.step == recipe.steps or interrupted():
                trainer.save()
            if interrupted():
                raise KeyboardInterrupt
            if isinstance(recipe, DiffusionRecipe) and progress.step % recipe.sample_every == 0:
                state = trainer.averaged_state()
                if main:
                    save_samples(out / "samples" / f"{progress.step:07d}.png", _grid(recipe, trainer, state))
            if watch:
                watch(progress)
    path = _finish(recipe, trainer, out)
    trainer.accelerator.wait_for_everyone()
    return path


def check_begun(folder: Path) -> None:
    """Raise DifflabError where no training is there to go on with."""
    if not (folder / CHECKPOINT).exists():
        raise DifflabError(f"{folder}: there is no training to go on with; begin one, or name its folder.")


def _warn_of_initial_weights(recipe: AnyRecipe, trainer: Trainer) -> None:
    """The average starts as a copy of the initial weights; of a model that it starts from, it may well keep some."""
    if trainer.ema is None or not isinstance(recipe, DiffusionRecipe) or recipe.start is not None:
        return
    share = trainer.ema.initial_share(recipe.steps)
    if share > _INITIAL_SHARE:
        due = math.floor(1e4 * _INITIAL_SHARE ** (1 / recipe.steps)) / 1e4
        warnings.warn(
            f"ema_rate {recipe.ema_rate:g} over {recipe.steps:,} steps leaves {share:.0%} of the initial weights in "
            f"the average that is saved; take an ema_rate of {due:g} at most, or more steps.",
            UserWarning,
            stacklevel=3,
        )


@contextmanager
def _interrupts_between_steps(trainer: Trainer) -> Iterator[Callable[[], bool]]:
    """Holds a first Ctrl-C back, to be asked for between steps: inside one, weights and counter do not agree.

    Only the main thread of a process without others may do so; elsewhere nothing is held back.
    """
    came = False

    def hold(_signal: int, _frame: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    if threading.current_thread() is not threading.main_thread() or trainer.accelerator.num_processes > 1:
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def _open(data: DataConfig) -> Dataset | Latents:
    if is_latents(Path(data.source)):
        return Latents(Path(data.source))
    if data.source == SHAPES and data.frames is not None:
        return ShapesClips(data.size, data.frames, seed=data.seed)
    if data.source == SHAPES:
        return Shapes(data.size, seed=data.seed)
    if data.frames is not None:
        window = Window(data.frames, data.stride, data.fps, short=data.short)
        found = open_clips(data.source, window, data.size, split=data.split, crop=data.crop)
        found.warn()
        return found
    return open_data(data.source, size=data.size, split=data.split, crop=data.crop)


class _Log:
    """Means since the last entry, to TensorBoard. Reading a loss waits for the device, so it happens only here."""

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with files.explained(out):
            self.writer = SummaryWriter(str(out / "logs"))
        self.losses: list[torch.Tensor] = []
        self.since: tuple[int, float] | None = None

    def see(self, progress: Progress, recipe: AnyRecipe) -> None:
        self.losses.append(progress.loss)
        if progress.step % recipe.log_every:
            return
        self.writer.add_scalar("loss", torch.stack(self.losses).mean().item(), progress.step)
        self.writer.add_scalar("gradient norm", float(progress.grad_norm), progress.step)
        self.writer.add_scalar("learning rate", progress.lr, progress.step)
        if self.since is not None:
            steps, seconds = progress.step - self.since[0], progress.seconds - self.since[1]
            self.writer.add_scalar("samples per second", steps * recipe.batch / seconds, progress.step)
        self.losses, self.since = [], (progress.step, progress.seconds)

    def close(self) -> None:
        self.writer.close()


def _grid(recipe: DiffusionRecipe, trainer: Trainer, state: dict[str, torch.Tensor]) -> np.ndarray:
    model = build_model(_card(recipe, trainer, {}), state, trainer.accelerator.device)
    classes = "random" if recipe.network.classes is None else "balanced"
    conditions = None
    if recipe.text_encoder is not None:  # read by the trainer's encoder: opening a large one takes long
        assert isinstance(trainer.objective, DiffusionObjective)
        indices = np.arange(GRID) % len(trainer.feed.dataset)
        captions = captions_in(trainer.feed.dataset, indices, np.zeros(GRID))
        conditions = trainer.objective.told(captions, trainer.accelerator.device)
    return sample(model, GRID, steps=min(50, model.schedule.timesteps), classes=classes, conditions=conditions)


def snapshot_file(out: Path, step: int) -> Path:
    """Where a training in the folder `out` leaves the model of a step."""
    return out / "snapshots" / f"{step:07d}.safetensors"


def _save_model(recipe: AnyRecipe, trainer: Trainer, path: Path) -> None:
    assert isinstance(recipe, DiffusionRecipe), "snapshots are of diffusion models"
    state = trainer.averaged_state()
    if trainer.accelerator.is_main_process:
        save_checkpoint(path, _card(recipe, trainer, _record(recipe, trainer)), state)


def _finish(recipe: AnyRecipe, trainer: Trainer, out: Path) -> Path:
    path = out / f"{recipe.name}.safetensors"
    state = trainer.averaged_state()
    if not trainer.accelerator.is_main_process:
        return path
    if isinstance(recipe, DiffusionRecipe):
        save_checkpoint(path, _card(recipe, trainer, _record(recipe, trainer)), state)
    elif isinstance(trainer.objective, TextObjective):
        text = SmallTextCard(name=recipe.name, network=trainer.objective.config, training=_record(recipe, trainer))
        write_with_card(path, text, state)
    elif isinstance(recipe, AutoencoderRecipe):
        done = _record(recipe, trainer)
        scale = _latent_scale(recipe, trainer, state)
        card = AutoencoderCard(name=recipe.name, network=recipe.network, scale=scale, training=done)
        write_with_card(path, card, state)
    else:
        assert isinstance(trainer.bare, SmallFeatures)
        network = SmallFeatures(trainer.bare.config)
        network.load_state_dict(state)
        save_small_features(path, network, recipe.name)
    return path


@torch.no_grad()
def _latent_scale(recipe: AutoencoderRecipe, trainer: Trainer, state: dict[str, torch.Tensor]) -> float:
    """1 / the standard deviation of the latents of some data, as latent diffusion found its 0.18215."""
    network, generator = KLAutoencoder(**recipe.network.model_dump()), torch.Generator().manual_seed(recipe.seed)
    network.load_state_dict(state)
    network.to(trainer.accelerator.device).eval()
    feed, latents = trainer.feed.alone(), []
    for step in range(max(1, 2048 // recipe.batch)):
        posterior = network.encode(encode(feed.at(step).pictures).to(trainer.accelerator.device))
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents.append(posterior.sample(noise.to(posterior.mean.device)))
    return float(1.0 / torch.cat(latents).std())


def _card(recipe: DiffusionRecipe, trainer: Trainer, training: dict[str, Any]) -> Card:
    assert isinstance(trainer.objective, DiffusionObjective)
    autoencoder = trainer.objective.opened_autoencoder(trainer.accelerator.device)
    codec = None
    if autoencoder is not None and recipe.autoencoder is not None:
        codec = codec_config(recipe.autoencoder, autoencoder)
    text = None
    encoder = trainer.objective.opened_text_encoder(trainer.accelerator.device)
    if encoder is not None and recipe.text_encoder is not None:
        text = text_config(recipe.text_encoder, encoder)
    names = trainer.feed.dataset.classes or ()
    return Card(
        name=recipe.name,
        family=recipe.family,
        network=recipe.network,
        codec=codec,
        text=text,
        schedule=recipe.schedule,
        prediction=recipe.prediction,
        variance=recipe.variance,
        rounding=FAMILIES[recipe.family].rounding,
        classes=names if len(names) == recipe.network.classes else (),
        source="trained by difflab",
        weights="ema",
        training=training,
    )


def _record(recipe: AnyRecipe, trainer: Trainer) -> dict[str, Any]:
    """How the model was made; `before` has the same of the model that it started from."""
    objective = trainer.objective
    before = objective.before if isinstance(objective, DiffusionObjective) else {}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "steps": trainer.step,
        "images": trainer.step * recipe.batch,
        "seconds": round(trainer.seconds),
        "hardware": f"{trainer.accelerator.num_processes} x {_hardware(trainer.accelerator.device)}",
        "torch": torch.__version__,
        **({"before": before} if before else {}),
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
