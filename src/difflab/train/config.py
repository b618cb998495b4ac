"""Recipes: typed, validated YAML that says all there is to know of a training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationInfo, field_validator, model_validator

from difflab.core.loss import Error, Reduction, Weighting
from difflab.core.prediction import Prediction
from difflab.core.sampler import Variance
from difflab.data.clips import Short
from difflab.data.dataset import Crop
from difflab.data.shapes import CLASSES
from difflab.data.shapes_clips import CLASSES as CLIP_CLASSES
from difflab.data.transforms import Dequantization
from difflab.errors import DifflabError, suggest
from difflab.validation import plain_name, validated, yaml_mapping
from difflab.zoo.autoencoder import AutoencoderConfig
from difflab.zoo.families import (
    DiTConfig,
    FamilyName,
    NetworkConfig,
    Positive,
    ScheduleConfig,
    UNet3DConfig,
    network_config,
)
from difflab.zoo.registry import Folder

Share = Annotated[float, Ge(0.0), Le(1.0)]
Memory = Annotated[float, Ge(0.0), Lt(1.0)]  # of a running mean
Channels = Annotated[int, Gt(0), MultipleOf(8)]  # for group norm


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Strict):
    """source: a data set name, folder or archive (see `data.sources`); size: pixels of the side; crop: how
    pictures are brought to it, None is as usual for the data (see `data.dataset.Transform`); flip: mirror half of
    the pictures; split: for sources that have one; seed: of the world `shapes`; dequantization: noise below a grey
    level, as ermongroup/ddim can add it (see `data.transforms`); frames: of clips, None for pictures; of films: stride,
    fps, short: see `data.clips.Window`; images: single frames of other clips beside every clip, which no temporal
    attention mixes with it (joint training, Ho et al. 2022, section 4.2)."""

    source: str
    size: Positive = 32
    crop: Crop | None = None
    split: str | None = "train"
    flip: bool = True
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    dequantization: Dequantization | None = None
    frames: Positive | None = None
    stride: Positive = 1
    fps: Annotated[float, Gt(0.0)] | None = None
    short: Short = "drop"
    images: Annotated[int, Ge(0)] = 0

    @model_validator(mode="after")
    def _films_are_of_clips(self) -> DataConfig:
        if self.frames is None and (self.stride, self.fps, self.short, self.images) != (1, None, "drop", 0):
            raise ValueError(
                "stride, fps, short or images are told, but no frames, which make clips; give frames, or leave them out"
            )
        return self


class OptimConfig(_Strict):
    """lr rises linearly over `warmup` steps, stays, and falls linearly to 0 over the last `decay` share of the steps.
    grad_clip: largest global norm of the gradient; None does not clip. With `muon`, lr is of the hidden weights and
    adam_lr, on the same course, of all others (see `train.optim`)."""

    name: Literal["adam", "adamw", "muon", "rmsprop", "sgd"] = "adam"
    lr: Annotated[float, Gt(0.0)] = 2e-4
    adam_lr: Annotated[float, Gt(0.0)] = 1e-3
    betas: tuple[Memory, Memory] = (0.9, 0.999)
    eps: Annotated[float, Gt(0.0)] = 1e-8
    weight_decay: Annotated[float, Ge(0.0)] = 0.0
    amsgrad: bool = False
    grad_clip: Annotated[float, Gt(0.0)] | None = 1.0
    warmup: Annotated[int, Ge(0)] = 0
    decay: Share = 0.0

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step`, counted from 0, of `steps`."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (steps - step) / (self.decay * steps) if self.decay else 1.0
        return self.lr * min(rise, 1.0, fall)


class Recipe(_Strict):
    """What every training has: data, optimiser, length, and how often it logs and saves.

    batch: samples a step over all devices; accumulate: parts in which a device takes its share, one after the other,
    where memory is short; precision: `bf16` runs the network in bfloat16 where that is safe; seed: of everything
    random, which at step s depends on (seed, s) alone.
    """

    name: str
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    steps: Positive
    batch: Annotated[int, Gt(0), Le(65_536)] = 128
    accumulate: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    log_every: Positive = 100
    save_every: Positive = 1000

    @field_validator("name")
    @classmethod
    def _name_is_a_files(cls, name: str) -> str:
        return plain_name(name, "file")

    @model_validator(mode="after")
    def _batch_has_equal_parts(self) -> Recipe:
        if self.batch % self.accumulate:
            raise ValueError(f"batch is {self.batch}, but must be a multiple of accumulate, {self.accumulate}")
        return self


class DiffusionRecipe(Recipe):
    """A diffusion model, of pixels or of the latents of an autoencoder.

    error: `l2` squares what the network is off, `l1`, as video-diffusion-pytorch usually does, does not. The
    official DDIM recipe is reduction `sum`, timesteps `antithetic`, Adam at a constant rate; that of DiT has a
    network that learns its variance (learn_sigma), AdamW at 1e-4 and no clipping. autoencoder: by name, path or hub
    id (see `zoo.autoencoder.open_autoencoder`); None trains on pixels. text_encoder: by name, path or hub id (see
    `zoo.text.open_text_encoder`), for a network that is told captions (cond_dim). start: a model whose weights it
    begins with, to be tuned to other data or classes. ema_rate: of the average that is sampled from; sample_every:
    steps between pictures. timesteps: `uniform`, `antithetic` pairs of such, or `lognormal` noise levels, of which
    noise_level has mean and standard deviation (see `core.loss.lognormal_timesteps`). target: what the network learns
    to tell apart from the noise: the `data` drawn, or, on `shapes` alone, the `exact` mean of all scenes or clips given
    the noisy one and what is told of it (see `train.shapes_denoiser`, `train.motions_denoiser` and, of latents, which
    then are the means of their posteriors, `train.latents_denoiser`).
    weighting: of the error over noise levels, see `core.loss.diffusion_loss`; `v` needs the prediction x0.
    checkpointing: recompute activations in the backward pass, which saves memory and costs a third more time.
    """

    kind: Literal["diffusion"] = "diffusion"
    family: FamilyName = "unet2d"
    network: SerializeAsAny[NetworkConfig]
    autoencoder: str | None = None
    text_encoder: str | None = None
    start: str | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Prediction = "eps"
    variance: Variance = "small"
    reduction: Reduction = "mean"
    error: Error = "l2"
    timesteps: Literal["uniform", "antithetic", "lognormal"] = "uniform"
    noise_level: tuple[float, Annotated[float, Gt(0.0)]] | None = None
    target: Literal["data", "exact"] = "data"
    weighting: Weighting = "flat"
    ema_rate: Share = 0.9999
    checkpointing: bool = False
    sample_every: Positive = 5000

    @field_validator("network", mode="before")
    @classmethod
    def _network_of_its_family(cls, value: Any, info: ValidationInfo) -> Any:
        return network_config(info.data["family"], value) if "family" in info.data else value

    @model_validator(mode="after")
    def _network_takes_the_pictures(self) -> DiffusionRecipe:
        frames = () if self.data.frames is None else (self.data.frames,)
        found, expected = self.network.sample_shape, (3, *frames, self.data.size, self.data.size)
        if self.autoencoder is None and found != expected:
            size = "input_size" if self.family == "dit" else "image_size"
            also = ", network.num_frames and data.frames alike" if self.family == "unet3d" else ", in_channels to 3"
            raise ValueError(
                f"network takes {found}, but the data are {'clips' if frames else 'pictures'} {expected}; set "
                f"network.{size} and data.size alike{also}"
            )
        due = 2 * found[0] if self.network.learns_variance else found[0]
        if self.network.answers != due:
            raise ValueError(f"network gives {self.network.answers} channels, not {due}; set out_ch to {due}")
        return self

    @model_validator(mode="after")
    def _directions_are_not_mirrored(self) -> DiffusionRecipe:
        if self.data.source != "shapes" or not self.data.flip:
            return self
        if self.data.frames and (self.network.classes or 1) > 1:
            raise ValueError("data.flip is true, but a mirrored clip moves in another direction; set it to false")
        if self.text_encoder is not None:
            raise ValueError("data.flip is true, but a mirrored scene is not what its caption says; set it to false")
        return self

    @model_validator(mode="after")
    def _captions_are_read(self) -> DiffusionRecipe:
        width = self.network.condition_width
        if self.text_encoder is not None and width is None:
            raise ValueError(
                "text_encoder is given, but the network is told no captions; set network.cond_dim to its width"
            )
        if isinstance(self.network, DiTConfig) and self.network.classes_are_told_in_vain:
            raise ValueError(
                f"network.num_classes is {self.network.num_classes}, but with cond_dim the network is told captions "
                "instead of classes; leave num_classes out"
            )
        if self.text_encoder is None and width is not None:
            raise ValueError(f"network.cond_dim is {width}, but nothing makes vectors of captions; give a text_encoder")
        return self

    @model_validator(mode="after")
    def _pictures_beside_clips_stay_apart(self) -> DiffusionRecipe:
        network = self.network
        if not self.data.images or not isinstance(network, UNet3DConfig):
            return self
        apart = network.strict_mask or network.attn_resolutions is not None
        if not apart or network.norm == "group":
            fix = "strict_mask to true" if not apart else "norm to rms"
            raise ValueError(
                f"data.images is {self.data.images}, but this network would mix pictures with the clip; set "
                f"network.{fix}"
            )
        return self

    @model_validator(mode="after")
    def _variance_is_learned_where_it_is_answered(self) -> DiffusionRecipe:
        if (self.variance == "learned") != self.network.learns_variance:
            does = "learns" if self.network.learns_variance else "does not learn"
            fit = "learned" if self.network.learns_variance else "small or large"
            raise ValueError(f"variance is {self.variance}, but the network {does} its variance; choose {fit}")
        plain = (self.prediction, self.reduction, self.error, self.weighting)
        if self.variance == "learned" and plain != ("eps", "mean", "l2", "flat"):
            raise ValueError(
                "variance is learned, which the hybrid loss trains beside eps alone; leave prediction, reduction, "
                "error and weighting out"
            )
        return self

    @model_validator(mode="after")
    def _v_weighs_x0(self) -> DiffusionRecipe:
        if self.weighting == "v" and self.prediction != "x0":
            raise ValueError(
                f"weighting is v, but prediction is {self.prediction}: errors of x0 alone are weighed like those of v; "
                "choose prediction: x0 or weighting: flat"
            )
        return self

    @model_validator(mode="after")
    def _lognormal_has_its_noise_level(self) -> DiffusionRecipe:
        if (self.timesteps == "lognormal") != (self.noise_level is not None):
            raise ValueError("timesteps: lognormal and noise_level belong together; give both, or neither")
        return self

    @model_validator(mode="after")
    def _exact_needs_a_known_world(self) -> DiffusionRecipe:
        d = self.data
        if self.target != "exact":
            return self
        if self.error != "l2":
            raise ValueError(
                "target is exact, but error is l1: an exact mean stands for data under l2 alone; choose l2"
            )
        if (d.source, d.size, d.images, d.dequantization) != ("shapes", 32, 0, None):
            added = f" with {d.dequantization} noise" if d.dequantization else ""
            raise ValueError(
                f"target is exact, but data is {d.source} at {d.size} pixels{added}: the exact mean is known "
                "for plain shapes at 32 pixels alone; choose target: data"
            )
        if self.autoencoder is not None and (d.flip or d.frames is not None):
            raise ValueError(
                "target is exact, but data.flip is true: a mirrored scene is of another class; set it to false"
                if d.flip
                else "target is exact, but of latents of clips the mean is not known; choose target: data"
            )
        known = len(CLIP_CLASSES) if d.frames is not None else None if self.autoencoder is None else len(CLASSES)
        if (classes := self.network.classes) not in (None, known):
            raise ValueError(
                f"target is exact, but the network is told {classes} classes: the exact mean is known "
                f"{'without classes' if known is None else f'with none or {known}'}; choose target: data"
            )
        if self.text_encoder is not None and d.frames is None:
            raise ValueError(
                "target is exact, but the network is told captions: of pictures the exact mean is known without them "
                "alone; choose target: data"
            )
        return self


class FeaturesRecipe(Recipe):
    """A feature network: a classifier of the data's labels or, on `shapes`, of the attributes of a scene or clip.

    heads: attribute -> number of classes; width: of its first layer; dim: of its features; noise: largest share of
    Gaussian noise mixed into training pictures, so that the features also grade unclean ones.
    """

    kind: Literal["features"] = "features"
    heads: Annotated[dict[str, Positive], MinLen(1)]
    width: Channels = 32
    dim: Channels = 64
    noise: Share = 0.0

    @model_validator(mode="after")
    def _pictures_suit(self) -> FeaturesRecipe:
        if self.data.size != 32:
            raise ValueError(f"data.size is {self.data.size}, but feature networks look at 32 pixels; set it to 32")
        if self.data.source == "shapes" and self.data.flip:
            raise ValueError("data.flip is true, but mirrored scenes have other places; set it to false")
        return self


class AutoencoderRecipe(Recipe):
    """A KL autoencoder: squared error of the reconstruction, averaged over pixels, plus kl_weight times the KL
    divergence of the posterior from N(0, 1), averaged over latents."""

    kind: Literal["autoencoder"] = "autoencoder"
    network: AutoencoderConfig = AutoencoderConfig()
    kl_weight: Annotated[float, Ge(0.0)] = 1e-5

    @model_validator(mode="after")
    def _sizes_agree(self) -> AutoencoderRecipe:
        if (self.network.channels, self.network.image_size) != (3, self.data.size):
            raise ValueError(
                f"network takes pictures of {self.network.channels} channels and {self.network.image_size} pixels, but "
                f"the data have 3 and {self.data.size}; set them alike"
            )
        return self


class TextRecipe(Recipe):
    """A text encoder for the language of `shapes`, of scenes and of clips alike, that learns to read: to tell from a
    sentence everything that it asks for."""

    kind: Literal["text"] = "text"
    width: Positive = 64
    depth: Positive = 2
    heads: Positive = 4
    length: Annotated[int, Gt(1)] = 24

    @model_validator(mode="after")
    def _language_is_known(self) -> TextRecipe:
        if self.data.source != "shapes":
            raise ValueError(
                f"data.source is {self.data.source}, but only the language of shapes is learned; set shapes"
            )
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, but {self.heads} heads need a multiple of {self.heads}")
        return self


AnyRecipe = DiffusionRecipe | FeaturesRecipe | AutoencoderRecipe | TextRecipe
_KINDS: dict[str, type[AnyRecipe]] = {
    "diffusion": DiffusionRecipe,
    "features": FeaturesRecipe,
    "autoencoder": AutoencoderRecipe,
    "text": TextRecipe,
}


def folder_of(recipe: AnyRecipe) -> Folder:
    """Where the finished network of a recipe is kept."""
    folders: dict[str, Folder] = {
        "diffusion": "models",
        "features": "features",
        "autoencoder": "autoencoders",
        "text": "text",
    }
    return folders[recipe.kind]


def parse_recipe(fields: Any, where: str) -> AnyRecipe:
    """The recipe in a mapping, by its `kind`. Raises DifflabError that begins with `where` and names a wrong field."""
    kind = fields.setdefault("kind", "diffusion") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DifflabError(f"{where}: kind {kind!r} is not known.{suggest(str(kind), _KINDS)}")
    return validated(_KINDS[kind], fields, where)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe from YAML, with `key=value` overrides where a dot goes one level down, as in `optim.lr=1e-4`.

    Raises DifflabError naming the file and the field that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DifflabError(
            f"{path}: the recipe cannot be read ({error.strerror}); give the path of a YAML file."
        ) from error
    except UnicodeDecodeError as error:
        raise DifflabError(f"{path}: this is not a text file; a recipe is a YAML file.") from error
    fields = yaml_mapping(text, str(path), "a recipe")
    for override in overrides:
        _apply(fields, override)
    return parse_recipe(fields, str(path))


def _apply(fields: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise DifflabError(f"override {override!r} has no '='; write it as key=value, for example optim.lr=1e-4.")
    try:
        value = yaml.load(text, Loader=_Numbers)
    except yaml.YAMLError as error:
        raise DifflabError(f"override {override!r}: the value is not YAML; quote it, or close its brackets.") from error
    apply_override(fields, key, value)


def apply_override(fields: dict[str, Any], key: str, value: Any) -> None:
    """Set one field of a recipe's fields, where a dot in `key` goes one level down."""
    *parents, last = key.split(".")
    for parent in parents:
        fields = fields.setdefault(parent, {})
        if not isinstance(fields, dict):
            raise DifflabError(f"override {key!r}: {parent!r} is a single value, so nothing can be set below it.")
    fields[last] = value


class _Numbers(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; people who type it mean a number."""


_Numbers.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
