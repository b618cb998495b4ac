"""How fast machines compute: what data sheets promise, and what difflab's networks were measured to reach.

Peaks are of dense products in 10^12 operations a second, a multiplication with addition being two, as vendors count.
Sampling runs in float32 without TF32 (see `difflab.precision`), so fp32 is the peak that counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from difflab.errors import DifflabError, suggest


@dataclass(frozen=True)
class Timed:
    """Forward passes as timed on a card: what, 10^9 operations a sample, samples a second."""

    what: str
    gflop: float
    per_second: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.gflop * 1e9 * self.per_second


@dataclass(frozen=True)
class Card:
    """A GPU. memory: GiB that programs can use; fp32: its peak; source: the data sheet."""

    name: str
    memory: float
    fp32: float
    source: str
    measured: tuple[Timed, ...] = ()


# Of docs/results/measurements.md, "On a GPU": 15.0 and 2.2 ms a clip, float32 without TF32, torch 2.11.
_ON_H100 = (
    Timed("3D U-Net of dim 64, 16 frames of 64x64 (ucf101-unet3d)", 249.5, 1 / 0.0150),
    Timed("3D U-Net of dim 64, three levels, pixels folded 2x2", 38.0, 1 / 0.0022),
)
CARDS = {
    card.name: card
    for card in (
        Card("h100", 78.0, 67.0, "NVIDIA H100 SXM5 80 GB, data sheet of 2023", _ON_H100),
        Card("h200", 139.0, 67.0, "NVIDIA H200 SXM 141 GB, data sheet of 2024"),
        Card("a100", 78.0, 19.5, "NVIDIA A100 SXM4 80 GB, data sheet of 2021"),
        Card("l4", 22.0, 30.3, "NVIDIA L4 24 GB, data sheet of 2023"),
    )
}
HERE = ("cpu", "here")


@dataclass(frozen=True)
class Throughput:
    """Operations a second that networks reach on a machine: the sampled one with its sampler, the decoder of latents,
    the one of features; memory: bytes, None where it is not known; how: a sentence that says where that comes from."""

    name: str
    network: float
    decoder: float
    features: float
    memory: float | None
    how: str


def card_of(name: str) -> Card:
    """The card of that name. Raises DifflabError for another."""
    if name not in CARDS:
        raise DifflabError(f"gpu {name!r} is not known.{suggest(name, [*CARDS, *HERE])}")
    return CARDS[name]


def throughput_of(name: str, gflop: float) -> Throughput:
    """What a card reaches with a network of so many 10^9 operations a sample: the share of its peak in float32 that the
    measured network nearest in size reached, on it or, where nothing was measured on it, on the H100.

    Raises DifflabError for an unknown card.
    """
    card = card_of(name)
    at = card if card.measured else CARDS["h100"]
    near = min(at.measured, key=lambda m: abs(math.log(m.gflop / gflop)))
    share = near.rate / (at.fp32 * 1e12)
    rate = share * card.fp32 * 1e12
    how = (
        f"{rate / 1e12:.1f} TFLOP/s in float32 without TF32, {share:.0%} of {card.name}'s {card.fp32:g}: "
        f"measured on an {at.name} with a {near.what}, {near.gflop:g} GFLOP a sample, {near.per_second:.1f} a second"
    )
    if at is not card:
        how += f"; nothing was measured on an {card.name}, so the h100's share of the peak is taken"
    return Throughput(card.name, rate, rate, rate, card.memory * 2**30, how)
