"""Pictures -> stored latents, chunk by chunk; see `data.latents`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab import files
from difflab.data.dataset import Captioned, Crop, Dataset, batches
from difflab.data.latents import CAPTIONS, LABELS, RECORD, chunk_file, read_record
from difflab.data.shapes import Shapes
from difflab.data.sources import fingerprint, is_place, open_data
from difflab.errors import DifflabError
from difflab.zoo.autoencoder import Autoencoder, open_autoencoder
from difflab.zoo.codec import encode

CHUNK = 1024  # pictures whose moments are written at a time


def store_latents(
    source: str, vae: str, out: Path, *, split: str | None = None, size: int | None = None, crop: Crop | None = None,
    batch: int = 32, device: str = "cpu", watch: Callable[[int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write the moments of all pictures of `source`, as they are and mirrored, to the folder `out`, and their captions
    where they have such; returns how many pictures.

    Args:
        source, split, size, crop: of the pictures, see `data.sources.open_data`.
        vae: see `zoo.autoencoder.open_autoencoder`.
        batch: pictures encoded at a time.
        watch: is told how many pictures are done, of how many.

    The same call goes on after a kill. Raises DifflabError for pictures that the autoencoder cannot take, and where
    latents of other pictures or another autoencoder lie already.
    """
    if is_place(source, out):
        raise DifflabError(f"{out}: these are the pictures themselves; write their latents to another folder.")
    dataset, autoencoder = open_data(source, split=split, size=size, crop=crop), open_autoencoder(vae, device)
    side = dataset[0].x.shape[0]
    if dataset[0].x.shape[1] != side or side % autoencoder.factor:
        raise DifflabError(
            f"{source}: its first picture is {dataset[0].x.shape[1]}x{side}, but {vae} takes squares whose side is a "
            f"multiple of {autoencoder.factor}; bring them to one with --size."
        )
    record = {
        "pictures": dataset.description, "fingerprint": fingerprint(source), "count": len(dataset), "size": side,
        "classes": list(dataset.classes or ()), "autoencoder": autoencoder.weights_hash(), "vae": vae, "chunk": CHUNK,
    }  # fmt: skip
    _claim(out, record)
    labels: list[np.ndarray] = []
    for number, begin in enumerate(range(0, len(dataset), CHUNK)):
        indices = np.arange(begin, min(begin + CHUNK, len(dataset)))
        path, beside = chunk_file(out, number), out / f"labels-{number:05d}.npy"
        if not (path.exists() and beside.exists()):
            moments, found = _encoded(dataset, indices, autoencoder, batch, device)
            for file, array in ((beside, found), (path, moments)):
                with files.writing(file) as handle:
                    np.save(handle, array)
        labels.append(np.load(beside, allow_pickle=False))
        if watch:
            watch(int(indices[-1]) + 1, len(dataset))
    if isinstance(dataset, Captioned):
        files.write_json(out / CAPTIONS, [dataset.captions_of(index) for index in range(len(dataset))])
    with files.writing(out / LABELS) as handle:
        np.save(handle, np.concatenate(labels))
    for beside in out.glob("labels-*.npy"):
        beside.unlink()
    return len(dataset)


def _claim(out: Path, record: dict[str, Any]) -> None:
    if not (out / RECORD).exists():
        files.write_json(out / RECORD, record)
        return
    before = read_record(out)
    if changed := [name for name in record if before.get(name) != record[name]]:
        raise DifflabError(
            f"{out}: holds latents with another {changed[0]}; choose another --out, or delete the folder."
        )
    if (out / LABELS).exists():
        raise DifflabError(f"{out}: these latents are complete already; use them as the source of a recipe.")


def _encoded(
    dataset: Dataset, indices: np.ndarray, autoencoder: Autoencoder, batch: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    moments, labels = [], []
    for begin in range(0, len(indices), batch):
        pictures, found = _read(dataset, indices[begin : begin + batch])
        both = np.stack([pictures, pictures[:, :, ::-1]], axis=1)  # (b, 2, H, W, 3)
        x = encode(np.ascontiguousarray(both.reshape(-1, *both.shape[2:])))
        posterior = autoencoder.encode(x.to(device))
        stacked = torch.cat([posterior.mean, posterior.logvar], dim=1).half().cpu().numpy()
        moments.append(stacked.reshape(len(pictures), 2, *stacked.shape[1:]))
        labels.append(found)
    return np.concatenate(moments), np.concatenate(labels)


def _read(dataset: Dataset, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(dataset, Shapes):
        return dataset.batch(indices)
    (read,) = batches(dataset, len(indices), order=indices, workers=4)
    return read.x, np.full(len(indices), -1) if read.labels is None else read.labels
