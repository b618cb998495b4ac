"""From a name, a file or a folder to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from difflab.core.prediction import Prediction
from difflab.errors import DifflabError, see, suggest
from difflab.validation import validated
from difflab.zoo.adapters import read_official, read_own_training
from difflab.zoo.card import Card
from difflab.zoo.checkpoint import KEY, parse_card
from difflab.zoo.contents import Contents, State
from difflab.zoo.diffusers_dit import CLASSES as DIT
from difflab.zoo.diffusers_dit import read_diffusers_dit
from difflab.zoo.diffusers_folder import home_of, json_file
from difflab.zoo.diffusers_unet import CLASS as UNET
from difflab.zoo.diffusers_unet import read_diffusers_unet
from difflab.zoo.families import FAMILIES, FamilyName, NetworkConfig, ScheduleConfig
from difflab.zoo.fetch import verify
from difflab.zoo.infer import network_fields, official_match
from difflab.zoo.model import Model, build_model
from difflab.zoo.official import OfficialConfig, read_config
from difflab.zoo.registry import PARTS, Entry, find, known_names
from difflab.zoo.safe import is_safetensors, read_safetensors, read_torch
from difflab.zoo.sizes import adm_size, dit_size
from difflab.zoo.training_state import RECORD

Config = str | Path | Mapping[str, Any] | NetworkConfig | OfficialConfig
ScheduleLike = str | Mapping[str, Any] | ScheduleConfig


def load(
    source: str | Path,
    *,
    family: FamilyName | None = None,
    config: Config | None = None,
    prediction: Prediction | None = None,
    schedule: ScheduleLike | None = None,
    weights: Literal["ema", "raw"] = "ema",
    vae: str | None = None,
    text_encoder: str | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """A model from a name of the zoo, a checkpoint file, or a diffusers folder; nothing in it is executed.

    What the file does not say can be told, what it says can be overridden.

    Args:
        source: a zoo name such as `lsun-church`; a difflab .safetensors, or folder `checkpoint` of a training; an
            official trainer file or state dict, of DDIM, guided-diffusion, DiT or video-diffusion-pytorch; a folder of
            diffusers' UNet2DModel or of its DiT. A zoo name goes before a file of that name; for the file write
            `./name`.
        family: a name in `FAMILIES`.
        config: an official DDIM configuration by name, path or content; a size such as `DiT-B/4`, `ADM-256` or
            `IDDPM-64`; a configuration of the family's; or single fields of one, as a dict or as text,
            `num_heads=4,num_classes=10`.
        prediction: what the output is read as: eps, x0 or v.
        schedule: a schedule by name, or fields of `ScheduleConfig`; those not given stay as they are.
        weights: which of a trainer's file: averaged where it has such, or raw.
        vae: another autoencoder for a latent model, see `zoo.autoencoder.open_autoencoder`.
        text_encoder: another, or the, text encoder for a model of captions, see `zoo.text.open_text_encoder`.
        device: where the network is to be.

    Raises DifflabError, in one sentence, for everything that is wrong with the file or the settings.
    """
    place = _device(device)
    card, state = read_model(
        source, family=family, config=config, prediction=prediction, schedule=schedule, weights=weights, vae=vae,
        text_encoder=text_encoder,
    )  # fmt: skip
    return build_model(card, state, place, str(source))


def read_model(
    source: str | Path,
    *,
    family: FamilyName | None = None,
    config: Config | None = None,
    prediction: Prediction | None = None,
    schedule: ScheduleLike | None = None,
    weights: Literal["ema", "raw"] = "ema",
    vae: str | None = None,
    text_encoder: str | None = None,
) -> tuple[Card, State]:
    """Card and weights of `source`, as `load` takes it, before a network is built."""
    told = _told(config)
    path, entry = _locate(source)
    contents = _read(path, told, averaged=told.ema and weights == "ema")
    fields: dict[str, Any] = {"name": entry.name if entry else path.resolve().stem, **contents.card}
    if entry and entry.kind == "official":
        fields |= {"weights": entry.weights, "source": f"the official file {entry.name}"}
    fields |= _configured(contents, told, entry, str(path))
    fields |= {key: value for key, value in (("family", family), ("prediction", prediction)) if value is not None}
    if schedule is not None:
        fields["schedule"] = _scheduled(fields.get("schedule", {}), schedule)
    if vae is not None:
        fields["codec"] = _with_vae(fields.get("codec"), vae, str(source))
    if text_encoder is not None:
        fields["text"] = {"encoder": text_encoder}
    card = validated(Card, fields, str(source))
    if card.text is not None and card.network.condition_width is None:
        raise DifflabError(f"{source}: is told no captions; leave the text encoder out.")
    return card, contents.state


@dataclass(frozen=True)
class _Told:
    """What `config` says: complete fields of the card or single ones of the network, and whether averages are used."""

    card: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    ema: bool = True


def _told(config: Config | None) -> _Told:
    if config is None:
        return _Told()
    if isinstance(config, NetworkConfig):
        return _Told(network=config.model_dump())
    if isinstance(config, Mapping) and "model" not in config:
        return _Told(network=dict(config))
    if isinstance(config, str) and config.startswith("DiT-"):
        return _Told(network=dict(dit_size(config)))
    if isinstance(config, str) and config.startswith(("ADM-", "IDDPM-")):
        return _Told(network=adm_size(config))
    if isinstance(config, str) and "=" in config:
        return _Told(network=_from_text(config))
    if isinstance(config, Mapping):
        config = validated(OfficialConfig, config, "config")
    official = config if isinstance(config, OfficialConfig) else read_config(config)
    return _Told(official.card_fields(), ema=official.model.ema)


def _from_text(config: str) -> dict[str, Any]:
    """`a=1,b=two` as {a: 1, b: "two"}."""
    fields = {}
    for part in config.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise DifflabError(f"config {config!r} is not understood; write fields as num_heads=4,num_classes=10.")
        fields[name.strip()] = yaml.safe_load(value)
    return fields


def _locate(source: str | Path) -> tuple[Path, Entry | None]:
    entry = find(source) if isinstance(source, str) else None
    if entry and entry.kind not in PARTS:
        path = entry.require()
        verify(entry, path)
        return path, entry
    if (path := Path(source)).exists():
        return path, None
    raise DifflabError(
        f"{source}: no such file or folder, nor a model of that name; a recipe’s name is known once `difflab train` "
        f"has finished it; {see('how-to/checkpoint')}.{suggest(str(source), known_names())}"
    )


def _read(path: Path, told: _Told, averaged: bool) -> Contents:
    if path.is_dir():
        return read_own_training(path, averaged) if (path / RECORD).exists() else _read_folder(path, told)
    if not is_safetensors(path):
        return read_official(read_torch(path), path, told.network, averaged)
    state, metadata = read_safetensors(path)
    if KEY not in metadata:
        return read_official(state, path, told.network, averaged)
    card = parse_card(metadata[KEY], path).model_dump()
    return Contents(state, card.pop("network"), card)


def _read_folder(path: Path, told: _Told) -> Contents:
    home = home_of(path)
    name = json_file(home / "config.json").get("_class_name", UNET)
    if name in DIT:
        return read_diffusers_dit(path, home, told.network)
    if name == UNET:
        return read_diffusers_unet(path, home, told.network)
    raise DifflabError(
        f"{home / 'config.json'}: _class_name is {name}, but only {', '.join((UNET, *DIT))} are supported."
    )


def _configured(contents: Contents, told: _Told, entry: Entry | None, where: str) -> dict[str, Any]:
    """Fields of the card that follow from the configuration: told, in the file, of the zoo, or read off the shapes."""
    family = contents.card.get("family", "unet2d")
    for name in told.network:
        if name not in (known := FAMILIES[family].config.model_fields):
            raise DifflabError(f"config: the field {name} is not known.{suggest(name, known)}")
    if contents.network:
        return _with_network({}, family, {**contents.network, **told.network}, where)
    if told.card:
        return told.card
    return _configured_unet(contents, told, entry, where)


def _configured_unet(contents: Contents, told: _Told, entry: Entry | None, where: str) -> dict[str, Any]:
    for name in {"image_size", "patch"} & told.network.keys():
        if not isinstance(value := told.network[name], int) or value < 1:
            raise DifflabError(f"config: {name} is {value!r}, but must be a positive number.")
    if "image_size" in told.network:
        return _with_network({}, "unet2d", network_fields(contents.state, told.network, where), where)
    if entry and entry.config:
        official, guess = read_config(entry.config), {}
    else:
        name, official = official_match(contents.state, where)
        guess = {"source": f"{contents.card.get('source', 'a file')}, taken for {name}.yml by its shapes"}
    fields = official.card_fields()
    return guess | _with_network(fields, "unet2d", {**fields["network"].model_dump(), **told.network}, where)


def _with_network(fields: dict[str, Any], family: FamilyName, network: dict[str, Any], where: str) -> dict[str, Any]:
    return {**fields, "network": validated(FAMILIES[family].config, network, f"{where}, its configuration")}


def _with_vae(codec: Mapping[str, Any] | None, vae: str, where: str) -> dict[str, Any]:
    if codec is None:
        raise DifflabError(f"{where}: is a model of pixels, which has no autoencoder; leave --vae {vae} out.")
    return {**codec, "vae": vae, "sha256": None}


def _scheduled(base: ScheduleConfig | dict[str, Any], told: ScheduleLike) -> ScheduleConfig:
    if isinstance(told, ScheduleConfig):
        return told
    known = base.model_dump() if isinstance(base, ScheduleConfig) else base
    return validated(ScheduleConfig, {**known, **({"name": told} if isinstance(told, str) else told)}, "schedule")


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what torch raises for names it does not know and for builds without it
        raise DifflabError(
            f"device {str(name)!r} cannot be used here; choose cpu, or see `difflab doctor` for what there is."
        ) from error
