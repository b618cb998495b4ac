"""Models and feature networks by name: what ships, what can be fetched, what was trained here, and where each lies.

A name is the same with dashes and underscores. `lsun-church` alone is `ema_lsun_church`, because the official
`--use_pretrained` always takes the averaged weights; those without averaging are `raw_lsun_church`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from difflab import files
from difflab.errors import DifflabError, see

Kind = Literal["shipped", "official", "trained", "features", "autoencoder", "text", "classifier"]
Folder = Literal["models", "features", "autoencoders", "text"]  # where a finished training goes, below `home()`
PARTS: tuple[Kind, ...] = ("features", "autoencoder", "text", "classifier")  # kinds that draw nothing by themselves
Algorithm = Literal["md5", "sha256"]

_HEIBOX = "https://heibox.uni-heidelberg.de/f/{}/?dl=1"
_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Entry:
    """One known file.

    places: where it may lie, the first being where it is fetched to; checksum: (algorithm, hex); config: the official
    configuration it belongs to; weights: which weights an official file holds.
    """

    name: str
    kind: Kind
    places: tuple[Path, ...]
    url: str | None = None
    checksum: tuple[Algorithm, str] | None = None
    config: str | None = None
    weights: Literal["ema", "raw", "plain"] = "plain"

    @property
    def path(self) -> Path | None:
        """The file, or None if it is not on this machine."""
        return next((place for place in self.places if place.is_file()), None)

    def require(self) -> Path:
        """The file. Raises DifflabError that says how to get it."""
        if (path := self.path) is not None:
            return path
        raise DifflabError(
            f"{self.name} is not on this machine; run `difflab models fetch {self.name}`, "
            f"or download {self.url} to {self.places[0]}; {see('how-to/missing')}."
        )


@dataclass(frozen=True)
class Row:
    """A line of `difflab models`. size: in bytes, None while absent; where: the file, or the place it is fetched to."""

    name: str
    kind: Kind
    present: bool
    size: int | None
    where: Path


@dataclass(frozen=True)
class _Official:
    """A file of pesser/pytorch_diffusion: DDPM's TensorFlow weights, converted."""

    data: str
    steps: int
    config: str
    raw: tuple[str, str]  # md5, share id
    ema: tuple[str, str]


_OFFICIAL = (
    _Official(
        "cifar10",
        790000,
        "cifar10",
        raw=("82ed3067fd1002f5cf4c339fb80c4669", "869980b53bf5416c8a28"),
        ema=("1fa350b952534ae442b1d5235cce5cd3", "2e4f01e2d9ee49bab1d5"),
    ),
    _Official(
        "lsun_bedroom",
        2388000,
        "bedroom",
        raw=("f70280ac0e08b8e696f42cb8e948ff1c", "f179d4f21ebc4d43bbfe"),
        ema=("1921fa46b66a3665e450e42f36c2720f", "b95206528f384185889b"),
    ),
    _Official(
        "lsun_cat",
        1761000,
        "bedroom",  # there is no cat.yml; all LSUN models share network and schedule
        raw=("bbee0e7c3d7abfb6e2539eaf2fb9987b", "fac870bd988348eab88e"),
        ema=("646f23f4821f2459b8bafc57fd824558", "0701aac3aa69457bbe34"),
    ),
    _Official(
        "lsun_church",
        4432000,
        "church",
        raw=("eb619b8a5ab95ef80f94ce8a5488dae3", "2711a6f712e34b06b9d8"),
        ema=("fdc68a23938c2397caba4a260bc2445f", "44ccb50ef3c6436db52e"),
    ),
)

# Files of guided-diffusion (jul-2021) and improved-diffusion (march-2021) by name; of none was a checksum published.
_ADM = {
    **{f"adm-imagenet{side}": f"jul-2021/{side}x{side}_diffusion.pt" for side in (64, 128, 256, 512)},
    "adm-imagenet256-uncond": "jul-2021/256x256_diffusion_uncond.pt",
    **{f"adm-lsun-{what}": f"jul-2021/lsun_{what}.pt" for what in ("bedroom", "cat", "horse")},
    "adm-lsun-horse-nodropout": "jul-2021/lsun_horse_nodropout.pt",
    "iddpm-imagenet64-uncond": "march-2021/imagenet64_uncond_100M_1500K.pt",
    "iddpm-imagenet64-uncond-vlb": "march-2021/imagenet64_uncond_vlb_100M_1500K.pt",
    "iddpm-imagenet64-cond": "march-2021/imagenet64_cond_270M_250K.pt",
    "iddpm-cifar10": "march-2021/cifar10_uncond_50M_500K.pt",
    "iddpm-cifar10-vlb": "march-2021/cifar10_uncond_vlb_50M_500K.pt",
    "iddpm-lsun-bedroom": "march-2021/lsun_uncond_100M_2400K_bs64.pt",
    "iddpm-lsun-bedroom-1200k": "march-2021/lsun_uncond_100M_1200K_bs128.pt",
}
_ADM_CLASSIFIERS = {f"adm-classifier{side}": f"jul-2021/{side}x{side}_classifier.pt" for side in (64, 128, 256, 512)}


def home() -> Path:
    """Where difflab keeps models and features: $DIFFLAB_HOME, else `difflab` in the user's cache."""
    given = os.environ.get("DIFFLAB_HOME")
    return Path(given).expanduser() if given else _cache() / "difflab"


