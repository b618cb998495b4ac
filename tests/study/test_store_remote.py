"""A study whose folder is an object store: in memory, and on an S3 server that is stopped and started."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tests.study.conftest import cell_bytes

from difflab import files
from difflab.errors import DifflabError
from difflab.places import Place, place
from difflab.report.page import build_book, load_chapters
from difflab.study.result import Result, read_result
from difflab.study.run import Progress, run_study
from difflab.study.spec import Study
from difflab.study.store import CellStore

pytest.importorskip("moto", reason="the S3 server of the tests, moto, is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
from moto.server import ThreadedMotoServer  # noqa: E402


class Server:
    """An S3 server on a port of its own, which can go away and come back; its objects outlive that."""

    def __init__(self) -> None:
        self._server = self._started(0)
        self.port = self._server.get_host_and_port()[1]

    @staticmethod
    def _started(port: int) -> ThreadedMotoServer:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        return server

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = self._started(self.port)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def s3(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, known to this process by its environment alone, with an empty bucket."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.port}", "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("bucket")
    yield running
    system.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> Place:
    """An empty folder of each store."""
    request.getfixturevalue(request.param)
    return place({"memory": "memory://run", "s3": "s3://bucket/run"}[request.param])


@pytest.fixture
def small(study: Study) -> Study:
    """Two cells of 24 samples in chunks of 10."""
    return study.model_copy(update={"axes": {"steps": [1, 2]}})


def scores(result: Result) -> list[tuple[float, float, float]]:
    return [(s.value, s.low, s.high) for row in result.rows for s in row.scores.values()]


class Stop(Exception):
    """What a watcher raises to end a run in the middle."""


def stop_at(progress: Progress) -> None:
    if progress.done >= 20:
        raise Stop


def test_a_study_in_a_store_is_the_one_on_a_disk(small: Study, tmp_path: Path, root: Place) -> None:
    """Stopped on the way, gone on with, reported, read again."""
    here = run_study(small, tmp_path)
    with pytest.raises(Stop):
        run_study(small, str(root), watch=stop_at)
    begun = cell_bytes(root)
    assert 0 < len(begun) < len(cell_bytes(tmp_path))
    there = run_study(small, str(root))
    assert scores(there) == scores(here)
    assert cell_bytes(root) == cell_bytes(tmp_path)
    assert cell_bytes(root).items() >= begun.items()
    assert there.path == root
    assert read_result(root, root) == there
    assert json.loads(there.model_dump_json())["root"] == str(root)
    assert files.names(root) == {"study.yaml", "results.json", "cells", "reference"}

    page = build_book(load_chapters(root), root / "report")
    local = build_book(load_chapters(tmp_path), tmp_path / "report")
    assert files.names(root / "report" / "figures") == files.names(tmp_path / "report" / "figures") != set()
    strips = [name for name in files.names(root / "report" / "figures") if "strip" in name]
    assert strips
    for name in strips:
        assert files.read_bytes(root / "report" / "figures" / name) == (local.parent / "figures" / name).read_bytes()
    assert files.read_bytes(page).startswith(b"<!doctype html>")
    assert page == root / "report" / "index.html"


def test_what_another_process_writes_is_seen(s3: Server) -> None:
    mine = CellStore(place("s3://bucket/cells/a"))
    other = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    mine.put_chunk(0, {"features": np.zeros(3)}, {})
    assert mine.drawn() == {0}
    assert not mine.has_chunk(2)
    assert mine.get("result") is None
    for name in ("chunk-00002.npz", "chunk-00002.json", "chunk-100000.npz", ".chunk-00003.npz", "result.json"):
        other.pipe_file(f"bucket/cells/a/{name}", b"{}")
    assert mine.drawn() == {0, 2, 100000}
    assert mine.has_chunk(2)
    assert mine.get("result") == {}
    other.rm_file("bucket/cells/a/chunk-00002.npz")
    assert mine.drawn() == {0, 100000}
    assert not mine.has_chunk(2)


def test_one_array_of_a_chunk_is_fetched_alone(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CellStore(place("s3://bucket/cells/a"))
    features = np.arange(1000.0)
    cell.put_chunk(0, {"features": features, "pictures": np.zeros((30, 1 << 20), np.uint8)}, {})
    fetched = []
    fetch = s3fs.S3File._fetch_range

    def counted(file: object, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", counted)
    np.testing.assert_array_equal(cell.chunk(0, "features"), features)
    assert 0 < sum(fetched) < 5 << 20
    fetched.clear()
    assert cell.chunk(0, "pictures").shape == (30, 1 << 20)
    assert len(fetched) < 20


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of half a second, tried often."""
    monkeypatch.setattr(files, "PATIENCE", 0.6)
    monkeypatch.setattr(files, "_WAITS", (0.01, 0.1))


