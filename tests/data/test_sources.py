from __future__ import annotations

import io
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import pytest

from difflab.data import shapes, sources
from difflab.data.dataset import batches
from difflab.data.sources import KNOWN, fingerprint, open_data
from difflab.errors import DifflabError


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """An empty `$DIFFLAB_DATA`."""
    monkeypatch.setenv("DIFFLAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def picture(rng: np.random.Generator, encode) -> bytes:
    return encode(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))


def folder_of(path: Path, picture: bytes, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(picture)
    return path


def lmdb_of(path: Path, picture: bytes) -> Path:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", picture)
    return path


def tar_of(path: Path, picture: bytes, names: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))
    return path


def batch_of(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(3 * 3073))
    return path


def test_each_form_is_taken_for_what_it_is(tmp_path: Path, picture: bytes, encode) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((3, 8, 8, 3), np.uint8))
    face = encode(np.zeros((218, 178, 3), np.uint8))
    cases = {
        folder_of(tmp_path / "plain", picture): "2 images in folder",
        tar_of(tmp_path / "x.tar.gz", picture, ("cat/1.png", "dog/1.png")): "2 images in 2 classes in archive",
        tmp_path / "x.npz": "3 images of 8x8",
        lmdb_of(tmp_path / "church_outdoor_train_lmdb", picture): "1 image in LSUN lmdb",
        folder_of(tmp_path / "celeba" / "img_align_celeba", face, ("1.png",)).parent: "1 image of CelebA",
        batch_of(tmp_path / "data_batch_1.bin"): "CIFAR-10, 3 images",
    }
    for path, description in cases.items():
        assert open_data(path).description.startswith(description)
        assert open_data(str(path), size=4)[0].x.shape == (4, 4, 3)


def test_a_path_keeps_its_size_unless_one_is_asked_for(tmp_path: Path, picture: bytes) -> None:
    folder = folder_of(tmp_path / "plain", picture)
    assert open_data(folder)[0].x.shape == (40, 50, 3)
    assert open_data(folder, size=16)[0].x.shape == (16, 16, 3)


def test_ffhq_is_opened_as_ffhq(tmp_path: Path, picture: bytes) -> None:
    path = lmdb_of(tmp_path / "ffhq", picture)
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"length", b"1")
    assert "FFHQ" in open_data(path).description


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_name_that_is_not_here_says_what_to_put_where(root: Path, name: str) -> None:
    with pytest.raises(DifflabError) as caught:
        open_data(name)
    assert str(root / name) in str(caught.value)
    assert "https://" in str(caught.value)


def test_lsun_names_open_their_category_at_256(root: Path, picture: bytes) -> None:
    lmdb_of(root / "lsun-church" / "church_outdoor_train_lmdb", picture)
    lmdb_of(root / "lsun-bedroom" / "bedroom_train_lmdb", picture)
    assert open_data("lsun-church")[0].x.shape == (256, 256, 3)
    assert open_data("lsun-bedroom", size=64)[0].x.shape == (64, 64, 3)


def test_celeba_is_cropped_to_64(root: Path, encode) -> None:
    inside = np.zeros((218, 178, 3), np.uint8)
    inside[57:185, 25:153] = 255  # the official crop is white, all around it black
    folder_of(root / "celeba" / "img_align_celeba", encode(inside), ("000001.png",))
    dataset = open_data("celeba")
    assert dataset[0].x.shape == (64, 64, 3)
    assert (dataset[0].x == 255).all()


def test_cifar10_is_found_as_batches_tar_or_folder(root: Path, picture: bytes) -> None:
    home = root / "cifar10"
    folder_of(home, picture, ("train/cat/1.png", "test/cat/1.png", "test/dog/1.png"))
    assert len(open_data("cifar10")) == 1
    assert len(open_data("cifar10", split="test")) == 2
    tar_of(home / "cifar10_jpeg.tar.gz", picture, ("train/cat/1.png", "train/dog/1.png", "test/dog/1.png"))
    dataset = open_data("cifar10")
    assert "archive" in dataset.description
    assert dataset[0].x.shape == (32, 32, 3)
    for i in range(1, 6):
        batch_of(home / "cifar-10-batches-bin" / f"data_batch_{i}.bin")
    assert len(open_data("cifar10")) == 15


