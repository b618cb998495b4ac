from __future__ import annotations

import io
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from difflab.data import archives
from difflab.data.archives import ImageTar, NpzImages
from difflab.data.cifar10 import CLASSES
from difflab.errors import DifflabError


def write_tar(path: Path, members: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def pictures(encode) -> dict[str, bytes]:
    """Flat images whose grey level is their rank in sorted order."""
    names = ["./top/train/cat/a.png", "./top/train/cat/b.png", "./top/train/dog/a.png", "./top/test/dog/z.png"]
    levels = {name: level for level, name in enumerate(sorted(names))}
    return {name: encode(np.full((3, 4, 3), levels[name], np.uint8)) for name in names}


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w:"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar", "w:gz")])
def test_tar_reads_any_member_of_the_split_in_sorted_order(tmp_path: Path, ending, mode, pictures) -> None:
    path = tmp_path / f"x.{ending}"
    write_tar(path, {"top/notes.txt": b"hi", "top/train/._a.png": b"fork", **pictures}, mode)
    dataset = ImageTar(path, split="train")
    assert dataset.classes == ("cat", "dog")
    assert [dataset[i].label for i in (2, 0, 1)] == [1, 0, 0]
    # Rank 0 is the test image, so the three of the training split are 1, 2 and 3.
    assert [int(dataset[i].x[0, 0, 0]) for i in (2, 0, 1)] == [3, 1, 2]
    assert "train/dog/a.png" in dataset[2].name


def test_tar_is_read_from_many_threads_at_once(tmp_path: Path, encode) -> None:
    members = {f"{i:03d}.png": encode(np.full((2, 2, 3), i, np.uint8)) for i in range(100)}
    write_tar(tmp_path / "x.tar", members, "w:")
    dataset = ImageTar(tmp_path / "x.tar")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: int(dataset[i].x[0, 0, 0]), range(100))) == list(range(100))


def test_a_big_gzipped_tar_goes_through_a_temporary_file(tmp_path: Path, monkeypatch, pictures) -> None:
    monkeypatch.setattr(archives, "_IN_MEMORY", 100)
    write_tar(tmp_path / "x.tar.gz", pictures, "w:gz")
    dataset = ImageTar(tmp_path / "x.tar.gz", split="test")
    assert dataset[0].x.tolist() == np.zeros((3, 4, 3)).tolist()


def test_tar_asks_which_split(tmp_path: Path, pictures) -> None:
    write_tar(tmp_path / "x.tar", pictures, "w:")
    with pytest.raises(DifflabError, match=r"x\.tar: holds several splits \(test, train\)"):
        ImageTar(tmp_path / "x.tar")


def test_tar_members_that_point_outside_are_never_written_or_read(tmp_path: Path, encode) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    picture = encode(np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "secret.png").write_bytes(picture)
    with tarfile.open(inside / "x.tar", "w:") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(link)
        for name in ("../escaped.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))
    dataset = ImageTar(inside / "x.tar")
    assert len(dataset) == 1
    assert dataset[0].name.endswith("good.png")
    assert not (tmp_path / "escaped.png").exists()


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_a_truncated_tar_is_one_sentence(tmp_path: Path, mode: str, pictures) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, pictures, mode)
    whole = path.read_bytes()
    keep = 600 if mode == "w:" else len(whole) // 2
    path.write_bytes(whole[:keep])
    with pytest.raises(DifflabError, match=r"x\.tar: not a complete tar archive"):
        ImageTar(path, split="train")


def test_a_tar_cut_between_two_members_is_told(tmp_path: Path, pictures) -> None:
    """Every member is whole there, so only the closing block tells that some are missing."""
    path = tmp_path / "x.tar"
    write_tar(path, pictures, "w:")
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    path.write_bytes(path.read_bytes()[:second])
    with pytest.raises(DifflabError, match="closing block is missing"):
        ImageTar(path, split="train")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8bhello"])
def test_what_is_no_tar_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DifflabError, match=r"x\.tar: "):
        ImageTar(tmp_path / "x.tar")


def test_a_missing_archive_is_one_sentence(tmp_path: Path) -> None:
    for reader in (ImageTar, NpzImages):
        with pytest.raises(DifflabError, match="cannot be read"):
            reader(tmp_path / "nothing")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_back_pixels_and_labels(tmp_path: Path, save, rng: np.random.Generator) -> None:
    x, labels = rng.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8), np.arange(7)[::-1]
    save(tmp_path / "x.npz", x, labels)
    dataset = NpzImages(tmp_path / "x.npz")
    np.testing.assert_array_equal([dataset[i].x for i in range(len(dataset))], x)
    assert [dataset[i].label for i in range(7)] == [6, 5, 4, 3, 2, 1, 0]
    assert "7 images of 4x5" in dataset.description


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_in_fortran_order_reads_the_same(tmp_path: Path, save, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    save(tmp_path / "x.npz", np.asfortranarray(x))
    np.testing.assert_array_equal(NpzImages(tmp_path / "x.npz")[2].x, x[2])


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 1)])
def test_grey_npz_becomes_rgb(tmp_path: Path, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x)
    found = NpzImages(tmp_path / "x.npz")[1].x
    assert found.shape == (5, 4, 3)
    assert (found == x[1].reshape(5, 4, 1)).all()


def test_uncompressed_npz_stays_on_the_disk(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((64, 256, 256, 3), np.uint8))
    tracemalloc.start()
    dataset = NpzImages(tmp_path / "x.npz")
    assert dataset[63].x.sum() == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 256 * 256 * 3 / 10


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "arr_0 holds float32"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"shape \(2, 3, 4, 4\)"),
        ({"arr_0": np.zeros((2, 8, 4, 4, 4, 3), np.uint8)}, r"shape \(2, 8, 4, 4, 4, 3\)"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "arr_0 holds no images"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros((2, 10), int)}, r"arr_1 has shape \(2, 10\)"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(2)}, "type float64"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "statistics"),
        ({"images": np.zeros(3)}, "it holds images"),
        ({"arr_0": np.array([print], object)}, "object"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_something_else_is_one_sentence(tmp_path: Path, arrays, message: str, save) -> None:
    save(tmp_path / "x.npz", **arrays)
    with pytest.raises(DifflabError, match=rf"(?i)x\.npz: .*{message}"):
        NpzImages(tmp_path / "x.npz")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_half_an_npz_is_one_sentence(tmp_path: Path, share: float) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 4, 4, 3), np.uint8))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DifflabError, match="not a complete"):
        NpzImages(tmp_path / "x.npz")


@pytest.mark.data
def test_real_cifar10_tar_has_its_counts_classes_and_mean(shared_data: Path) -> None:
    dataset = ImageTar(shared_data / "cifar10" / "cifar10_jpeg.tar.gz", split="train")
    assert len(dataset) == 50_000
    assert dataset.classes == CLASSES
    assert [dataset[i].label for i in (0, 4_999, 5_000, 49_999)] == [0, 0, 1, 9]
    mean = np.mean([dataset[i].x.mean((0, 1)) / 255 for i in range(0, 50_000, 50)], axis=0)
    # The mean of the whole set as its notes give it; 1,000 images leave a standard error of about 0.005.
    np.testing.assert_allclose(mean, [0.4913, 0.4821, 0.4465], atol=0.025)
