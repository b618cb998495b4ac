from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difflab.data.dataset import BrokenImageError, batches
from difflab.data.images import ImageFolder, arrange, decode
from difflab.errors import DifflabError


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_the_very_pixels(kind: str, options: dict[str, object], picture, encode) -> None:
    np.testing.assert_array_equal(decode(encode(picture, kind, **options), "x"), picture)


def test_jpeg_of_a_flat_colour_keeps_the_colour(encode) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    assert np.abs(decode(encode(flat, "JPEG", quality=95), "x").astype(int) - flat).max() <= 2


def test_grey_is_repeated_and_alpha_is_dropped(picture, encode) -> None:
    grey = picture[..., 0]
    np.testing.assert_array_equal(decode(encode(grey), "x"), np.repeat(grey[..., None], 3, axis=-1))
    transparent = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    np.testing.assert_array_equal(decode(encode(transparent), "x"), picture)


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(decode((tmp_path / "p.png").read_bytes(), "p")[0], colours[[0, 1, 1]])


def test_of_a_gif_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode((tmp_path / "a.gif").read_bytes(), "a")[0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_ignored(picture, encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    np.testing.assert_array_equal(decode(encode(picture, "PNG", exif=exif), "x"), picture)


def test_sixteen_bits_are_refused_rather_than_clipped(encode) -> None:
    with pytest.raises(DifflabError, match=r"deep\.png.*8 bits") as caught:
        decode(encode(np.full((2, 2), 40000, np.uint16)), "deep.png")
    assert not isinstance(caught.value, BrokenImageError)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_broken_by_name(content: bytes) -> None:
    with pytest.raises(BrokenImageError, match=r"bad\.png: .*unknown format"):
        decode(content, "bad.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_image_is_broken(kind: str, rng: np.random.Generator, encode) -> None:
    whole = encode(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(BrokenImageError, match="bad"):
        decode(whole[: len(whole) // 2], "bad")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_either_pixels_or_a_broken_image(kind: str, rng: np.random.Generator, encode) -> None:
    whole = encode(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), kind)
    broken = 0
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            assert decode(bytes(damaged), "damaged").shape[2] == 3
        except BrokenImageError:
            broken += 1
    assert broken > 0


def test_folder_is_recursive_sorted_and_free_of_classes_if_an_image_lies_at_the_top(tmp_path: Path, encode) -> None:
    for value, name in enumerate(["b.png", "a.JPG", "sub/c.png", "sub/deep/d.webp"]):
        kind = {"JPG": "JPEG", "png": "PNG", "webp": "WEBP"}[name.split(".")[-1]]
        write(tmp_path / name, encode(np.full((4, 4, 3), value, np.uint8), kind))
    write(tmp_path / "notes.txt", b"not an image")
    write(tmp_path / "sub/._c.png", b"a resource fork")
    dataset = ImageFolder(tmp_path)
    names = [Path(dataset[i].name).relative_to(tmp_path).as_posix() for i in range(len(dataset))]
    assert names == ["a.JPG", "b.png", "sub/c.png", "sub/deep/d.webp"]
    assert dataset.classes is None
    assert dataset[0].label is None
    assert "4 images" in dataset.description


def test_first_level_folders_are_the_classes(tmp_path: Path, encode, picture) -> None:
    for name in ["dog/1.png", "cat/x/2.png", "cat/1.png"]:
        write(tmp_path / name, encode(picture))
    dataset = ImageFolder(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [dataset[i].label for i in range(3)] == [0, 0, 1]


def test_splits_are_asked_for_and_number_the_classes_alike() -> None:
    names = ["train/cat/1.png", "train/dog/1.png", "test/dog/1.png"]
    with pytest.raises(DifflabError, match=r"src: .*test, train.*--split"):
        arrange("src", names, None)
    test = arrange("src", names, "test")
    assert test.classes == ("cat", "dog")
    assert test.labels == [1]
    assert test.names == ["test/dog/1.png"]
    with pytest.raises(DifflabError, match=r"no split 'val'.*test, train"):
        arrange("src", names, "val")


def test_who_asks_a_plain_folder_for_a_split_is_told_how_not_to() -> None:
    with pytest.raises(DifflabError, match=r"no split 'train'; its folders are: none; .*split: null in a recipe"):
        arrange("src", ["1.png", "2.png"], "train")


def test_a_lone_split_folder_is_no_class() -> None:
    assert arrange("src", ["train/n01/1.png", "train/n02/1.png"], None).classes == ("n01", "n02")
    assert arrange("src", ["train/1.png", "train/2.png"], None).classes is None


def test_wrapping_folders_are_stripped_but_a_split_and_its_only_class_are_not() -> None:
    wrapped = ["top/data/cat/1.png", "top/data/dog/1.png"]
    assert arrange("src", wrapped, None, wrapped=True).classes == ("cat", "dog")
    assert arrange("src", wrapped, None, wrapped=False).classes == ("top",)
    assert arrange("src", ["top/train/cat/1.png", "top/train/cat/2.png"], None, wrapped=True).classes == ("cat",)


def test_an_empty_folder_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", b"")
    with pytest.raises(DifflabError, match=f"{tmp_path.name}: no images found"):
        ImageFolder(tmp_path)
    with pytest.raises(DifflabError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere")


def test_one_corrupt_image_of_a_thousand_is_named_or_counted(tmp_path: Path, encode, picture) -> None:
    content = encode(picture)
    for i in range(1000):
        (tmp_path / f"{i:04d}.png").write_bytes(content if i != 617 else content[:30])
    dataset = ImageFolder(tmp_path)
    with pytest.raises(BrokenImageError, match=r"0617\.png"):
        list(batches(dataset, 100, workers=2))
    found = list(batches(dataset, 100, workers=2, skip_broken=True))
    assert sum(len(batch.x) for batch in found) == 999
    assert found[-1].skipped == 1


def test_an_unreadable_file_is_a_mistake_and_not_a_broken_image(tmp_path: Path, encode, picture) -> None:
    write(tmp_path / "a.png", encode(picture))
    dataset = ImageFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DifflabError, match=r"a\.png: cannot be read") as caught:
        dataset[0]
    assert not isinstance(caught.value, BrokenImageError)


@pytest.mark.data
def test_real_lsun_photographs_are_256_square(shared_data: Path) -> None:
    dataset = ImageFolder(shared_data / "lsun_church" / "church_outdoor")
    batch = next(batches(dataset, 64, workers=2))
    assert batch.x.shape == (31, 256, 256, 3)


@pytest.mark.data
def test_real_imagenet_folder_has_a_hundred_classes_and_a_grey_image_among_them(shared_data: Path) -> None:
    dataset = ImageFolder(shared_data / "imagenet100")
    assert dataset.classes is not None
    assert len(dataset.classes) == 100
    assert dataset.classes[0] == "n01440764"
    grey = [i for i in range(100) if (x := dataset[i].x).shape[2] == 3 and (x[..., :1] == x).all()]
    assert len(grey) == 1
