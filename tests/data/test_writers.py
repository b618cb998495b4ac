from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difflab.data.archives import NpzImages
from difflab.data.images import ImageFolder
from difflab.data.writers import check_target, grid, save_samples
from difflab.errors import DifflabError


@pytest.fixture
def samples(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)


def in_batches(samples: np.ndarray) -> Iterator[np.ndarray]:
    yield samples[:3]
    yield samples[3:4]
    yield samples[4:]


def test_npz_has_the_adm_layout_and_reads_back(tmp_path: Path, samples: np.ndarray) -> None:
    labels = np.arange(7) * 10
    assert save_samples(tmp_path / "x.npz", in_batches(samples), labels) == 7
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        assert set(stored) == {"arr_0", "arr_1"}
        np.testing.assert_array_equal(stored["arr_0"], samples)
        assert stored["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(stored["arr_1"], labels)
    dataset = NpzImages(tmp_path / "x.npz")
    np.testing.assert_array_equal([dataset[i].x for i in range(7)], samples)
    assert [dataset[i].label for i in range(7)] == labels.tolist()


def test_equal_samples_give_equal_bytes_however_they_are_batched(tmp_path: Path, samples: np.ndarray) -> None:
    save_samples(tmp_path / "a.npz", samples)
    save_samples(tmp_path / "b.npz", map(np.asfortranarray, in_batches(samples)))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_npz_is_streamed(tmp_path: Path) -> None:
    tracemalloc.start()
    save_samples(tmp_path / "x.npz", (np.zeros((4, 256, 256, 3), np.uint8) for _ in range(32)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 4 * 256 * 256 * 3 / 5


@pytest.mark.parametrize("name", ["x.npz", "x.png"])
def test_a_failure_on_the_way_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, name: str, samples: np.ndarray
) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield samples
        raise RuntimeError("the network is gone")

    for before in ([], [name]):
        for old in before:
            (tmp_path / old).write_bytes(b"old")
        with pytest.raises(RuntimeError):
            save_samples(tmp_path / name, failing())
        assert [path.name for path in tmp_path.iterdir()] == before
    assert (tmp_path / name).read_bytes() == b"old"


def test_folder_has_one_numbered_png_a_sample(tmp_path: Path, samples: np.ndarray) -> None:
    assert save_samples(tmp_path / "out", in_batches(samples)) == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i:06d}.png" for i in range(7)]
    dataset = ImageFolder(tmp_path / "out")
    np.testing.assert_array_equal([dataset[i].x for i in range(7)], samples)


def test_a_folder_with_numbered_pictures_is_refused_before_anything_is_drawn(
    tmp_path: Path, samples: np.ndarray
) -> None:
    save_samples(tmp_path / "out", samples)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def drawing() -> Iterator[np.ndarray]:
        pytest.fail("drawn for nothing")
        yield samples

    with pytest.raises(DifflabError, match="holds 7 numbered pictures already"):
        save_samples(tmp_path / "out", drawing())
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_existing_folder_may_have_a_dot_in_its_name(tmp_path: Path, samples: np.ndarray) -> None:
    (tmp_path / "run.v2").mkdir()
    save_samples(tmp_path / "run.v2", samples)
    assert (tmp_path / "run.v2" / "000006.png").is_file()


def test_png_is_the_grid(tmp_path: Path, samples: np.ndarray) -> None:
    assert save_samples(tmp_path / "x.png", in_batches(samples)) == 7
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), grid(samples))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (7, 3, 3), (12, 3, 4)])
def test_grid_is_nearly_square_with_margins_of_two_pixels(count: int, rows: int, columns: int) -> None:
    picture = grid(np.zeros((count, 5, 6, 3), np.uint8))
    assert picture.shape == (rows * 7 + 2, columns * 8 + 2, 3)
    assert (picture == 0).sum() == count * 5 * 6 * 3


def test_grid_reads_like_a_page(samples: np.ndarray) -> None:
    picture = grid(samples)
    np.testing.assert_array_equal(picture[2:7, 2:8], samples[0])
    np.testing.assert_array_equal(picture[2:7, 10:16], samples[1])
    np.testing.assert_array_equal(picture[9:14, 2:8], samples[3])


@pytest.mark.parametrize("name", ["x.png", "x.npz", "out"])
def test_grey_samples_are_written(tmp_path: Path, name: str, samples: np.ndarray) -> None:
    assert save_samples(tmp_path / name, samples[..., :1]) == 7
    if name == "out":
        with Image.open(tmp_path / "out" / "000000.png") as image:
            assert image.mode == "L"


@pytest.mark.parametrize("name", ["x.jpg", "x.avi", "x.v2"])
def test_an_unknown_ending_is_one_sentence(tmp_path: Path, name: str, samples: np.ndarray) -> None:
    with pytest.raises(DifflabError, match=r"unknown ending.*\.npz, \.png"):
        save_samples(tmp_path / name, samples)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_one_sentence_and_leaves_nothing(tmp_path: Path, samples: np.ndarray) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(DifflabError, match="float64"):
        save_samples(path, samples / 255)
    with pytest.raises(DifflabError, match="shape"):
        save_samples(path, samples[0])
    with pytest.raises(DifflabError, match="mixed shapes"):
        save_samples(path, [samples, samples[:, 1:]])
    with pytest.raises(DifflabError, match="no samples"):
        save_samples(path, [])
    with pytest.raises(DifflabError, match="7 images and labels of shape"):
        save_samples(path, samples, np.arange(6))
    with pytest.raises(DifflabError, match="up to 4,096"):
        save_samples(tmp_path / "x.png", np.zeros((4097, 1, 1, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def clips(n=3, frames=4):
    return np.random.default_rng(0).integers(0, 256, (n, frames, 6, 8, 3), dtype=np.uint8)


def test_clips_as_npz_keep_every_value(tmp_path):
    assert save_samples(tmp_path / "c.npz", iter([clips()[:2], clips()[2:]])) == 3
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["arr_0"], clips())


def test_clips_in_a_folder_play_and_lose_nothing(tmp_path):
    save_samples(tmp_path / "out", clips())
    with Image.open(tmp_path / "out" / "000001.png") as film:
        assert film.n_frames == 4
        for t in range(4):
            film.seek(t)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), clips()[1, t])


def test_clips_as_png_lie_in_rows(tmp_path):
    save_samples(tmp_path / "c.png", clips())
    sheet = np.asarray(Image.open(tmp_path / "c.png"))
    assert sheet.shape == (2 + 3 * 8, 2 + 4 * 10, 3)
    np.testing.assert_array_equal(sheet[10:16, 22:30], clips()[1, 2])


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_clips_play(ending, tmp_path):
    assert save_samples(tmp_path / f"c{ending}", clips()) == 3
    import av

    with av.open(str(tmp_path / f"c{ending}")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 4
    with pytest.raises(DifflabError, match="are pictures, which do not play"):
        save_samples(tmp_path / f"p{ending}", clips()[:, 0])
    assert not (tmp_path / f"p{ending}").exists()


def test_samples_are_not_written_to_a_bucket_and_no_folder_is_made_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DifflabError, match=r"s3:/bucket/a\.npz: samples are written to this machine; give a path here"):
        check_target(Path("s3://bucket/a.npz"), 4, clips=False)
    assert not list(tmp_path.iterdir())
