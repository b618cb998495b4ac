"""The state of a training on disk: a folder with `state.json`, and tensors in safetensors files beside it.

    state.json              the recipe, the step, .., and which folder holds the tensors; written last
    0000500/shard-*.safetensors   each process's part; where it lies in the whole tensor is told in the file's header

Files are those of torch.distributed.checkpoint in its safetensors form (its other form is pickled). Every process
writes its part, and any number of processes reads what it needs of all. `state.json` names the folder that counts, so
that a kill at any moment leaves the state before or the new one.

torch.distributed.checkpoint takes half as long to import as torch itself, and is so only where it is needed.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from difflab import files
from difflab.errors import DifflabError

RECORD = "state.json"
_FIELDS: dict[str, Any] = {"recipe": dict, "step": int, "seconds": (int, float), "tensors": str, "files": dict}
_NAME = re.compile(r"[0-9]+(-1)?")  # of a folder of tensors
_FILE = 1 << 30  # bytes of tensors that are brought to memory at once to be written


def read_record(folder: Path) -> dict[str, Any]:
    """What `state.json` in `folder` says. Raises DifflabError where it is missing, damaged, or none of ours, and where
    files of tensors that it names are not there whole."""
    path = folder / RECORD
    try:
        record = json.loads(files.read_bytes(path))
    except FileNotFoundError as error:
        raise DifflabError(f"{path}: there is no such file, and so no training to go on with.") from error
    except DifflabError:  # a sentence already, and a ValueError
        raise
    except (OSError, ValueError) as error:
        raise DifflabError(
            f"{path}: this is not a whole training checkpoint ({type(error).__name__}); delete it and begin again."
        ) from error
    known = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in _FIELDS.items())
    if not known or not _NAME.fullmatch(record["tensors"]):
        raise DifflabError(
            f"{path}: not the state of a training by difflab, or of another version; choose another --out."
        )
    if odd := record["files"].items() ^ _sizes(folder / record["tensors"]).items():
        name = min(name for name, _ in odd)
        raise DifflabError(
            f"{path}: this is not a whole training checkpoint ({record['tensors']}/{name} is missing, cut off or of "
            "another one); delete it and begin again."
        )
    return record


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Write this process's part of `tensors` to `folder`, together with all other processes; returns the names and
    sizes of everyone's files. What all have alike, each writes a part of. What a failure leaves that all learn of is
    removed; one process alone, as after Ctrl-C, removes nothing, since to the others the folder may count already.

    Raises DifflabError when the folder cannot be written to or the disk is full.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    plain = {name: value.detach().contiguous() for name, value in tensors.items()}
    begin, file_of = 0, {}
    for name, value in plain.items():
        file_of[name] = 1 + begin // _FILE
        begin += value.numel() * value.element_size()
    with files.explained(folder), _in_plain_words():
        folder.mkdir(parents=True, exist_ok=True)
        writer = HuggingFaceStorageWriter(str(folder), file_of, save_distributed=True)
        try:
            save(plain, storage_writer=writer)
        except CheckpointException:  # raised by all processes together
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _sizes(folder)


def read_into(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` with those of the same names in `folder`, of which a sharded one reads its own part alone.

    Raises ValueError where one is missing or of another size, or a file is damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _in_plain_words():
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"{folder}: {error}") from error


def shapes_in(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in `folder`. Raises ValueError where a file is damaged."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"{folder}: {error}") from error
    return {name: (entry.size, entry.properties.dtype) for name, entry in found.items()}  # type: ignore[union-attr]


def read_whole(folder: Path, prefix: str) -> dict[str, Tensor]:
    """All tensors whose names begin with `prefix`, by what follows it. Raises ValueError where a file is damaged."""
    found = {
        name: torch.empty(shape, dtype=kind)
        for name, (shape, kind) in shapes_in(folder).items()
        if name.startswith(prefix)
    }
    read_into(folder, found)
    return {name.removeprefix(prefix): value for name, value in found.items()}


def make_room(folder: Path, step: int) -> str:
    """Remove from `folder` what a kill has left; returns the name of the subfolder that tensors of a step can be
    written to, another one than that which counts."""
    with files.explained(folder):
        live = _live(folder)
        for inner in _others(folder, live):
            shutil.rmtree(inner)
    name = f"{step:07d}"
    return f"{name}-1" if live == name else name


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `state.json`, from when on the tensors that it names count, and remove those before."""
    files.write_json(folder / RECORD, record)
    for inner in _others(folder, record["tensors"]):
        shutil.rmtree(inner, ignore_errors=True)  # saved it is; what stays goes when room is made


def _live(folder: Path) -> str | None:
    """The tensors that `state.json` names, whole or not; none where it says nothing. A disk that does not answer is no
    reason to remove them."""
    try:
        content = files.read_bytes(folder / RECORD)
    except FileNotFoundError:
        return None
    try:
        record = json.loads(content)
    except ValueError:
        return None
    return record.get("tensors") if isinstance(record, dict) else None


def _others(folder: Path, kept: str | None) -> list[Path]:
    return [inner for inner in folder.glob("*/") if inner.name != kept]


@contextmanager
def _in_plain_words() -> Iterator[None]:
    """What went wrong, instead of the exception of torch's that lists it for every process; and no warning that there
    is only one."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


def _sizes(folder: Path) -> dict[str, int]:
    """Of files of tensors; what systems leave beside them, as .DS_Store or .nfs000.., is none of ours."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
