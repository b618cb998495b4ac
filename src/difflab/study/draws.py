"""Many samples into one .npz: in chunks, so that a kill loses little, and from as many processes as there are."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab import __version__, files
from difflab.data.writers import save_samples
from difflab.errors import DifflabError
from difflab.study.spec import key_of, parts_of
from difflab.study.store import read_json
from difflab.zoo.clips import Extension, batches_of
from difflab.zoo.draw import Draw, labels_of, plan
from difflab.zoo.model import Model

CHUNK = 256  # pictures, or frames of clips, written at a time
_RECORD, _WHOLE = "run.json", "whole.npz"
_WAIT = 1.0  # seconds between looks for what other processes draw


@dataclass(frozen=True)
class Share:
    """Which of `world` processes this is: process `rank` draws every world-th chunk; process 0 puts them together."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Share:
        """The share that torchrun gave this process; all of it without torchrun."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def draw_npz(
    out: Path,
    model: Model,
    draw: Draw,
    *,
    n: int,
    seed: int = 0,
    batch: int = 64,
    extension: Extension | None = None,
    share: Share | None = None,
    watch: Callable[[int], None] | None = None,
) -> int:
    """Draw `n` samples into `out`: `arr_0` the pictures and, for a model that is told classes, `arr_1` these.

    Chunks wait in `<out>.parts/` until all are there, then become one file and go. The same call goes on after a kill;
    the pictures depend on the settings alone, not on kills or on how many processes drew. The file tells its run by the
    comment of the archive, a hash: the same call again finds it and draws nothing, any other leaves it alone.

    Args:
        n: how many samples, numbers 0 to n - 1.
        seed: of noise and random classes.
        batch: samples at a time.
        extension: how clips are completed or go on; None draws them as they are.
        share: this process's; None takes what torchrun says.
        watch: is told how many samples there are as far as this process knows.

    Returns how many samples this process drew. Raises DifflabError where a file or parts of another run lie, or where
    the disk refuses.
    """
    share = share or Share.of_environment()
    plan(model, draw)
    if extension is not None:
        extension.check(model)
    parts, size = out.with_name(out.name + ".parts"), _chunk_size(model, extension)
    mine = [number for number, _ in enumerate(parts_of(n, size)) if number % share.world == share.rank]
    record = _record(model, draw, n, seed, size, extension)
    there = _is_there(out, record)
    if (share.rank and not mine) or (there and not parts.exists()):
        return 0
    _claim(parts, record)
    _mark(parts, share).unlink(missing_ok=True)
    try:
        drawn = _draw_chunks(parts, model, draw, n, seed, batch, extension, share, watch)
    except (DifflabError, MemoryError, RuntimeError):  # what was asked for cannot be drawn: nothing is to go on from
        if share.world == 1 and not any(parts.glob("chunk-*.npy")):
            shutil.rmtree(parts)
        raise
    if share.rank:
        _mark(parts, share).touch()
    else:
        labels = labels_of(model, draw, seed, range(n))
        whole = parts / _WHOLE
        save_samples(whole, _gathered(parts, n, size), None if labels is None else labels.cpu().numpy())
        _sign(whole, record)
        _is_there(out, record)  # or has become another run's meanwhile
        os.replace(whole, out)
        _await_others(parts, min(share.world, len(parts_of(n, size))))
        shutil.rmtree(parts)
    return drawn


def _draw_chunks(
    parts: Path, model: Model, draw: Draw, n: int, seed: int, batch: int, extension: Extension | None, share: Share,
    watch: Callable[[int], None] | None,
) -> int:  # fmt: skip
    """Draw this process's chunks that are not there yet; returns how many samples those are."""
    drawn = 0
    for number, rows in enumerate(parts_of(n, _chunk_size(model, extension))):
        if number % share.world != share.rank:
            continue
        path = _chunk(parts, number)
        if not path.exists():
            pictures = np.concatenate(list(batches_of(model, draw, seed, rows, batch, extension)))
            with files.writing(path) as file:
                np.save(file, pictures)
            drawn += len(rows)
        if watch:
            watch(rows.stop)
    return drawn


def _record(model: Model, draw: Draw, n: int, seed: int, chunk: int, extension: Extension | None) -> dict[str, Any]:
    """Everything that decides the pictures, but for their last grey level, which the device may."""
    card = model.card
    return {
        "difflab": __version__,
        "weights": model.weights_hash,
        "network": card.network.model_dump(mode="json"),
        "codec": model.codec.passport(),
        "output": [card.prediction, card.variance, card.rounding, card.guided_channels],
        "schedule": card.schedule.model_dump(mode="json"),
        "text encoder": model.text_encoder.weights_hash() if draw.prompts else None,
        "classifier": None if model.classifier is None else model.classifier.weights_hash,
        "draw": {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(draw).items()},
        "seed": seed,
        "n": n,
        "chunk": chunk,
        "extension": None if extension is None else extension.record(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _signature(record: dict[str, Any]) -> bytes:
    """What tells a file's run, as the comment of its archive."""
    return f"difflab {key_of(record)}".encode()


def _sign(path: Path, record: dict[str, Any]) -> None:
    with files.explained(path), open(path, "r+b") as file:
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = _signature(record)
        os.fsync(file.fileno())


def _is_there(out: Path, record: dict[str, Any]) -> bool:
    """Whether the file of this run is there already. Raises DifflabError for any other file: it may be all there is."""
    if not out.exists():
        return False
    if zipfile.is_zipfile(out):
        with zipfile.ZipFile(out) as archive:
            if archive.comment == _signature(record):
                return True
    raise DifflabError(f"{out}: is there already, of another run; delete it, or choose another --out.")


def _claim(parts: Path, record: dict[str, Any]) -> None:
    """Begin a folder of parts, or see that those there are of the same run."""
    path = parts / _RECORD
    if not path.exists():  # whichever process comes first; all write the same
        files.write_json(path, record)
    before = read_json(path)
    if changed := [name for name in record if before.get(name) != record[name]]:
        raise DifflabError(
            f"{parts}: holds parts of a run with another {changed[0]}; repeat that command to finish it, delete the "
            "folder, or choose another --out."
        )


def _chunk_size(model: Model, extension: Extension | None) -> int:
    """Samples written at a time: fewer clips, which take longer each, the more so where they go on."""
    frames = model.frames or 1
    return max(1, CHUNK // max(frames, (extension.length or 0) if extension else 0))


def _chunk(parts: Path, number: int) -> Path:
    return parts / f"chunk-{number:05d}.npy"


def _mark(parts: Path, share: Share) -> Path:
    """The file by which a process says that it has drawn its chunks."""
    return parts / f"drawn-by-{share.rank}"


def _await_others(parts: Path, world: int) -> None:
    """Until every process that draws has looked at its chunks: the folder must not go under one that comes late."""
    while any(not _mark(parts, Share(rank, world)).exists() for rank in range(1, world)):
        time.sleep(_WAIT)


def _gathered(parts: Path, n: int, size: int) -> Iterator[np.ndarray]:
    """The pictures of all chunks in order, waiting for those that other processes draw."""
    for number, _ in enumerate(parts_of(n, size)):
        path = _chunk(parts, number)
        while not path.exists():
            time.sleep(_WAIT)
        try:
            yield np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DifflabError(f"{path}: this part is damaged; delete it and repeat the command.") from error
