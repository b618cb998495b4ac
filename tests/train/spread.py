"""Trainings that tests run in this process and, with torchrun, in two; what each process saw goes to a JSON file."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from difflab.data.shapes import SIZES, Shapes
from difflab.data.shapes_clips import ShapesClips
from difflab.train.config import AnyRecipe, parse_recipe
from difflab.train.loop import Trainer
from difflab.train.run import train

DIT = {
    "family": "dit", "timesteps": "antithetic", "variance": "learned", "data": {"source": "shapes", "size": 16},
    "network": {
        "input_size": 16, "in_channels": 3, "patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2,
        "num_classes": 20,
    },
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "dit": {**DIT, "accumulate": 2, "optim": {"name": "adamw", "lr": 1e-3, "grad_clip": 0.5}, "checkpointing": True},
    "muon": {
        "network": {
            "image_size": 16, "ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.0,
            "patch": 2, "groups": 4,
        },
        "data": {"source": "shapes", "size": 16}, "optim": {"name": "muon", "lr": 0.01}, "accumulate": 2,
    },
    "clips": {
        "family": "unet3d", "data": {"source": "shapes", "size": 16, "frames": 3, "images": 1},
        "optim": {"name": "sgd", "lr": 0.05, "grad_clip": 0.5}, "accumulate": 2,
        "network": {
            "image_size": 16, "num_frames": 3, "dim": 8, "dim_mults": [1, 2], "attn_heads": 1, "attn_dim_head": 8,
            "strict_mask": True, "norm": "rms",
        },
    },
    "features": {
        "kind": "features", "heads": {"count": 2, "other size": len(SIZES)}, "width": 8, "dim": 8, "noise": 0.5,
        "data": {"source": "shapes", "flip": False},
    },
    "autoencoder": {
        "kind": "autoencoder", "data": {"source": "shapes", "size": 16}, "batch": 64,
        "network": {"image_size": 16, "widths": [8, 8]},
    },
    "text": {"kind": "text", "data": {"source": "shapes"}, "width": 16, "depth": 1, "heads": 2},
}  # fmt: skip


def recipe(name: str, **changes: Any) -> AnyRecipe:
    """Of six steps of eight samples."""
    fields = {"name": name, "steps": 6, "batch": 8, "seed": 7, **RECIPES[name], **changes}
    if fields.get("kind", "diffusion") == "diffusion":
        fields = {"ema_rate": 0.5, "schedule": {"timesteps": 20}, **fields}
    return parse_recipe(fields, name)


def follow(name: str, folder: Path, parallel: str = "ddp", *, resume: bool = False, save: int = 0) -> dict[str, Any]:
    """Train to the end and tell losses, norms and data by step; `save` is the step whose state is left in `folder`."""
    r = recipe(name)
    frames = r.data.frames
    dataset = Shapes(r.data.size) if frames is None else ShapesClips(r.data.size, frames)
    trainer = Trainer(r, dataset, folder, parallel)
    if resume:
        trainer.resume()
    seen: dict[str, Any] = {"losses": {}, "norms": {}, "indices": {}, "exchanges": 0}
    if isinstance(trainer.network, DistributedDataParallel):
        _count_exchanges(trainer.network, seen)
    for progress in trainer.run():
        seen["losses"][str(progress.step)] = float(progress.loss)
        seen["norms"][str(progress.step)] = float(progress.grad_norm)
        seen["indices"][str(progress.step)] = trainer.feed.indices(progress.step - 1).tolist()
        if progress.step == save:
            trainer.save()
    state = trainer.averaged_state()
    if trainer.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "end.safetensors")
    return seen


def _count_exchanges(network: DistributedDataParallel, seen: dict[str, Any]) -> None:
    """Count, beside what it does, how often the processes exchange a bucket of gradients."""

    def exchange(_state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses an annotation that is a string
        seen["exchanges"] += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    network.register_comm_hook(None, exchange)


def die_in_saving(folder: Path) -> None:
    """Train with a save every two steps; the second process is killed while it writes its part of the second."""
    import safetensors.torch

    write, written = safetensors.torch.save, []

    def killed(*args: Any, **options: Any) -> bytes:
        written.append(args)
        if len(written) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*args, **options)

    safetensors.torch.save = killed
    train(recipe("dit", save_every=2), folder)


def interrupt_after_saving(folder: Path) -> None:
    """The second process gets Ctrl-C when everything of the second save is written and it alone has not seen it yet."""
    from torch.distributed.checkpoint import utils

    hear, heard = utils._DistWrapper.broadcast_object, []

    def late(self: Any, thing: Any) -> Any:
        heard.append(hear(self, thing))
        if len(heard) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGINT)
        return heard[-1]

    utils._DistWrapper.broadcast_object = late  # type: ignore[method-assign]
    train(recipe("dit", save_every=2), folder)


def main(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Do the jobs one after the other; each process leaves what it saw as `<rank>.json`."""
    torch.set_num_threads(1)
    seen = {}
    for job in jobs:
        place = folder / job["to"]
        if job["what"] == "follow":
            seen[job["to"]] = follow(job["recipe"], place, job["parallel"], resume=job["resume"], save=job["save"])
        elif job["what"] == "train":
            watched = {"sample_every": 6} if job["recipe"] == "dit" else {}
            train(recipe(job["recipe"], **watched), place, parallel=job["parallel"], snapshots=[2] if watched else [])
        else:
            {"die": die_in_saving, "interrupt": interrupt_after_saving}[job["what"]](place)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