def test_an_unknown_name_gets_a_suggestion(root: Path) -> None:
    with pytest.raises(DifflabError, match="Did you mean 'lsun-church'"):
        open_data("lsun-chruch")


def test_an_unknown_kind_of_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_bytes(b"la")
    with pytest.raises(DifflabError, match=r"x\.mp3: not a form of data"):
        open_data(tmp_path / "x.mp3")


def test_a_split_of_what_has_none_is_a_mistake(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((3, 8, 8, 3), np.uint8))
    for source in (tmp_path / "x.npz", sources.SHAPES):
        with pytest.raises(DifflabError, match="no splits"):
            open_data(source, split="train")


def test_a_folder_of_mixed_sizes_needs_a_size(tmp_path: Path, picture: bytes, encode) -> None:
    folder = folder_of(tmp_path / "plain", picture)
    (folder / "c.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    with pytest.raises(DifflabError, match=r"a\.png is 50x40, .*c\.png is 9x9"):
        list(batches(open_data(folder), 8))
    assert next(batches(open_data(folder, size=8), 8)).x.shape == (3, 8, 8, 3)


def test_a_fingerprint_changes_with_the_files_and_with_nothing_else(tmp_path: Path, picture: bytes, encode) -> None:
    folder = folder_of(tmp_path / "plain", picture)
    before = fingerprint(folder)
    list(batches(open_data(folder), 2))
    assert fingerprint(folder) == before
    (folder / "a.png").write_bytes(encode(np.zeros((40, 50, 3), np.uint8)))
    assert fingerprint(folder) != before


def test_reading_an_lmdb_leaves_its_fingerprint(tmp_path: Path, picture: bytes) -> None:
    path = lmdb_of(tmp_path / "church_outdoor_train_lmdb", picture)
    before = fingerprint(path)
    list(batches(open_data(path), 1))
    assert fingerprint(path) == before


def test_the_fingerprint_of_the_world_is_of_its_rules(monkeypatch) -> None:
    shapes.world_fingerprint.cache_clear()
    before = fingerprint("shapes")
    monkeypatch.setitem(shapes.SIZES, "small", 4.0)
    shapes.mask_windows.cache_clear()
    shapes.world_fingerprint.cache_clear()
    assert fingerprint("shapes") != before
    monkeypatch.undo()
    shapes.mask_windows.cache_clear()
    shapes.world_fingerprint.cache_clear()
    assert fingerprint("shapes") == before


def test_a_fingerprint_goes_through_links_as_readers_do(tmp_path: Path, picture: bytes, encode) -> None:
    real = folder_of(tmp_path / "elsewhere", picture)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cat").symlink_to(real)
    before = fingerprint(tmp_path / "linked")
    (real / "c.png").write_bytes(picture)
    assert fingerprint(tmp_path / "linked") != before


def test_the_fingerprint_of_celeba_covers_its_splits(tmp_path: Path, picture: bytes) -> None:
    folder = folder_of(tmp_path / "img_align_celeba", picture, ("000001.jpg", "000002.jpg"))
    splits = tmp_path / "list_eval_partition.txt"
    splits.write_text("000001.jpg 0\n000002.jpg 1\n")
    before = fingerprint(folder)
    splits.write_text("000001.jpg 0\n000002.jpg  2\n")
    assert fingerprint(folder) != before


def test_shapes_are_drawn_at_the_size_asked_for() -> None:
    assert open_data("shapes")[0].x.shape == (32, 32, 3)
    assert open_data("shapes", size=16)[0].x.shape == (16, 16, 3)


@pytest.mark.data
@pytest.mark.parametrize("name", ["lsun_church/church_unconfirmed", "coco/val2017", "imagenet100"])
def test_real_images_of_any_size_come_out_square(shared_data: Path, name: str) -> None:
    batch = next(batches(open_data(shared_data / name, size=64), 16, workers=2))
    assert batch.x.shape[1:] == (64, 64, 3)
    assert batch.x.std() > 20


@pytest.mark.data
def test_real_cifar10_tar_opens_through_the_door(shared_data: Path) -> None:
    dataset = open_data(shared_data / "cifar10" / "cifar10_jpeg.tar.gz", split="test")
    assert len(dataset) == 10_000
    assert "10 classes" in dataset.description
