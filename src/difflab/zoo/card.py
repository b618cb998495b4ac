"""The card of a model: everything about it that is not in the weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from difflab.core.prediction import Prediction
from difflab.core.sampler import Variance
from difflab.zoo.families import FAMILIES, FamilyName, ScheduleConfig, UNet2DConfig

Rounding = Literal["nearest", "floor"]


class Card(BaseModel):
    """What a model is, how its output is read, and where it comes from.

    variance: of the ancestral sampler (`ddpm`); rounding: how samples become 8 bits (ermongroup/ddim rounds to nearest,
    ADM and DiT truncate); source: what the file was taken for, in words; weights: which of its weights were taken;
    training: recipe, data, steps, time and hardware, free in form; license and scores likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: FamilyName = "unet2d"
    network: UNet2DConfig
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    prediction: Prediction = "eps"
    variance: Variance = "small"
    rounding: Rounding = "nearest"
    source: str = ""
    weights: Literal["ema", "raw", "plain"] = "plain"
    training: dict[str, Any] = Field(default_factory=dict)

    def summary(self) -> str:
        """One line: what this was taken for."""
        shape = "x".join(map(str, self.network.sample_shape))
        return (
            f"{self.name}: {FAMILIES[self.family].name}, samples {shape}, predicts {self.prediction}, "
            f"{self.schedule.name} schedule of {self.schedule.timesteps}, {self.weights} weights ({self.source})"
        )
