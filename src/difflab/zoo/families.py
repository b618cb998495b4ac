"""The families of models, written out by hand: how each is configured, built and sampled by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen, MultipleOf
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import nn

from difflab.core.names import BetaName, SamplerName, Spacing
from difflab.core.schedule import Schedule, make_schedule
from difflab.errors import suggest

Positive = Annotated[int, Gt(0)]
Rounding = Literal["nearest", "shifted", "floor"]  # see zoo.codec


class NetworkConfig(BaseModel):
    """Arguments of a family's network, by the names of its official code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample in model space: (C, H, W), or (C, F, H, W) for clips of F frames."""
        raise NotImplementedError

    @property
    def answers(self) -> int:
        """Channels of its output."""
        return 2 * self.sample_shape[0] if self.learns_variance else self.sample_shape[0]

    @property
    def classes(self) -> int | None:
        """How many classes it is told apart by; None for a network that is told none."""
        return None

    @property
    def null_class(self) -> int | None:
        """The number that stands for "no class", if the network knows one."""
        return None

    @property
    def condition_width(self) -> int | None:
        """Numbers of the vector that it is told, such as the code of a caption; None for one that is told none."""
        return None

    @property
    def reads_tokens(self) -> bool:
        """Whether the condition is a caption with its tokens (see `nets.caption`), and not a vector alone."""
        return False

    @property
    def hidden_share(self) -> float:
        """How often training hides the class or the caption."""
        return 0.0

    @property
    def learns_variance(self) -> bool:
        """Whether it answers twice the channels, the second half for the variance."""
        return False


class UNet2DConfig(NetworkConfig):
    """Arguments of `nets.unet2d.UNet2D`, by the names of the official configs; the defaults are cifar10.yml's."""

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
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def answers(self) -> int:
        return self.out_ch

    @property
    def learns_variance(self) -> bool:
        return self.out_ch == 2 * self.in_channels


class DiTConfig(NetworkConfig):
    """Arguments of `nets.dit.DiT`; the defaults are DiT-XL/2's at 256 pixels."""

    input_size: Positive = 32
    patch_size: Positive = 2
    in_channels: Positive = 4
    hidden_size: Annotated[int, Gt(0), MultipleOf(4)] = 1152
    depth: Positive = 28
    num_heads: Positive = 16
    mlp_ratio: Annotated[float, Gt(0.0)] = 4.0
    class_dropout_prob: Annotated[float, Ge(0.0), Lt(1.0)] = 0.1
    num_classes: Positive = 1000
    cond_dim: Positive | None = None
    caption: Literal["cross-attention", "in-context"] = "cross-attention"
    learn_sigma: bool = True
    conditioning: Literal["adaln-zero", "adaln", "adaln-single", "cross-attention", "in-context"] = "adaln-zero"
    numerics: Literal["official", "diffusers"] = "official"

    @model_validator(mode="after")
    def _fits(self) -> DiTConfig:
        if self.input_size % self.patch_size:
            raise ValueError(
                f"input_size is {self.input_size}, but must be a multiple of patch_size, {self.patch_size}"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, but {self.num_heads} heads need a multiple of {self.num_heads}"
            )
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.input_size, self.input_size)

    @property
    def classes(self) -> int | None:
        return None if self.cond_dim else self.num_classes

    @property
    def classes_are_told_in_vain(self) -> bool:
        """Whether num_classes is set beside cond_dim, where it means nothing. Cards of old hold its default there, and
        may hold others; so recipes refuse it, and cards do not."""
        return self.cond_dim is not None and self.num_classes != type(self).model_fields["num_classes"].default

    @property
    def null_class(self) -> int | None:
        return self.num_classes if self.classes and self.class_dropout_prob > 0 else None

    @property
    def condition_width(self) -> int | None:
        return self.cond_dim

    @property
    def reads_tokens(self) -> bool:
        return self.cond_dim is not None

    @property
    def hidden_share(self) -> float:
        return self.class_dropout_prob

    @property
    def learns_variance(self) -> bool:
        return self.learn_sigma


