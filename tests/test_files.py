"""Files are there whole or not at all, and the system's refusals are one sentence each."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from difflab import files
from difflab.errors import DifflabError


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with files.writing(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_failure_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.writing(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EACCES, "no permission")],
)
def test_refusals_while_writing_are_told_and_leave_nothing(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(DifflabError, match=said), files.writing(tmp_path / "a.bin") as file:
        file.write(b"some")
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "said"), [(errno.EROFS, "no permission"), (errno.ENOENT, "nothing can be written")])
def test_a_folder_that_takes_no_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(DifflabError, match=rf"a\.bin: {said}"):
        files.write_text(tmp_path / "a.bin", "x")


def test_a_place_is_tried_without_leaving_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_writable(tmp_path / "new" / "a.bin")
    assert not list(tmp_path.iterdir())

    def refuse(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "somewhere else")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(DifflabError, match=r"a\.bin: nothing can be written here"):
        files.check_writable(tmp_path / "a.bin")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(DifflabError, match="a file stands where a folder is needed"):
        files.write_text(tmp_path / "a" / "b", "x")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), files.writing(tmp_path / "a"):
        raise OSError(errno.EIO, "broken")


def test_equal_values_give_equal_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"x": 1, "y": [1.5, "ä"]})
    files.write_json(tmp_path / "b", {"y": [1.5, "ä"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_digests_are_those_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert files.digest(tmp_path / "a", "md5") == hashlib.md5(content).hexdigest()
