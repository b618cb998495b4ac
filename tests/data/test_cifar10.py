from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from difflab.data import cifar10
from difflab.data.cifar10 import Cifar10, is_cifar10
from difflab.errors import DifflabError
from difflab.files import digest

BATCHES = {**{f"data_batch_{i}": i for i in range(1, 6)}, "test_batch": 6}


def planes(batch: int) -> np.ndarray:
    """Two records of a batch as (2, 3072) bytes; red is the batch, green the record, blue counts along the row."""
    red_green = [[np.full(1024, batch), np.full(1024, record), np.tile(np.arange(32), 32)] for record in (0, 1)]
    return np.array(red_green, np.uint8).reshape(2, 3072)


def labels(batch: int) -> list[int]:
    return [batch, 9]


def binary(batch: int) -> bytes:
    records = zip(labels(batch), planes(batch), strict=True)
    return b"".join(bytes([label]) + pixels.tobytes() for label, pixels in records)


def by_python_3(batch: int) -> bytes:
    return pickle.dumps({b"data": planes(batch), b"labels": labels(batch), b"batch_label": b"x"}, protocol=2)


def by_python_2(batch: int) -> bytes:
    """A batch as the official ones were written: Python 2 strings, and numpy's old module names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = planes(batch).tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x02M" + struct.pack("<H", 3072) + b"\x86" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw
    array += b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels(batch)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


FORMS = {"bin": (binary, ".bin"), "py3": (by_python_3, ""), "py2": (by_python_2, "")}


def unpack(root: Path, form: str) -> Path:
    """The folder that an official archive of the given form would unpack to."""
    write, suffix = FORMS[form]
    folder = root / ("cifar-10-batches-bin" if form == "bin" else "cifar-10-batches-py")
    folder.mkdir()
    (folder / "readme.html").write_text("hello")
    for name, batch in BATCHES.items():
        (folder / f"{name}{suffix}").write_bytes(write(batch))
    return folder


def pack(root: Path, form: str) -> Path:
    folder = unpack(root, form)
    path = root / f"cifar-10-{'binary' if form == 'bin' else 'python'}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def check(dataset: Cifar10, batches: list[int]) -> None:
    assert len(dataset) == 2 * len(batches)
    for i, batch in enumerate(batches):
        for record in (0, 1):
            item = dataset[2 * i + record]
            assert item.label == labels(batch)[record]
            assert item.x.shape == (32, 32, 3)
            assert (item.x[..., 0] == batch).all()
            assert (item.x[..., 1] == record).all()
            assert (item.x[..., 2] == np.arange(32)[None, :]).all()


def test_the_handmade_python_2_batch_is_a_valid_pickle() -> None:
    assert "numpy.core.multiarray _reconstruct" in [arg for _, arg, _ in pickletools.genops(by_python_2(1))]


@pytest.mark.parametrize("form", FORMS)
def test_archive_folder_and_parent_give_the_official_order(tmp_path: Path, form: str) -> None:
    archive = pack(tmp_path, form)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    for source in (archive, folder, tmp_path):
        assert is_cifar10(source)
        check(Cifar10(source), [1, 2, 3, 4, 5])
        check(Cifar10(source, split="test"), [6])


@pytest.mark.parametrize("form", FORMS)
def test_a_single_batch_file_is_read_alone(tmp_path: Path, form: str) -> None:
    path = unpack(tmp_path, form) / f"data_batch_3{FORMS[form][1]}"
    assert is_cifar10(path)
    check(Cifar10(path), [3])


def test_the_description_says_whether_the_archive_is_the_official_one(tmp_path: Path, monkeypatch) -> None:
    path = pack(tmp_path, "bin")
    assert "not the official archive" in Cifar10(path).description
    monkeypatch.setitem(cifar10.OFFICIAL_MD5, path.name, digest(path, "md5"))
    assert "md5 verified" in Cifar10(path).description


def test_a_batch_pickled_in_fortran_order_reads_the_same(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": np.asfortranarray(planes(2)), b"labels": labels(2)}, protocol=2)
    (tmp_path / "data_batch_2").write_bytes(content)
    check(Cifar10(tmp_path / "data_batch_2"), [2])


class Attack:
    """Unpickles as a call of `function` with `argument`."""

    def __init__(self, function: object, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize(("function", "name"), [(os.system, "system"), (eval, "eval"), (open, "open")])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_for_code_is_refused_and_nothing_runs(tmp_path: Path, function, name, protocol) -> None:
    flag = tmp_path / "ran"
    argument = {"system": f"touch {flag}", "eval": f"open({str(flag)!r}, 'w')", "open": str(flag)}[name]
    folder = unpack(tmp_path, "py3")
    flag.touch()  # so that `open` for reading would succeed silently
    before = flag.stat().st_mtime_ns
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Attack(function, argument)}, protocol))
    with pytest.raises(DifflabError, match=rf"data_batch_1: refused, the pickle asks for \w+\.{name}"):
        Cifar10(folder)
    assert flag.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        by_python_3(1)[:500],
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": planes(1)}),
        pickle.dumps({b"data": b"bytes", b"labels": [1, 2]}, 2),
        pickle.dumps({b"data": planes(1), b"labels": [1]}, 2),
        pickle.dumps({b"data": planes(1), b"labels": [1, 300]}, 2),
        pickle.dumps({b"data": planes(1), b"labels": [1, 10]}, 2),
        pickle.dumps({b"data": planes(1).astype(np.int64), b"labels": [1, 2]}, 2),
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
        b"cnumpy\nndarray\n.",
    ],
)
def test_a_pickle_that_is_no_batch_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = unpack(tmp_path, "py3")
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(DifflabError, match="data_batch_2: not a CIFAR-10 batch"):
        Cifar10(folder)


@pytest.mark.parametrize("content", [b"", binary(1)[:-1], b"\x0a" + bytes(3072)])
def test_a_binary_that_is_no_batch_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DifflabError, match=r"data_batch_1\.bin: not a CIFAR-10 batch"):
        Cifar10(tmp_path / "data_batch_1.bin")


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    folder = unpack(tmp_path, "bin")
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DifflabError, match="data_batch_4 missing"):
        Cifar10(folder)
    check(Cifar10(folder, split="test"), [6])


def test_an_unknown_split_and_a_cut_archive_are_one_sentence_each(tmp_path: Path) -> None:
    path = pack(tmp_path, "bin")
    with pytest.raises(DifflabError, match="train or test"):
        Cifar10(path, split="val")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DifflabError, match="not a complete tar archive"):
        Cifar10(path, split="test")


def test_other_archives_and_folders_are_not_taken_for_cifar10(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("train/cat/1.png"), io.BytesIO())
    (tmp_path / "broken.tar").write_bytes(b"nothing")
    assert not any(is_cifar10(tmp_path / name) for name in ("some", "x.tar.gz", "broken.tar"))
