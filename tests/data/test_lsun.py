from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest

from difflab.data.dataset import BrokenImageError
from difflab.data.lsun import FfhqLmdb, LsunLmdb, is_ffhq, is_lmdb
from difflab.errors import DifflabError


def write_lmdb(path: Path, values: dict[bytes, bytes]) -> Path:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return path


@pytest.fixture
def church(tmp_path: Path, encode) -> Path:
    """Flat images whose grey level is their rank among the keys; webp as LSUN has it now, and jpg as it had it."""
    keys = [b"%040x" % (number * 7919 % 101) for number in range(20)]
    values = {}
    for level, key in enumerate(sorted(keys)):
        flat = np.full((8, 10, 3), 10 * level, np.uint8)
        values[key] = encode(flat, "WEBP", lossless=True) if level % 2 else encode(flat, "JPEG", quality=100)
    return write_lmdb(tmp_path / "church_outdoor_train_lmdb", values)


def test_lsun_gives_webp_and_jpg_values_in_the_order_of_the_keys(church: Path) -> None:
    dataset = LsunLmdb(church)
    levels = [int(dataset[i].x[0, 0, 0]) for i in range(len(dataset))]
    np.testing.assert_allclose(levels, 10 * np.arange(20), atol=1)
    assert dataset[3].x.shape == (8, 10, 3)
    assert "20 images" in dataset.description


def test_lsun_is_found_by_category_and_split(church: Path) -> None:
    assert len(LsunLmdb(church.parent, category="church_outdoor")) == 20
    with pytest.raises(DifflabError, match=r"no bedroom_train_lmdb.*church_outdoor_train_lmdb"):
        LsunLmdb(church.parent, category="bedroom")
    with pytest.raises(DifflabError, match="no church_outdoor_val_lmdb"):
        LsunLmdb(church.parent, category="church_outdoor", split="val")
    with pytest.raises(DifflabError, match="_val_lmdb"):
        LsunLmdb(church, split="val")


def test_one_database_opens_twice_and_is_read_from_many_threads(church: Path) -> None:
    datasets = LsunLmdb(church), LsunLmdb(church)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: datasets[i % 2][i // 2].x.mean(), range(40)))
    np.testing.assert_allclose(found, np.repeat(10 * np.arange(20), 2), atol=1)


def test_lsun_works_without_the_right_to_write(church: Path) -> None:
    before = sorted(path.name for path in church.iterdir())
    church.chmod(0o555)
    try:
        assert LsunLmdb(church)[0].x.shape == (8, 10, 3)
    finally:
        church.chmod(0o755)
    assert sorted(path.name for path in church.iterdir()) == before


def test_a_broken_value_is_named_by_its_key(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "x_lmdb", {b"abc": b"no image"})
    with pytest.raises(BrokenImageError, match="key b'abc'"):
        LsunLmdb(path)[0]


def test_a_missing_an_empty_and_a_damaged_database_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(DifflabError, match=r"no data\.mdb"):
        LsunLmdb(tmp_path)
    with pytest.raises(DifflabError, match="empty"):
        LsunLmdb(write_lmdb(tmp_path / "empty", {}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(DifflabError, match="not a readable lmdb"):
        LsunLmdb(tmp_path / "bad")


def test_a_database_that_is_cut_off_is_told_and_does_not_crash_the_process(church: Path, tmp_path: Path) -> None:
    """lmdb maps the file: reading beyond its end would be a bus error, so this runs on a copy of its own."""
    cut = tmp_path / "cut_lmdb"
    cut.mkdir()
    content = (church / "data.mdb").read_bytes()
    (cut / "data.mdb").write_bytes(content[: len(content) // 2 // 4096 * 4096])
    with pytest.raises(DifflabError, match="cut off at"):
        LsunLmdb(cut)


@pytest.fixture
def ffhq(tmp_path: Path, encode) -> Path:
    images = {b"256-%05d" % i: encode(np.full((4, 4, 3), i, np.uint8)) for i in range(20)}
    return write_lmdb(tmp_path / "ffhq", {b"length": b"20", **images})


def test_ffhq_is_told_from_lsun(ffhq: Path, church: Path) -> None:
    assert is_lmdb(ffhq)
    assert is_ffhq(ffhq)
    assert not is_ffhq(church)
    assert not is_lmdb(ffhq.parent)


def test_ffhq_splits_are_nine_to_one_of_the_shuffle_with_seed_2019(ffhq: Path) -> None:
    def levels(split: str | None) -> list[int]:
        dataset = FfhqLmdb(ffhq, split=split)
        return [int(dataset[i].x[0, 0, 0]) for i in range(len(dataset))]

    assert levels(None) == list(range(20))
    np.random.seed(2019)  # the official code's global stream
    shuffled = list(range(20))
    np.random.shuffle(shuffled)
    assert levels("train") == shuffled[:18]
    assert levels("test") == shuffled[18:]


def test_ffhq_mistakes_are_one_sentence_each(ffhq: Path, church: Path) -> None:
    with pytest.raises(DifflabError, match="train or test"):
        FfhqLmdb(ffhq, split="val")
    with pytest.raises(DifflabError, match="no key 'length'"):
        FfhqLmdb(church)
    with pytest.raises(DifflabError, match="missing from the database"):
        FfhqLmdb(ffhq, resolution=64)[0]