def test_a_server_that_restarts_loses_nothing(
    small: Study, tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes away in the middle of a cell and comes back while the study waits."""
    monkeypatch.setattr(files, "PATIENCE", 30.0)
    monkeypatch.setattr(files, "_WAITS", (0.01, 0.1))
    run_study(small, tmp_path)
    gone = []

    def restart(progress: Progress) -> None:
        if not gone and progress.done >= 20:
            s3.stop()
            gone.append(threading.Timer(0.5, s3.start))
            gone[0].start()

    with pytest.warns(UserWarning, match=r"s3://bucket/run/.*: the store refuses this for now .*Could not connect"):
        run_study(small, "s3://bucket/run", watch=restart)
    gone[0].join()
    assert cell_bytes(place("s3://bucket/run")) == cell_bytes(tmp_path)


def test_a_server_that_stays_away_ends_the_study_which_goes_on_later(
    small: Study, tmp_path: Path, s3: Server, hasty: None
) -> None:
    run_study(small, tmp_path)

    def away(progress: Progress) -> None:
        if progress.done >= 20:
            s3.stop()

    sentence = (
        r"^s3://bucket/run/cells/.*: the store has refused this for 1 s \(Could not connect .*\); once it does not"
    )
    with pytest.warns(UserWarning, match="for now"), pytest.raises(DifflabError, match=sentence) as raised:
        run_study(small, "s3://bucket/run", watch=away)
    assert "\n" not in str(raised.value)
    s3.start()
    begun = cell_bytes(place("s3://bucket/run"))
    run_study(small, "s3://bucket/run")
    assert cell_bytes(place("s3://bucket/run")) == cell_bytes(tmp_path)
    assert cell_bytes(tmp_path).items() > begun.items()


def test_a_store_that_is_away_is_not_called_damaged(s3: Server, hasty: None) -> None:
    cell = CellStore(place("s3://bucket/cells/a"))
    cell.put_chunk(0, {"features": np.zeros(3)}, {})
    s3.stop()
    for ask in (lambda: cell.chunk(0, "features"), cell.timings, cell.chunks, lambda: cell.get("result")):
        with pytest.warns(UserWarning, match="for now"), pytest.raises(DifflabError, match="store has refused this"):
            ask()
    s3.start()
    assert cell.chunk(0, "features").shape == (3,)
    place("s3://bucket").fs.pipe_file("bucket/cells/a/chunk-00000.npz", b"PK half a file")
    with pytest.raises(DifflabError, match="this file of a study is damaged"):
        cell.chunk(0, "features")


def test_mistakes_are_told_before_anything_is_drawn(small: Study, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(out: str, said: str) -> None:
        with pytest.raises(DifflabError, match=said) as raised:
            run_study(small, out, watch=lambda _: pytest.fail("something was drawn"))
        assert "\n" not in str(raised.value)

    told("s4://bucket/run", r"^s4://bucket/run: results cannot be kept in s4://")
    told("s3://elsewhere/run", "^s3://elsewhere: there is no such bucket; make it")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    told("s3://bucket/run", "^s3://bucket/run.*no credentials for this store .*AWS_ACCESS_KEY_ID")


def test_the_command_line_keeps_addresses(
    small: Study, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    from difflab.cli import main

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(small.model_dump(mode="json", exclude_none=True)))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["difflab", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, out, _ = call("study", "run", str(file), "--out", "s3://bucket/run", "--device", "cpu")
    assert (code, out.splitlines()[-1]) == (0, "report: s3://bucket/run/report/index.html")
    code, out, _ = call("study", "status", str(file), "--out", "s3://bucket/run")
    assert code == 0
    assert out.count("3/3") == out.count("done") == 2
    assert call("report", "s3://bucket/run")[:2] == (0, "report: s3://bucket/run/report/index.html\n")
    code, _, err = call("report", "s3://bucket/elsewhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "s3://bucket/elsewhere: no results.json here" in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_workers_write_to_a_bucket_too(small: Study, s3: Server, tmp_path: Path) -> None:
    """Ray starts in here, so that its workers have the server's address."""
    cluster = pytest.importorskip("difflab.study.cluster", reason="ray is not installed", exc_type=DifflabError)
    with cluster.Ray(workers=1) as engine:
        there = run_study(small, "s3://bucket/by-ray", batch=10, engine=engine)
        with pytest.raises(DifflabError, match=r"^memory://run: the machine .* does not see the results of tiny there"):
            run_study(small, "memory://run", batch=10, engine=engine)
    here = run_study(small, tmp_path, batch=10, device="cpu")
    assert scores(there) == scores(here)
    assert cell_bytes(place("s3://bucket/by-ray")) == cell_bytes(tmp_path)
