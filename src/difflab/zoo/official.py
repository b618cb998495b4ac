"""The YAML configurations of ermongroup/ddim: four ship here by name, and others are read from files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, model_validator

from difflab.core.names import BetaName
from difflab.errors import DifflabError, suggest
from difflab.validation import validated, yaml_mapping
from difflab.zoo.families import Positive, ScheduleConfig, UNet2DConfig

SHIPPED = ("bedroom", "celeba", "church", "cifar10")

_Fraction = Annotated[float, Ge(0.0)]
_Rate = Annotated[float, Gt(0.0)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Group):
    """What it is trained on, and how pixels become model space."""

    dataset: str = ""
    category: str | None = None
    image_size: Positive
    channels: Positive = 3
    logit_transform: bool = False
    uniform_dequantization: bool = False
    gaussian_dequantization: bool = False
    random_flip: bool = True
    rescaled: bool = True
    num_workers: int = 4

    @property
    def dequantization(self) -> Literal["uniform", "gaussian"] | None:
        """Noise added below a grey level while training."""
        if self.uniform_dequantization:
            return "uniform"
        return "gaussian" if self.gaussian_dequantization else None


class Network(_Group):
    """The network, by the argument names of `UNet2DConfig`; its averaging; and the variance of DDPM's sampler."""

    type: Literal["simple"] = "simple"
    in_channels: Positive = 3
    out_ch: Positive = 3
    ch: Positive
    ch_mult: tuple[Positive, ...]
    num_res_blocks: Positive
    attn_resolutions: tuple[Positive, ...]
    dropout: _Fraction = 0.0
    resamp_with_conv: bool = True
    var_type: Literal["fixedlarge", "fixedsmall"] = "fixedsmall"
    ema: bool = True
    ema_rate: _Fraction = 0.9999


class Diffusion(_Group):
    """The noise schedule."""

    beta_schedule: BetaName = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_diffusion_timesteps: Positive = 1000


class Training(_Group):
    """Lengths and intervals of training; n_iters and validation_freq are never read by the official code."""

    batch_size: Positive
    n_epochs: Positive
    n_iters: Positive = 5000000
    snapshot_freq: Positive
    validation_freq: Positive = 2000


class Sampling(_Group):
    """Batch size, and which numbered checkpoint is sampled. last_only is never read by the official code."""

    batch_size: Positive
    last_only: bool = True
    ckpt_id: int | None = None


class Optimizer(_Group):
    """The optimizer; without grad_clip gradients are not clipped."""

    optimizer: Literal["Adam", "RMSProp", "SGD"] = "Adam"
    lr: _Rate
    beta1: _Fraction = 0.9
    eps: _Rate = 1e-8
    weight_decay: _Fraction = 0.0
    amsgrad: bool = False
    grad_clip: _Rate | None = None


class OfficialConfig(_Group):
    """One configuration file. Reading a model needs the first three groups only."""

    data: Data
    model: Network
    diffusion: Diffusion = Diffusion()
    training: Training | None = None
    sampling: Sampling | None = None
    optim: Optimizer | None = None

    @model_validator(mode="after")
    def _supported(self) -> OfficialConfig:
        if self.data.channels != self.model.in_channels:
            channels = f"data.channels is {self.data.channels}, model.in_channels {self.model.in_channels}"
            raise ValueError(f"{channels}, but they must be equal")
        if self.data.logit_transform or not self.data.rescaled:
            raise ValueError(
                "data.rescaled must be true and data.logit_transform false: difflab's models see pixels in [-1, 1]"
            )
        if self.data.uniform_dequantization and self.data.gaussian_dequantization:
            raise ValueError("data.uniform_dequantization and data.gaussian_dequantization are both true: choose one")
        return self

    def card_fields(self) -> dict[str, Any]:
        """The fields of a `Card` that it decides: network, schedule, variance.

        Raises DifflabError for sizes that do not fit together.
        """
        shared = UNet2DConfig.model_fields.keys() & Network.model_fields.keys()
        network = {"image_size": self.data.image_size, **self.model.model_dump(include=set(shared))}
        return {
            "network": validated(UNet2DConfig, network, "the model configuration"),
            "schedule": ScheduleConfig(
                name=self.diffusion.beta_schedule,
                timesteps=self.diffusion.num_diffusion_timesteps,
                beta_start=self.diffusion.beta_start,
                beta_end=self.diffusion.beta_end,
            ),
            "variance": self.model.var_type.removeprefix("fixed"),
        }


def read_config(source: str | Path) -> OfficialConfig:
    """The configuration in the file `source`, or the shipped one of that name, with or without `.yml`.

    Raises DifflabError for an unknown name, and naming file and field for what is wrong in a file.
    """
    name = str(source)
    if Path(source).is_file():
        return _parsed(Path(source).read_bytes(), name)
    shipped = name.removesuffix(".yml")
    if shipped in SHIPPED:
        return _parsed((resources.files("difflab.zoo") / "configs" / f"{shipped}.yml").read_bytes(), name)
    raise DifflabError(
        f"{name}: no such configuration file, nor one that ships with difflab.{suggest(shipped, SHIPPED)}"
    )


def _parsed(content: bytes, name: str) -> OfficialConfig:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DifflabError(f"{name}: not YAML (it is not text); a configuration is a text file.") from error
    values = yaml_mapping(text, name, "a configuration, with the groups data, model and diffusion as in church.yml,")
    return validated(OfficialConfig, values, name)
