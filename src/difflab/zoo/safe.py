"""Reading files of tensors without executing anything that they hold."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from difflab.errors import DifflabError, see

ALLOWED: list[Any] = [argparse.Namespace]  # trainers store their command line beside the weights

_AGAIN = "it is truncated or damaged; copy or download it again."


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU: a state dict in memory of its own, other tensors mapped from the
    file where its form allows, since of a trainer's file only a part is needed.

    Only tensors, plain containers, numbers, text and argparse.Namespace are ever made. Raises DifflabError for anything
    else, naming the type found, and for a file that is empty, truncated or of another kind.
    """
    start = file_start(path)
    archive = start.startswith(b"PK")
    if not archive and not start.startswith(pickle.PROTO):
        raise DifflabError(
            f"{path}: not a PyTorch checkpoint: it begins with {start!r}; give a .pth, .pt, .ckpt or .safetensors "
            f"file; {see('how-to/checkpoint')}."
        )
    if archive:
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on protocols of bare pickles; the refusal below says it better
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
            if archive and is_state(value):
                # Mapped memory is aligned otherwise, which changes last bits; and a copy of it would be a second one.
                value = torch.load(path, map_location="cpu", weights_only=True)
            return value
    except Exception as error:  # a damaged stream can make the unpickler raise nearly anything
        raise DifflabError(f"{path}: {_refusal(path, error)}") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, in memory of their own, and metadata of a safetensors file.

    Raises DifflabError for a truncated or damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
        return {name: _read_tensor(path, name) for name in names}, metadata
    except SafetensorError as error:
        raise DifflabError(f"{path}: this safetensors file cannot be read: {_AGAIN}") from error


def _read_tensor(path: Path, name: str) -> Tensor:
    """One tensor: opened for it alone, so that what is mapped of the file never adds up."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name).clone()


def is_state(value: Any) -> bool:
    """Whether `value` maps names to tensors and to nothing else."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors: an 8-byte length, then JSON. Raises DifflabError for an empty file."""
    return file_start(path)[8:9] == b"{"


def file_start(path: Path) -> bytes:
    """The first 16 bytes. Raises DifflabError for an empty or unreadable file."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DifflabError(f"{path}: cannot be read ({error.strerror}); check its name and rights.") from error
    if not start:
        raise DifflabError(f"{path}: this file is empty; copy or download it again.")
    return start


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):  # the directory stands at the end, so a cut loses it
        raise DifflabError(f"{path}: this PyTorch checkpoint cannot be read: {_AGAIN}")
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise DifflabError(
                f"{path}: a zip archive, but not a PyTorch checkpoint; unpack it and give the file inside."
            )


def _refusal(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    name = found[1] if found else _first_global(path)
    if name:
        return (
            f"it holds an object of type {name}, which could run code, so it was not loaded; "
            "save the tensors alone, as torch.save(model.state_dict(), path) does."
        )
    return f"this PyTorch checkpoint cannot be read: {_AGAIN}"


def _first_global(path: Path) -> str | None:
    """The first type that a bare pickle asks for, found without unpickling: torch gives up earlier on new protocols."""
    texts: list[str] = []
    try:
        with open(path, "rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    except ValueError:  # pickletools' word for a stream that ends early or is none
        return None
    return None
