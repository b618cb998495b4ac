"""CLIPScore (Hessel et al. 2021): how well pictures fit their captions, as CLIP sees it.

Of a pair w * max(cos(picture, caption), 0), and the mean over pairs. The paper has w = 2.5, ViT-B/32, and captions that
begin with "A photo depicts ".
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from difflab.errors import DifflabError
from difflab.hashing import hash_weights
from difflab.hub import complete, from_hub, is_hub_id, need, reading
from difflab.precision import full_precision
from difflab.score.metrics import interval
from difflab.score.scores import Score

WEIGHT, PREFIX = 2.5, "A photo depicts "
_AT_ONCE = 64  # pairs
_PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """Pictures as CLIP takes them: the short side to `short` pixels by Pillow's bicubic filter, the central square of
    `crop` pixels, and of every channel (x / 255 - mean) / std. The numbers are OpenAI's where nothing else is told."""

    short: int = 224
    crop: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __call__(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, 3, crop, crop)."""
        x = torch.from_numpy(np.stack([self._square(image) for image in images])).movedim(-1, 1).float() / 255
        return (x - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def _square(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        # As transformers rounds: the long side and the crop's offset are cut to integers.
        short = min(height, width)
        size = (int(self.short * width / short), int(self.short * height / short))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        top, left = (size[1] - self.crop) // 2, (size[0] - self.crop) // 2
        return resized[top : top + self.crop, left : left + self.crop]


def clipscore(cosines: np.ndarray, replicates: int = 1000, seed: int = 0) -> Score:
    """CLIPScore of pairs with these cosines (N,): the mean, with the 95 % interval of a bootstrap over pairs.

    How often each pair is drawn depends on N and `seed` alone, so that two sets of pairs with the same captions are
    resampled alike. Raises DifflabError for fewer than two pairs, which have no interval.
    """
    pairs = WEIGHT * np.asarray(cosines, np.float64).clip(min=0.0)
    if len(pairs) < 2:
        raise DifflabError(f"A CLIPScore with its interval needs at least 2 pairs, but there are {len(pairs)}.")
    draw, share = np.random.default_rng(seed), np.full(len(pairs), 1 / len(pairs))
    resampled = np.array([draw.multinomial(len(pairs), share) @ pairs / len(pairs) for _ in range(replicates)])
    low, high = interval(float(pairs.mean()), resampled)
    passport = {"interval": {"kind": "bootstrap over pairs", "level": 0.95, "replicates": replicates}}
    return Score(float(pairs.mean()), low, high, len(pairs), "CLIPScore", passport, resampled)


class ClipScorer:
    """CLIP with its tokenizer, in evaluation mode.

    Args:
        source: a folder of transformers that holds a CLIPModel (config.json, safetensors, tokenizer), or a model of the
            Hugging Face hub, such as `openai/clip-vit-base-patch32`, from its cache on this machine or by download.
        device: where it is to run.
        prefix: what every caption begins with.

    Raises DifflabError for what is not there, damaged, or no CLIP model.
    """

    def __init__(self, source: str, device: str | torch.device = "cpu", prefix: str = PREFIX) -> None:
        self.source, self.device, self.prefix = source, torch.device(device), prefix
        need("transformers", source, "CLIPScore")
        path = Path(source).expanduser()
        if path.is_dir():
            self._network, self._tokenizer = _opened(str(path), local_files_only=True)
        elif is_hub_id(source):
            self._network, self._tokenizer = from_hub(source, "CLIP model", _opened)
        else:
            raise DifflabError(
                f"{source}: no such folder; give one of transformers that holds a CLIP model, or a hub id such as "
                "openai/clip-vit-base-patch32."
            )
        self._network.float().eval().requires_grad_(False).to(device)
        self.preprocessing = _preprocessing(source, path, self._network.config.vision_config.image_size)
        self._sha256 = hash_weights(self._network.state_dict())

    def passport(self) -> dict[str, Any]:
        """How it scores, as plain JSON values."""
        return {
            "name": self.source, "sha256": self._sha256, "w": WEIGHT, "prefix": self.prefix,
            "preprocessing": {**asdict(self.preprocessing), "filter": "Pillow bicubic"},
        }  # fmt: skip

    def cosines(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The cosine (N,) float64 of each picture, uint8 (N, H, W, 3), and its caption, after the prefix.

        Captions longer than CLIP takes are cut with a warning. Raises DifflabError for other arrays, and where there
        are not as many captions as pictures.
        """
        _check_pairs(images, texts)
        said = [self.prefix + text for text in texts]
        self._warn_of_cut(said)
        found = [
            self._cosines(images[begin : begin + _AT_ONCE], said[begin : begin + _AT_ONCE])
            for begin in range(0, len(said), _AT_ONCE)
        ]
        return np.concatenate(found)

    def scores(self, images: np.ndarray, texts: Sequence[str]) -> Score:
        """CLIPScore of pairs, see `clipscore`. Raises DifflabError as `cosines` does, and for fewer than two pairs."""
        return self.of(self.cosines(images, texts))

    def of(self, cosines: np.ndarray) -> Score:
        """CLIPScore of pairs with these cosines (N,), with how it was made."""
        found = clipscore(cosines)
        return replace(found, passport={"features": self.passport(), **found.passport})

    @torch.no_grad()
    def _cosines(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        words = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self.device)
        network = self._network
        with full_precision():
            seen = network.vision_model(pixel_values=self.preprocessing(images).to(self.device)).pooler_output
            read = network.text_model(**words).pooler_output
            picture, caption = network.visual_projection(seen).double(), network.text_projection(read).double()
        return F.cosine_similarity(picture, caption).cpu().numpy()

    @property
    def _length(self) -> int:
        return self._network.config.text_config.max_position_embeddings

    def _warn_of_cut(self, texts: list[str]) -> None:
        longest = max(map(len, self._tokenizer(texts, verbose=False)["input_ids"]))
        if longest > self._length:
            warnings.warn(
                f"{self.source}: a caption has {longest} tokens with its prefix, but only the first {self._length} are "
                "read.",
                UserWarning,
                stacklevel=3,
            )