class UNet3DConfig(NetworkConfig):
    """Arguments of `nets.unet3d.UNet3D`, by the names of video-diffusion-pytorch where it has them.

    num_frames: of the clips it was trained on, and draws where not told otherwise; the network takes any.
    class_dropout_prob: how often training hides the condition.
    """

    image_size: Positive = 64
    num_frames: Positive = 16
    dim: Annotated[int, Gt(0), MultipleOf(2)] = 64
    cond_dim: Positive | None = None
    num_classes: Positive | None = None
    class_dropout_prob: Annotated[float, Ge(0.0), Lt(1.0)] = 0.1
    out_dim: Positive | None = None
    dim_mults: Annotated[tuple[Positive, ...], MinLen(1)] = (1, 2, 4, 8)
    channels: Positive = 3
    attn_heads: Positive = 8
    attn_dim_head: Annotated[int, Gt(0), MultipleOf(2)] = 32
    init_kernel_size: Positive = 7
    use_sparse_linear_attn: bool = True
    norm: Literal["rms", "group"] = "rms"
    resnet_groups: Positive = 8
    attn_resolutions: tuple[Positive, ...] | None = None
    strict_mask: bool = False
    patch: Positive = 1
    cond_tokens: bool = False

    @model_validator(mode="after")
    def _fits(self) -> UNet3DConfig:
        smallest = self.patch * 2 ** (len(self.dim_mults) - 1)
        if self.image_size % smallest:
            raise ValueError(f"image_size is {self.image_size}, but these levels need a multiple of {smallest}")
        if self.dim < 4:
            raise ValueError(f"dim is {self.dim}, but the timestep's code needs at least 4")
        if not self.init_kernel_size % 2:
            raise ValueError(f"init_kernel_size is {self.init_kernel_size}, but must be odd")
        if self.norm == "group" and self.dim % self.resnet_groups:
            raise ValueError(f"dim is {self.dim}, but {self.resnet_groups} groups need a multiple of that")
        if self.num_classes and not self.cond_dim:
            raise ValueError(f"num_classes is {self.num_classes}, but classes need a cond_dim, the width of their code")
        if self.cond_tokens and (self.num_classes or not self.cond_dim):
            raise ValueError("cond_tokens is true, but only captions have tokens; give cond_dim, and no num_classes")
        if self.cond_tokens and self.dim % self.attn_heads:
            raise ValueError(f"dim is {self.dim}, but {self.attn_heads} heads that attend to tokens need a multiple")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.channels, self.num_frames, self.image_size, self.image_size)

    @property
    def answers(self) -> int:
        return self.channels if self.out_dim is None else self.out_dim

    @property
    def classes(self) -> int | None:
        return self.num_classes

    @property
    def null_class(self) -> int | None:
        return self.num_classes if self.num_classes and self.class_dropout_prob > 0 else None

    @property
    def condition_width(self) -> int | None:
        return None if self.num_classes else self.cond_dim

    @property
    def reads_tokens(self) -> bool:
        return self.cond_tokens

    @property
    def hidden_share(self) -> float:
        return self.class_dropout_prob if self.cond_dim else 0.0


