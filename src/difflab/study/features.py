"""Which feature network measures, and where its weights are."""

from __future__ import annotations

from pathlib import Path

from difflab.data.sources import SHAPES
from difflab.errors import DifflabError, see, suggest
from difflab.score.extractors import FVD_FEATURES, INCEPTION, Extractor, load_extractor
from difflab.score.features import load_small_features
from difflab.zoo.registry import find_features, known


def choose_features(reference: str, size: int, clips: bool = False) -> str:
    """The feature network for a reference when none was asked for.

    Scenes are measured by `shapes-image`, their clips by `shapes-clip`, films by I3D. Photographs are measured by
    Inception where its weights are on this machine, so that the number is FID; else, at 32x32, by `cifar10-image`.
    Raises DifflabError when neither will do.
    """
    if reference == SHAPES:
        return "shapes-clip" if clips else "shapes-image"
    if clips and find_features("i3d") is not None:
        return "i3d"
    if clips:
        raise DifflabError(
            f"{reference}: FVD needs I3D's weights, which are not on this machine; get them with `difflab models fetch "
            f"i3d`, or name other features, such as shapes-clip, with --features; {see('how-to/missing')}."
        )
    if find_features(INCEPTION) is not None:
        return INCEPTION
    if size == 32 and find_features("cifar10-image") is not None:
        return "cifar10-image"
    raise DifflabError(
        f"{reference}: FID needs the Inception weights, which are not on this machine; get them with "
        f"`difflab models fetch inception`, or name other features with --features; {see('how-to/missing')}."
    )


def open_extractor(name: str, device: str = "cpu") -> Extractor:
    """A feature network by name, or from a .safetensors file of `difflab train`."""
    path = Path(name)
    if path.suffix == ".safetensors":
        return load_extractor(load_small_features(path)[0], weights=path, device=device)
    if (weights := find_features(name)) is None:
        raise DifflabError(
            f"the features {name!r} are not on this machine; get them with `difflab models fetch {name}`; "
            f"{see('how-to/missing')}."
            if name in (INCEPTION, *FVD_FEATURES)
            else f"the features {name!r} are not known.{suggest(name, known('features'))}"
        )
    return load_extractor(name, weights=weights, device=device)