def _check_pairs(images: np.ndarray, texts: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DifflabError(
            f"CLIPScore takes uint8 pictures of shape (N, H, W, 3), but got {images.dtype} {images.shape}."
        )
    if len(images) != len(texts) or not len(texts):
        raise DifflabError(
            f"CLIPScore takes one caption for each picture, but there are {len(images)} pictures and {len(texts)} "
            "captions."
        )


def _opened(source: str, **where: Any) -> tuple[Any, Any]:
    """The CLIPModel and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    whole = "a complete folder of transformers with its tokenizer and safetensors"
    with reading("transformers", source, "CLIP model", whole):
        config = AutoConfig.from_pretrained(source, **where)
        if config.model_type != "clip":
            raise DifflabError(
                f"{source}: is of the kind {config.model_type}, but a CLIP model of pictures and text is needed, such "
                "as openai/clip-vit-base-patch32."
            )
        return complete(CLIPModel, source, **where), AutoTokenizer.from_pretrained(source, **where)


def _preprocessing(source: str, path: Path, size: int) -> Preprocessing:
    """What the model's own file says of pictures; without one OpenAI's numbers at the model's size. transformers would
    read it, too, but asks for torchvision."""
    file = path / _PREPROCESSOR if path.is_dir() else _fetched(source)
    if file is None or not file.is_file():
        return Preprocessing(size, size)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        usual = Preprocessing(size, size)
        mean, std = _channels(told.get("image_mean", usual.mean)), _channels(told.get("image_std", usual.std))
        short, crop = _side(told.get("size", size), "shortest_edge"), _side(told.get("crop_size", size), "height")
        found = Preprocessing(short, crop, mean, std)
        resample = told.get("resample", Image.Resampling.BICUBIC)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DifflabError(f"{file}: this description of CLIP's pictures is damaged; fetch it again.") from error
    if found.crop != size or found.short < size or resample != 3:
        raise DifflabError(
            f"{file}: brings pictures to {found.crop} pixels from {found.short} by filter {resample}, but this model "
            f"takes {size}, cut from no fewer, by the bicubic filter (3); fetch the file that belongs "
            "to it."
        )
    return found


def _side(told: Any, name: str) -> int:
    """The number in `224` or `{name: 224, ..}`."""
    return int(told[name] if isinstance(told, dict) else told)


def _channels(told: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, told)
    return red, green, blue


def _fetched(source: str) -> Path | None:
    from transformers.utils.hub import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(source, _PREPROCESSOR, **quiet)
    return None if found is None else Path(found)
