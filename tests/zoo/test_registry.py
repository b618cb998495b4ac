from importlib import resources
from pathlib import Path

import pytest

from difflab.errors import DifflabError
from difflab.score.inception import WEIGHTS_FILE, WEIGHTS_SHA256, WEIGHTS_URL
from difflab.zoo.official import SHIPPED
from difflab.zoo.registry import (
    entries,
    find,
    find_features,
    home,
    known,
    known_names,
    list_models,
    shipped_statistics,
)


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("data", ["cifar10", "lsun_church", "lsun_bedroom", "lsun_cat"])
def test_a_short_name_is_the_averaged_file_and_dashes_do_not_matter(data):
    assert find(data) == find(data.replace("_", "-")) == find(f"ema-{data}") == find(f"EMA_{data}")
    assert find(data).weights == "ema"
    assert find(f"raw_{data}").weights == "raw"


def test_official_files_are_all_different():
    official = [entry for entry in entries().values() if entry.kind in ("official", "classifier")]
    assert len({entry.url for entry in official}) == len({entry.places[0] for entry in official}) == len(official) == 30
    ddim = [entry for entry in official if entry.checksum is not None]
    assert len({entry.checksum for entry in ddim}) == 8
    assert all(len(entry.checksum[1]) == 32 and entry.config in SHIPPED for entry in ddim)
    others = {entry.name for entry in official} - {entry.name for entry in ddim}
    assert {name.split("-")[0] for name in others} == {"dit", "adm", "iddpm"}


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("adm-imagenet64", "jul-2021/64x64_diffusion.pt", "official"),
        ("adm-imagenet256-uncond", "jul-2021/256x256_diffusion_uncond.pt", "official"),
        ("adm-lsun-bedroom", "jul-2021/lsun_bedroom.pt", "official"),
        ("adm_classifier512", "jul-2021/512x512_classifier.pt", "classifier"),
        ("iddpm-imagenet64-uncond", "march-2021/imagenet64_uncond_100M_1500K.pt", "official"),
    ],
)
def test_files_of_guided_and_improved_diffusion_are_known(name, file, kind, tmp_path, monkeypatch):
    entry = find(name)
    assert (entry.kind, entry.path) == (kind, None)
    assert entry.url == f"https://openaipublic.blob.core.windows.net/diffusion/{file}"
    assert (entry.name in known_names()) == (kind == "official")
    assert (entry.name in known("classifier")) == (kind == "classifier")
    monkeypatch.chdir(tmp_path)
    theirs = put(tmp_path / "models" / Path(file).name)
    assert find(name).path.resolve() == theirs


def test_church_is_the_published_file():
    church = find("lsun-church")
    assert church.checksum == ("md5", "fdc68a23938c2397caba4a260bc2445f")
    assert church.url == "https://heibox.uni-heidelberg.de/f/44ccb50ef3c6436db52e/?dl=1"
    assert church.config == "church"


def test_the_inception_entry_is_the_file_that_the_score_room_reads():
    inception = find("inception")
    assert inception.url == WEIGHTS_URL
    assert inception.checksum == ("sha256", WEIGHTS_SHA256)
    assert inception.places[0].name == WEIGHTS_FILE


def test_a_file_of_the_official_cache_is_found(caches):
    assert find("lsun-church").path is None
    original = "diffusion_models_converted/ema_diffusion_lsun_church_model/model-4432000.ckpt"
    path = put(caches / "xdg" / original)
    assert find("lsun-church").path == path
    ours = put(home() / "models" / "ema_lsun_church.ckpt")
    assert find("lsun-church").path == ours


def test_home_is_in_the_users_cache_unless_told(caches, monkeypatch):
    assert home() == caches / "difflab"
    monkeypatch.delenv("DIFFLAB_HOME")
    assert home() == caches / "xdg" / "difflab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "difflab"


def test_a_trained_model_is_found_by_its_name():
    path = put(home() / "models" / "my-model.safetensors")
    assert find("my_model").path == path
    assert find("my-model").kind == "trained"
    assert "my-model" in known_names()


def test_a_trained_model_does_not_shadow_an_official_one():
    put(home() / "models" / "ema_cifar10.safetensors")
    assert find("cifar10").kind == "official"


def test_a_missing_file_says_how_to_get_it():
    church = find("lsun-church")
    with pytest.raises(DifflabError) as caught:
        church.require()
    assert "difflab models fetch ema_lsun_church" in str(caught.value)
    assert church.url in str(caught.value)
    assert str(church.places[0]) in str(caught.value)


def test_features_are_found_where_pytorch_fid_leaves_them_and_by_name(caches):
    assert find_features("inception") is None
    path = put(caches / "xdg" / "torch" / "hub" / "checkpoints" / WEIGHTS_FILE)
    assert find_features("inception") == path
    mine = put(home() / "features" / "my-features.safetensors")
    assert find_features("my-features") == mine


def test_a_model_is_no_feature_network():
    put(home() / "models" / "ema_cifar10.ckpt")
    assert find("cifar10").path is not None
    assert find_features("cifar10") is None
    assert "inception" not in known_names()


def test_statistics_that_do_not_ship_are_none():
    assert shipped_statistics("no-such-key") is None


def test_the_list_has_all_entries_those_that_are_there_first():
    put(home() / "models" / "zz.safetensors", b"12345")
    rows = list_models()
    assert {row.name for row in rows} == {entry.name for entry in entries().values()}
    row = next(row for row in rows if row.name == "zz")
    assert (row.kind, row.present, row.size) == ("trained", True, 5)
    present = [row.present for row in rows]
    assert present == sorted(present, reverse=True)
    absent = next(row for row in rows if row.name == "ema_cifar10")
    assert (absent.present, absent.size, absent.where) == (False, None, home() / "models" / "ema_cifar10.ckpt")


def test_everything_that_ships_is_listed():
    folder = Path(str(resources.files("difflab"))) / "assets" / "models"
    shipped = {entry.name for entry in entries().values() if entry.kind == "shipped"}
    assert shipped == {path.stem for path in folder.glob("*.safetensors")}
