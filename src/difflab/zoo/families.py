"""The families of models, written out by hand: how each is configured, built and sampled by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn

from difflab.core.names import BetaName, Spacing
from difflab.core.schedule import Schedule, make_schedule

Positive = Annotated[int, Gt(0)]


class UNet2DConfig(BaseModel):
    """Arguments of `nets.unet2d.UNet2D`, by the names of the official configs; the defaults are cifar10.yml's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Positive = 32
    in_channels: Positive = 3
    out_ch: Positive = 3
    ch: Positive = 128
    ch_mult: tuple[Positive, ...] = (1, 2, 2, 2)
    num_res_blocks: Positive = 2
    attn_resolutions: tuple[Positive, ...] = (16,)
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    resamp_with_conv: bool = True
    patch: Positive = 1
    groups: Positive = 32

    @model_validator(mode="after")
    def _fits(self) -> UNet2DConfig:
        smallest = self.patch * 2 ** (len(self.ch_mult) - 1)
        if self.ch % self.groups:
            raise ValueError(f"ch is {self.ch}, but group norm needs a multiple of {self.groups}")
        if self.image_size % smallest:
            raise ValueError(
                f"image_size is {self.image_size}, but these levels and patches need a multiple of {smallest}"
            )
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample in model space: (C, H, W)."""
        return (self.in_channels, self.image_size, self.image_size)


class ScheduleConfig(BaseModel):
    """A named noise schedule; see `core.schedule.betas`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: BetaName = "linear"
    timesteps: Positive = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    @model_validator(mode="after")
    def _betas_are_variances(self) -> ScheduleConfig:
        if not (0 < self.beta_start < 1 and 0 < self.beta_end < 1):
            raise ValueError(
                f"beta_start is {self.beta_start:g} and beta_end {self.beta_end:g}, but both must lie between 0 and 1"
            )
        return self

    def build(self) -> Schedule:
        """The table of alpha_bar."""
        return make_schedule(self.name, self.timesteps, self.beta_start, self.beta_end)


@dataclass(frozen=True)
class Family:
    """What all models of a family share.

    config: the pydantic class of its network's arguments; build: config -> network; spacing: the default grid;
    bounded: whether samples live in [-1, 1], so that x0 may be clamped there.
    """

    name: str
    config: type[UNet2DConfig]
    build: Callable[[UNet2DConfig], nn.Module]
    spacing: Spacing
    bounded: bool


def _unet2d(config: UNet2DConfig) -> nn.Module:
    from difflab.nets.unet2d import UNet2D

    return UNet2D(**config.model_dump())


FAMILIES: dict[str, Family] = {
    "unet2d": Family("unet2d", UNet2DConfig, _unet2d, spacing="uniform", bounded=True),
}
FamilyName = Literal["unet2d"]
