"""One interface to all feature networks: uint8 pictures in, float32 features out, and a passport that says by what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from difflab.errors import DifflabError
from difflab.files import sha256 as file_sha256
from difflab.score.features import SmallFeatures, load_small_features
from difflab.score.i3d import CONVENTIONS, I3D, ConventionName, load_i3d
from difflab.score.inception import WEIGHTS_SHA256, InceptionFID, load_inception

INCEPTION = "inception"
FVD_FEATURES: dict[str, ConventionName] = {"i3d": "stylegan-v", "i3d-videogpt": "videogpt", "i3d-tf": "tf"}
CLIPS_AT_ONCE = 4  # a clip of 16 frames takes 0.4 GiB in I3D


class Taps(NamedTuple):
    """What a network says of B pictures, None where it was not asked or does not say.

    features (B, d); spatial (B, 2023), of sFID; logits (B, classes), of the Inception Score.
    """

    features: np.ndarray | None = None
    spatial: np.ndarray | None = None
    logits: np.ndarray | None = None


def joined(parts: Sequence[Taps]) -> Taps:
    """What was said of all pictures, from what was said of one or more batches."""
    columns = zip(*parts, strict=True)
    return Taps(*(np.concatenate(column) if column[0] is not None else None for column in columns))


class Extractor(Protocol):
    """A feature network with its preprocessing."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int:
        """Number of features."""
        ...

    @property
    def spatial(self) -> bool:
        """Whether it has the spatial features of sFID."""
        ...

    @property
    def classifies(self) -> bool:
        """Whether it has logits, which the Inception Score is made of."""
        ...

    @property
    def clips(self) -> bool:
        """Whether it looks at clips rather than pictures."""
        ...

    def passport(self) -> dict[str, Any]:
        """What decides the features: name, dim, resize, sha256 of the weights file, dtype."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3), or grey (B, H, W, 1) or (B, H, W), or clips (B, T, H, W, 3) -> float32 (B, dim)."""
        ...

    def taps(self, images: np.ndarray, wanted: Collection[str]) -> Taps:
        """The taps of these names, from one pass over the same pictures."""
        ...


@dataclass(frozen=True)
class InceptionExtractor:
    """The 2048 features of FID."""

    network: InceptionFID
    sha256: str
    name: str = INCEPTION
    dim: int = 2048
    spatial: bool = True
    classifies: bool = True
    clips: bool = False

    def passport(self) -> dict[str, Any]:
        return _passport(self.name, self.dim, self.network.resize, self.sha256, self.network)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.network(_to_device(images, self.network))["2048"].float().cpu().numpy()

    def taps(self, images: np.ndarray, wanted: Collection[str]) -> Taps:
        names = {"features": "2048", "spatial": "spatial", "logits": "logits_unbiased"}
        asked = tuple(names[name] for name in names if name in wanted)
        found = self.network(_to_device(images, self.network), asked)
        return Taps(**{name: found[names[name]].float().cpu().numpy() for name in wanted})


@dataclass(frozen=True)
class SmallExtractor:
    """The features of a network of ours."""

    network: SmallFeatures
    sha256: str
    name: str
    spatial: bool = False

    @property
    def dim(self) -> int:
        return self.network.config.dim

    @property
    def clips(self) -> bool:
        return self.network.config.clips

    @property
    def classifies(self) -> bool:
        return self.network.classifies

    def passport(self) -> dict[str, Any]:
        return _passport(self.name, self.dim, "bilinear_antialias_32", self.sha256, self.network)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.network.features(_to_device(images, self.network)).float().cpu().numpy()

    def taps(self, images: np.ndarray, wanted: Collection[str]) -> Taps:
        features, logits = self.network.classified(_to_device(images, self.network))
        said = {"features": features, "logits": logits}
        return Taps(**{
            name: value.float().cpu().numpy() for name, value in said.items() if name in wanted and value is not None
        })  # fmt: skip


@dataclass(frozen=True)
class I3DExtractor:
    """The 400 logits of FVD, by one of its conventions."""

    network: I3D
    sha256: str
    name: str
    dim: int = 400
    spatial: bool = False
    classifies: bool = False
    clips: bool = True

    def passport(self) -> dict[str, Any]:
        how = CONVENTIONS[self.network.convention]
        made = _passport(self.name, self.dim, how.resize, self.sha256, self.network)
        return made | {"convention": self.network.convention, "batch norm eps": how.eps, "ddof": how.ddof}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        device = next(self.network.parameters()).device
        parts = torch.from_numpy(np.ascontiguousarray(images)).split(CLIPS_AT_ONCE)
        return torch.cat([self.network(part.to(device)).float().cpu() for part in parts]).numpy()

    def taps(self, images: np.ndarray, wanted: Collection[str]) -> Taps:
        return Taps(features=self(images))


def load_extractor(
    name: str, *, weights: Path, device: torch.device | str = "cpu", check: bool = True
) -> InceptionExtractor | SmallExtractor | I3DExtractor:
    """The extractor called `name`, with the weights of a file that is already there.

    Args:
        name: "inception", one of `FVD_FEATURES`, or the name of a small feature network.
        weights: the file.
        device: where the network is to run.
        check: refuse Inception weights other than the published ones.

    Raises:
        DifflabError: a file that holds something else than `name`.
    """
    if name == INCEPTION:
        return InceptionExtractor(load_inception(weights, device=device, check=check), file_sha256(weights))
    if name in FVD_FEATURES:
        return I3DExtractor(load_i3d(weights, FVD_FEATURES[name], device), file_sha256(weights), name)
    found, network = load_small_features(weights, device)
    if found != name:
        raise DifflabError(f"{weights}: holds the features {found!r}, but {name!r} were asked for.")
    return SmallExtractor(network, file_sha256(weights), name)


def is_fid_network(passport: Mapping[str, Any]) -> bool:
    """Whether these features are those that define FID: by the network and its own weights."""
    return passport["name"] == INCEPTION and passport["sha256"] == WEIGHTS_SHA256


def _passport(name: str, dim: int, resize: str, sha256: str, network: torch.nn.Module) -> dict[str, Any]:
    return {
        "name": name,
        "dim": dim,
        "resize": resize,
        "sha256": sha256,
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
    }


def _to_device(images: np.ndarray, network: torch.nn.Module) -> torch.Tensor:
    """uint8 (B, H, W[, 1 | 3]) -> uint8 (B, 3, H, W) where the network is, grey repeated; clips have T before H."""
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[-1] not in (1, 3):
        raise DifflabError(
            f"Features are taken of uint8 images of shape (B, H, W, 3), or grey ones of (B, H, W, 1), or of clips of "
            f"(B, T, H, W, 3), but these are {images.dtype} {images.shape}."
        )
    first = torch.from_numpy(np.ascontiguousarray(images)).to(next(network.parameters()).device).movedim(-1, 1)
    return first.expand(-1, 3, *[-1] * (first.ndim - 2))