def find(name: str) -> Entry | None:
    """The entry called `name`, or None."""
    wanted = _normal(name)
    known = entries()
    return known.get(wanted) or known.get(f"ema_{wanted}")


def find_features(name: str) -> Path | None:
    """The weights of the feature network called `name`, or None if they are not on this machine."""
    entry = find(name)
    return entry.path if entry and entry.kind == "features" else None


def shipped_statistics(key: str) -> Path | None:
    """The reference statistics that ship under this key (see `study.spec.key_of`), or None."""
    path = _assets() / "statistics" / f"{key}.npz"
    return path if path.is_file() else None


def entries() -> dict[str, Entry]:
    """All entries by name with underscores. What ships and what is official cannot be shadowed."""
    trained, shipped = _below(home(), "trained"), _below(_assets(), "shipped")
    official = [*_official(), *_dit(), *_adm(), _inception(), *_i3d()]
    return {_normal(entry.name): entry for entry in (*trained, *official, *shipped)}  # the later of two equal names


def publish(path: Path, folder: Folder) -> Path | None:
    """Copy a finished .safetensors, and the card beside it, to where its name is looked up; returns the copy.

    None, and no copy, when the name belongs to something that ships or is official. Raises DifflabError for a file that
    cannot be read or a place that cannot be written to.
    """
    known = entries().get(_normal(path.stem))
    trained_before = known is not None and known.path is not None and home() in known.path.parents
    if known is not None and not trained_before:
        return None
    card = path.with_suffix(".json")
    for file in (path, card) if card.exists() else (path,):
        files.write_bytes(home() / folder / file.name, file.read_bytes())
    return home() / folder / path.name


def list_models() -> list[Row]:
    """All entries, those that are there first, then by name."""
    rows = []
    for entry in entries().values():
        path = entry.path
        size = path.stat().st_size if path else None
        rows.append(Row(entry.name, entry.kind, path is not None, size, path or entry.places[0]))
    return sorted(rows, key=lambda row: (not row.present, row.kind, row.name))


def known_names() -> Sequence[str]:
    """Names of models that `load` understands."""
    return [entry.name for entry in entries().values() if entry.kind not in PARTS]


def known(kind: Kind) -> Sequence[str]:
    """Names of what is of this kind."""
    return [entry.name for entry in entries().values() if entry.kind == kind]


def _official() -> list[Entry]:
    return [_official_entry(row, weights) for row in _OFFICIAL for weights in ("ema", "raw")]


def _official_entry(row: _Official, weights: Literal["ema", "raw"]) -> Entry:
    name = f"{weights}_{row.data}"
    md5, share = row.ema if weights == "ema" else row.raw
    prefix = "ema_" if weights == "ema" else ""
    original = f"{prefix}diffusion_{row.data}_model/model-{row.steps}.ckpt"
    places = (home() / "models" / f"{name}.ckpt", _cache() / "diffusion_models_converted" / original)
    return Entry(name, "official", places, _HEIBOX.format(share), ("md5", md5), row.config, weights)


def _dit() -> list[Entry]:
    """The released DiT-XL/2; no checksums were published."""
    found = []
    for size in (256, 512):
        file = f"DiT-XL-2-{size}x{size}.pt"
        places = (home() / "models" / file, Path("pretrained_models") / file)  # the second is where its code puts it
        url = f"https://dl.fbaipublicfiles.com/DiT/models/{file}"
        found.append(Entry(file.removesuffix(".pt").lower(), "official", places, url))
    return found


def _adm() -> list[Entry]:
    """The released models of guided-diffusion and improved-diffusion, and the former's noisy classifiers."""
    kinds: tuple[tuple[Kind, dict[str, str]], ...] = (("official", _ADM), ("classifier", _ADM_CLASSIFIERS))
    return [_adm_entry(name, kind, file) for kind, named in kinds for name, file in named.items()]


def _adm_entry(name: str, kind: Kind, file: str) -> Entry:
    own = Path(file).name
    places = (home() / "models" / own, Path("models") / own)  # the second is where its README has them
    return Entry(name, kind, places, f"{_OPENAI}/{file}")


def _inception() -> Entry:
    torch_home = Path(os.environ.get("TORCH_HOME") or _cache() / "torch")  # where pytorch-fid leaves it
    return Entry(
        "inception",
        "features",
        (home() / "features" / INCEPTION_FILE, torch_home / "hub" / "checkpoints" / INCEPTION_FILE),
        f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}",
        ("sha256", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"),
    )


def _i3d() -> list[Entry]:
    """FVD's network, once for each convention (see `score.i3d`); its weights are Kinetics-400's of the TF hub."""
    url = "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt"
    return [Entry(name, "features", (i3d_place(),), url) for name in ("i3d", "i3d-videogpt", "i3d-tf")]


def i3d_place() -> Path:
    """Where the weights of FVD's network are looked for."""
    return home() / "features" / "i3d_pretrained_400.pt"


def _below(root: Path, models: Kind) -> list[Entry]:
    return [
        *_folder(root / "models", models),
        *_folder(root / "features", "features"),
        *_folder(root / "autoencoders", "autoencoder"),
        *_folder(root / "text", "text"),
    ]


def _folder(folder: Path, kind: Kind) -> list[Entry]:
    return [Entry(path.stem, kind, (path,)) for path in sorted(folder.glob("*.safetensors"))]


def _assets() -> Path:
    return Path(str(resources.files("difflab"))) / "assets"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _normal(name: str) -> str:
    return name.lower().replace("-", "_")
