"""What a text encoder says of captions, kept on the disk by their text, so that it is asked once.

Below `registry.home() / "captions"` every encoder has a folder, and in it files that are written whole and never
changed, each of some captions:

keys      (n, 16) uint8, the beginnings of the SHA-256 of their texts
ends      (n,) int64, where each one's tokens end
vectors   (n, W) float16
tokens    (ends[-1], W) float16, only those that are present

Processes may fill a folder together: a caption in two files is the same in both. Files are written whole and checked
for the shapes that they must have; for bits that a disk has turned they are not, nor are pictures and stored latents.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from difflab.errors import DifflabError
from difflab.files import write_bytes
from difflab.zoo.registry import home
from difflab.zoo.text import TransformersEncoder

_FORMAT = 1
_IN_A_FILE = 2048  # captions: of the largest encoders 500 MB
_AT_ONCE = 256  # captions encoded at a time
_MAPS = 256  # files mapped at a time
_KEY = 16  # bytes
_PROBE = "A Photo,  of 2 cafés"  # shows how a tokenizer takes capitals, spaces and accents


class CaptionCache:
    """A text encoder whose answers are kept; see `zoo.text.TextEncoder`.

    Its numbers are the encoder's rounded to float16, also where they are not on the disk. The network waits on the CPU
    when captions have been added, so that it leaves a small device to the training.
    """

    def __init__(self, encoder: TransformersEncoder, device: str | torch.device = "cpu") -> None:
        self.encoder, self.device = encoder, device
        self._sha256 = encoder.weights_hash()
        words = encoder.tokenizer.get_vocab(), encoder.tokenizer(_PROBE)["input_ids"]
        read = [self._sha256, encoder.length, _FORMAT, *words]
        self.folder = home() / "captions" / hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:32]
        self._files: list[Path] = []
        self._passed: set[Path] = set()
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._keys = np.empty(0, f"S{_KEY}")  # in order; bytes of one length, so no key loses zeros at its end
        self._places = np.empty((0, 4), np.int64)  # of each key: file, row, first token, end of tokens
        self._look()

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def length(self) -> int:
        return self.encoder.length

    def weights_hash(self) -> str:
        return self._sha256

    def add(self, texts: Iterable[str], watch: Callable[[int, int], None] | None = None) -> None:
        """Encode those of `texts` that are not on the disk, and keep them there; a kill loses one file's at most.

        `watch` is told how many captions are there, of how many. Raises DifflabError where a folder cannot be written.
        """
        wanted = list(dict.fromkeys(text for text in texts if text.strip()))
        parts = [wanted[begin : begin + _IN_A_FILE] for begin in range(0, len(wanted), _IN_A_FILE)]
        random.SystemRandom().shuffle(parts)  # so that processes that begin together share the work
        done = 0
        for part in parts:
            if self._absent(part):
                self._look()
            if absent := self._absent(part):
                self._write(absent)
            done += len(part)
            if watch:
                watch(done, len(wanted))
        self.encoder.network.to("cpu")

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B, 1 + L, W) float32 on the device told; of empty texts nothing but NaN."""
        packed = torch.full((len(texts), 1 + self.length, self.width), torch.nan)
        absent = []
        for row, (text, place) in enumerate(zip(texts, self._find(texts), strict=True)):
            if text.strip() and not (place >= 0 and self._read(place, packed[row])):
                absent.append(row)
        if absent:
            packed[absent] = self._ask([texts[row] for row in absent]).float().cpu()
        return packed.to(self.device)

    def _ask(self, texts: list[str]) -> Tensor:
        """(B, 1 + L, W) float16."""
        self.encoder.network.to(self.device)
        made = self.encoder.encode(texts).half()
        if made.isinf().any():
            raise DifflabError(
                f"{self.encoder.name}: says numbers past 65,504 of captions, which float16 cannot keep; choose another "
                "text encoder."
            )
        return made

    def _absent(self, texts: list[str]) -> list[str]:
        return [text for text, place in zip(texts, self._find(texts), strict=True) if place < 0]

    def _find(self, texts: Sequence[str]) -> list[int]:
        """Where each text stands in the index, -1 for those that do not."""
        if not len(self._keys) or not texts:
            return [-1] * len(texts)
        keys = np.frombuffer(_keys_of(texts), f"S{_KEY}")
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, -1).tolist()

    def _read(self, place: int, row: Tensor) -> bool:
        """Put a caption into a row (1 + L, W); False where its file is gone or damaged since it was found."""
        number, line, begin, end = self._places[place].tolist()
        try:
            if number not in self._open:
                self._open[number] = safe_open(self._files[number], framework="np")
                if len(self._open) > _MAPS:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            file = self._open[number]
            row[0] = torch.from_numpy(file.get_slice("vectors")[line])
            row[1 : 1 + end - begin] = torch.from_numpy(file.get_slice("tokens")[begin:end])
        except (OSError, SafetensorError):
            return False
        return True

    def _write(self, texts: list[str]) -> None:
        vectors, tokens, counts = [], [], []
        for begin in range(0, len(texts), _AT_ONCE):
            made = self._ask(texts[begin : begin + _AT_ONCE])
            there = ~made[:, 1:].isnan().any(2)
            vectors.append(made[:, 0].cpu())
            tokens.append(made[:, 1:][there].cpu())
            counts.append(there.sum(1).cpu())
        keys = _keys_of(texts)
        content = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, _KEY),
            "ends": torch.cat(counts).cumsum(0),
            "vectors": torch.cat(vectors),
            "tokens": torch.cat(tokens),
        }
        path = self.folder / f"{hashlib.sha256(keys).hexdigest()[:32]}.safetensors"  # again, over one that is damaged
        write_bytes(path, save(content))
        self._take([path])

    def _look(self) -> None:
        """Take the files in that other processes and runs have made."""
        known = {*self._files, *self._passed}
        self._take([path for path in sorted(self.folder.glob("*.safetensors")) if path not in known])

    def _take(self, paths: list[Path]) -> None:
        """Take files into the index, but for those that are damaged: their captions are encoded again."""
        keys, places = [self._keys], [self._places]
        for path in paths:
            found = _index_of(path, self.width)
            if found is None:
                self._passed.add(path)
                continue
            ends = found[1]
            starts = np.concatenate([[0], ends[:-1]])
            keys.append(np.frombuffer(found[0].tobytes(), f"S{_KEY}"))
            places.append(np.stack([np.full(len(ends), len(self._files)), np.arange(len(ends)), starts, ends], axis=1))
            self._files.append(path)
        joined = np.concatenate(keys)
        order = np.argsort(joined, kind="stable")
        self._keys, self._places = joined[order], np.concatenate(places)[order]


def _keys_of(texts: Iterable[str]) -> bytes:
    return b"".join(hashlib.sha256(text.encode()).digest()[:_KEY] for text in texts)


def _index_of(path: Path, width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """keys (n, 16) and ends (n,) of a file; None where it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            keys, ends = file.get_tensor("keys"), file.get_tensor("ends")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in ("vectors", "tokens")}
    except (OSError, SafetensorError):
        return None
    n = len(keys)
    if not n or keys.shape != (n, _KEY) or ends.shape != (n,):
        return None
    return (keys, ends) if shapes == {"vectors": (n, width), "tokens": (int(ends[-1]), width)} else None
