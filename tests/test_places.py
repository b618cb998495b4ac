"""Places are folders of this machine or addresses of stores; files are read and written in both, with patience."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place, local, place


@pytest.fixture
def memory() -> Iterator[Place]:
    """An empty folder of the store in memory."""
    yield place("memory://places")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of a tenth of a second."""
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    monkeypatch.setattr(files, "_WAITS", (0.001, 0.01))


def refusing(act: Callable[..., object], error: Exception, times: int) -> Callable[..., object]:
    """`act`, which raises `error` so many times before it works."""
    left = [times]

    def tried(*args: object, **options: object) -> object:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return act(*args, **options)

    return tried


@pytest.mark.parametrize("text", ["a/b", "/a/b", ".", "a:b", "C:/a", "s3"])
def test_names_without_a_store_are_paths_as_ever(text: str) -> None:
    assert place(text) == Path(text)
    assert place(Path(text)) == Path(text)


def test_addresses_stay_what_they_are() -> None:
    run = place("s3://bucket/run/")
    assert str(run) == "s3://bucket/run"
    assert str(run / "cells" / "a.npz") == "s3://bucket/run/cells/a.npz"
    assert place(run) is run
    assert pickle.loads(pickle.dumps(run)) == run
    assert str(place("memory://a/b")) == "memory://a/b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s4://b/x", r"^s4://b/x: results cannot be kept in s4://\. Known: .*s3"),
        ("s3://", "^s3://: names no bucket"),
        (Path("s3://b/x"), "^s3:/b/x: an address begins with s3://.*give it as text"),
    ],
)
def test_addresses_that_will_not_do_get_one_sentence(text: str, said: str) -> None:
    with pytest.raises(DifflabError, match=said):
        place(text)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DifflabError, match=r"^s3://b/x: this needs the library s3fs.*pip install 'difflab\[s3\]'"):
        place("s3://b/x")


def test_what_needs_this_machine_says_so(memory: Place, tmp_path: Path) -> None:
    assert local(tmp_path, "trainings") == tmp_path
    with pytest.raises(DifflabError, match=r"^memory://places: trainings need a folder on this machine"):
        local(memory, "trainings")


@pytest.mark.parametrize("remote", [False, True])
def test_files_are_written_read_and_listed_alike(memory: Place, tmp_path: Path, remote: bool) -> None:
    root: Place = memory if remote else tmp_path
    file = root / "a" / "b.txt"
    assert not files.exists(file)
    assert files.names(root / "a") == set()
    files.check_writable(file)
    assert files.names(root / "a") == set()
    files.write_text(file, "ä")
    assert files.exists(file)
    assert files.exists(root / "a")
    assert not files.exists(file / "below")
    assert files.names(root) == {"a"}
    assert files.names(root / "a") == {"b.txt"}
    assert files.read_bytes(file) == "ä".encode()
    with files.reading(file) as opened:
        opened.seek(1)
        assert opened.read() == "ä".encode()[1:]


def test_an_object_appears_when_it_is_complete_and_not_at_all_on_failure(memory: Place) -> None:
    with files.writing(memory / "a") as file:
        file.write(b"half")
        assert not files.exists(memory / "a")
    assert files.read_bytes(memory / "a") == b"half"
    with pytest.raises(RuntimeError), files.writing(memory / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert files.read_bytes(memory / "a") == b"half"
    assert files.names(memory) == {"a"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EAGAIN])
def test_a_disk_that_drops_out_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None, number: int
) -> None:
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, error, 3))
    monkeypatch.setattr(os, "replace", refusing(os.replace, error, 1))
    with pytest.warns(UserWarning, match=f"a: the store refuses this for now.*{os.strerror(number)}") as told:
        files.write_text(tmp_path / "a", "x")
    assert len(told) == 1
    assert (tmp_path / "a").read_text() == "x"
    assert files.names(tmp_path) == {"a"}


def test_reading_is_as_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    (tmp_path / "a").write_text("x")
    stale = OSError(errno.ESTALE, "stale")
    monkeypatch.setattr(Path, "read_bytes", refusing(Path.read_bytes, stale, 2))
    monkeypatch.setattr(Path, "stat", refusing(Path.stat, stale, 2))
    monkeypatch.setattr(os, "listdir", refusing(os.listdir, stale, 2))
    with pytest.warns(UserWarning, match="stale"):
        assert files.exists(tmp_path / "a")
    with pytest.warns(UserWarning, match="stale"):
        assert files.names(tmp_path) == {"a"}
    with pytest.warns(UserWarning, match="stale"):
        assert files.read_bytes(tmp_path / "a") == b"x"


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_that_stays_away_is_told_in_one_sentence(
    memory: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None, remote: bool
) -> None:
    root: Place = memory if remote else tmp_path
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    with monkeypatch.context() as away:
        away.setattr(MemoryFileSystem, "pipe_file", refusing(MemoryFileSystem.pipe_file, error, 1000))
        away.setattr(os, "replace", refusing(os.replace, error, 1000))
        sentence = r"a: the store has refused this for 0 s \(Connection refused\); .* goes on where it stopped\.$"
        with pytest.warns(UserWarning, match="for now"), pytest.raises(DifflabError, match=sentence):
            files.write_text(root / "a", "x")
    assert files.names(root) == set()
    files.write_text(root / "a", "x")
    assert files.read_bytes(root / "a") == b"x"


def test_what_waiting_does_not_mend_is_told_at_once(
    memory: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: Exception) -> None:
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", refusing(MemoryFileSystem.pipe_file, error, 1))
        monkeypatch.setattr(os, "fsync", refusing(os.fsync, error, 1))

    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("waited"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(OSError(errno.ENOSPC, "full"))
        with pytest.raises(DifflabError, match="disk is full"):
            files.write_text(tmp_path / "a", "x")
        refuse(PermissionError("Access Denied."))
        with pytest.raises(DifflabError, match=r"^memory://places/a: no permission here \(Access Denied\); check"):
            files.write_text(memory / "a", "x")
        refuse(OSError(errno.EINVAL, "odd"))
        with pytest.raises(DifflabError, match=r"^memory://places/a: the store refuses this \(odd\); check"):
            files.write_text(memory / "a", "x")
        refuse(TypeError("a fault of ours"))
        with pytest.raises(TypeError):
            files.write_text(memory / "a", "x")
