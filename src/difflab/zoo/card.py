"""The card of a model: everything about it that is not in the weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from difflab.core.prediction import Prediction
from difflab.core.sampler import Variance
from difflab.zoo.families import FamilyName, NetworkConfig, Rounding, ScheduleConfig, network_config


class CodecConfig(BaseModel):
    """How the latents of a latent model become pictures.

    vae: what `zoo.autoencoder.open_autoencoder` takes; scale: latents are multiplied by it before the model sees them;
    factor: pixels of the side that one latent stands for; sha256: of the autoencoder's weights, where they are known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vae: str
    scale: Annotated[float, Gt(0.0)]
    factor: Annotated[int, Gt(0)]
    sha256: str | None = None


class TextConfig(BaseModel):
    """What turns the captions of a model into vectors. encoder: what `zoo.text.open_text_encoder` takes; sha256: of its
    weights, where they are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    sha256: str | None = None


class Card(BaseModel):
    """What a model is, how its output is read, and where it comes from.

    codec: None for a model of pixels; text: None for a model that is told no captions; variance: of the ancestral
    sampler (`ddpm`), `learned` where the network learns it; guided_channels: how many of them guidance acts on where it
    is not told, None is all; rounding: how samples become 8 bits (see `zoo.codec.decode`); classes: their names, in
    order, where they are known; source: what the file was taken for, in words; weights: which of its weights were
    taken; training: recipe, data, steps, time and hardware, free in form.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: FamilyName = "unet2d"
    network: SerializeAsAny[NetworkConfig]
    codec: CodecConfig | None = None
    text: TextConfig | None = None
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    prediction: Prediction = "eps"
    variance: Variance = "small"
    guided_channels: int | None = None
    rounding: Rounding = "nearest"
    classes: tuple[str, ...] = ()
    source: str = ""
    weights: Literal["ema", "raw", "plain"] = "plain"
    training: dict[str, Any] = Field(default_factory=dict)

    @field_validator("network", mode="before")
    @classmethod
    def _network_of_its_family(cls, value: Any, info: ValidationInfo) -> Any:
        return network_config(info.data["family"], value) if "family" in info.data else value

    @model_validator(mode="after")
    def _variance_is_learned_where_it_is_answered(self) -> Card:
        if self.variance == "learned" and not self.network.learns_variance:
            raise ValueError("variance is learned, but this network answers none; choose small or large")
        return self

    @property
    def side(self) -> int:
        """Height and width of a sample in pixels."""
        return self.network.sample_shape[-1] * (self.codec.factor if self.codec else 1)

    @property
    def trained_on(self) -> dict[str, Any]:
        """The data part of the recipe; empty where none is known."""
        return self.training.get("recipe", {}).get("data", {})

    def summary(self) -> str:
        """One line: what this was taken for."""
        shape = "x".join(map(str, self.network.sample_shape))
        space = f"latents {shape} of {self.codec.vae}" if self.codec else f"samples {shape}"
        told = f", {self.network.classes} classes" if self.network.classes else ""
        told += f", captions read by {self.text.encoder}" if self.text else ""
        return (
            f"{self.name}: {self.family}, {space}{told}, predicts {self.prediction}, "
            f"{self.schedule.name} schedule of {self.schedule.timesteps}, {self.weights} weights ({self.source})"
        )