class ADMConfig(NetworkConfig):
    """Arguments of `nets.adm.ADM`, by the names of guided-diffusion's flags; the defaults are its scripts'."""

    @model_serializer(mode="wrap")
    def _usual_timesteps_go_unsaid(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A field of improved-diffusion's models alone: what names results of other models does not change."""
        return {name: value for name, value in dump(self).items() if (name, value) != ("timestep_scale", 1.0)}

    image_size: Positive = 64
    num_channels: Annotated[int, Gt(0), MultipleOf(32)] = 128
    num_res_blocks: Positive = 2
    channel_mult: Annotated[tuple[Annotated[float, Gt(0.0)], ...], MinLen(1)] = (1, 2, 3, 4)
    attention_resolutions: tuple[Positive, ...] = (16, 8)
    num_heads: Positive = 4
    num_head_channels: int = -1
    num_classes: Positive | None = None
    learn_sigma: bool = False
    resblock_updown: bool = False
    use_scale_shift_norm: bool = True
    use_new_attention_order: bool = False
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    in_channels: Positive = 3
    timestep_scale: Annotated[float, Gt(0.0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> ADMConfig:
        smallest = 2 ** (len(self.channel_mult) - 1)
        widths = [round(m * self.num_channels) for m in self.channel_mult]
        if self.image_size % smallest:
            raise ValueError(f"image_size is {self.image_size}, but these levels need a multiple of {smallest}")
        if odd := [width for width in widths if width < 32 or width % 32]:
            raise ValueError(f"channel_mult makes a level of {odd[0]} channels, but group norm needs a multiple of 32")
        if self.num_head_channels != -1 and self.num_head_channels < 1:
            raise ValueError(
                f"num_head_channels is {self.num_head_channels}, but must be positive, or -1 for num_heads"
            )
        split = self.num_heads if self.num_head_channels == -1 else self.num_head_channels
        attended = [w for i, w in enumerate(widths) if self.image_size >> i in self.attention_resolutions]
        if odd := [width for width in (*attended, widths[-1]) if width % split]:
            raise ValueError(f"attention over {odd[0]} channels cannot be split by {split}; choose other heads")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def classes(self) -> int | None:
        return self.num_classes

    @property
    def learns_variance(self) -> bool:
        return self.learn_sigma


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

    config: the pydantic class of its network's arguments; build: config -> network; spacing, sampler, steps,
    rounding: what its official sampling script does; clamps: whether x0 of pixels is clamped whatever the sampler, as
    video-diffusion-pytorch and guided-diffusion do: the former's schedule ends in so little signal that DDIM's first
    step would magnify errors thousandfold.
    """

    name: str
    config: type[NetworkConfig]
    build: Callable[[Any], nn.Module]
    spacing: Spacing
    sampler: SamplerName
    steps: int
    rounding: Rounding
    clamps: bool = False


def _unet2d(config: UNet2DConfig) -> nn.Module:
    from difflab.nets.unet2d import UNet2D

    return UNet2D(**config.model_dump())


def _dit(config: DiTConfig) -> nn.Module:
    from difflab.nets.dit import DiT

    return DiT(**config.model_dump())


def _unet3d(config: UNet3DConfig) -> nn.Module:
    from difflab.nets.unet3d import UNet3D

    return UNet3D(**config.model_dump(exclude={"num_frames", "class_dropout_prob"}))


def _adm(config: ADMConfig) -> nn.Module:
    from difflab.nets.adm import ADM

    return ADM(**config.model_dump())


FamilyName = Literal["unet2d", "dit", "unet3d", "adm"]
FAMILIES: dict[FamilyName, Family] = {
    "unet2d": Family("unet2d", UNet2DConfig, _unet2d, "uniform", "ddim", 50, "nearest"),
    "dit": Family("dit", DiTConfig, _dit, "respaced", "ddpm", 250, "shifted"),
    "unet3d": Family("unet3d", UNet3DConfig, _unet3d, "trailing", "ddpm", 1000, "floor", clamps=True),
    "adm": Family("adm", ADMConfig, _adm, "respaced", "ddpm", 250, "floor", clamps=True),
}


def network_config(family: FamilyName, fields: Any) -> NetworkConfig:
    """The arguments of a network of `family`, which may be checked already.

    Raises ValueError for a field that the family does not have, and ValidationError for a value that is wrong.
    """
    known = FAMILIES[family].config
    if isinstance(fields, NetworkConfig):
        if not isinstance(fields, known):
            raise ValueError(f"is not of the family {family}, but of {type(fields).__name__.removesuffix('Config')}")
        return fields
    if isinstance(fields, Mapping) and (odd := [name for name in fields if name not in known.model_fields]):
        raise ValueError(f"has no field {odd[0]!r} in the family {family}.{suggest(odd[0], known.model_fields)}")
    return known.model_validate(fields)
