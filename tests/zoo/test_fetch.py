import errno
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from difflab.errors import DifflabError
from difflab.zoo import fetch as module
from difflab.zoo.fetch import fetch, fetch_model, verify
from difflab.zoo.registry import Entry, home

CONTENT = bytes(range(256)) * 5000  # more than one block
SUM = ("md5", hashlib.md5(CONTENT).hexdigest())


@dataclass
class Server:
    """How a local server behaves, and the ranges it was asked for; it hangs up once, after `breaks_after` bytes."""

    ranges: bool = True
    status: int = 200
    breaks_after: int | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server_state: Server, *args) -> None:
        self.state = server_state
        super().__init__(*args)

    def log_message(self, *args) -> None: ...

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.state.asked.append(asked)
        if self.state.status != 200:
            self.send_error(self.state.status)
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.state.ranges else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.state.breaks_after = self.state.breaks_after, None
        self.wfile.write(body[:cut])


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state))
    state.url = f"http://127.0.0.1:{http.server_port}/model.ckpt"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "models" / "model.ckpt"


def part_of(dest):
    return dest.with_name("model.ckpt.part")


def test_a_file_arrives_whole_with_progress_and_leaves_no_part(server, dest):
    seen = []
    assert fetch(server.url, dest, checksum=SUM, progress=lambda *now: seen.append(now)) == dest
    assert dest.read_bytes() == CONTENT
    assert [path.name for path in dest.parent.iterdir()] == ["model.ckpt"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_broken_connection_is_told_and_the_next_try_goes_on(server, dest):
    server.breaks_after = 300_000
    with pytest.raises(DifflabError, match=rf"broke after 300000 of {len(CONTENT)}.*same command"):
        fetch(server.url, dest, checksum=SUM)
    assert not dest.exists()
    seen = []
    fetch(server.url, dest, checksum=SUM, progress=lambda *now: seen.append(now))
    assert dest.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert seen[0][0] > 300_000
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, dest):
    server.ranges, server.breaks_after = False, 1000
    with pytest.raises(DifflabError):
        fetch(server.url, dest, checksum=SUM)
    fetch(server.url, dest, checksum=SUM)
    assert dest.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server, dest):
    dest.parent.mkdir()
    part_of(dest).write_bytes(CONTENT)
    fetch(server.url, dest, checksum=SUM)
    assert dest.read_bytes() == CONTENT


def test_wrong_content_is_discarded_and_the_old_file_kept(server, dest):
    dest.parent.mkdir()
    dest.write_bytes(b"old")
    with pytest.raises(DifflabError, match=f"md5 is {SUM[1]}.*discarded"):
        fetch(server.url, dest, checksum=("md5", "0" * 32))
    assert dest.read_bytes() == b"old"
    assert not part_of(dest).exists()


def test_a_damaged_part_is_discarded_so_that_the_next_try_works(server, dest):
    dest.parent.mkdir()
    part_of(dest).write_bytes(b"?" * 1000)
    with pytest.raises(DifflabError, match="discarded"):
        fetch(server.url, dest, checksum=SUM)
    fetch(server.url, dest, checksum=SUM)
    assert dest.read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server, dest):
    dest.parent.mkdir()
    dest.write_bytes(CONTENT)
    fetch(server.url, dest, checksum=("sha256", hashlib.sha256(CONTENT).hexdigest()))
    assert server.asked == []


def test_a_refusal_of_the_server_is_told(server, dest):
    server.status = 404
    with pytest.raises(DifflabError, match=rf"{server.url}.*404.*put it at .*model\.ckpt"):
        fetch(server.url, dest, checksum=SUM)
    assert not any(dest.parent.iterdir())


def test_without_a_network_the_sentence_says_where_to_put_the_file(dest):
    url = "http://127.0.0.1:9/model.ckpt"  # the discard port: nobody listens
    with pytest.raises(DifflabError, match=rf"{url}.*cannot be reached.*put it at .*model\.ckpt"):
        fetch(url, dest, checksum=SUM)


def test_a_file_address_works(tmp_path, dest):
    (tmp_path / "there").write_bytes(CONTENT)
    fetch((tmp_path / "there").as_uri(), dest, checksum=SUM)
    assert dest.read_bytes() == CONTENT
    with pytest.raises(DifflabError, match="cannot be reached"):
        fetch((tmp_path / "nowhere").as_uri(), tmp_path / "other", checksum=SUM)


def test_a_full_disk_is_told(server, dest, monkeypatch):
    def full(*args) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(DifflabError, match="disk is full"):
        fetch(server.url, dest, checksum=SUM)
    assert not dest.exists()


@pytest.fixture
def entry(server):
    return Entry("some", "official", (home() / "models" / "some.ckpt",), server.url, SUM)


def test_a_model_is_fetched_by_name_once(server, entry, monkeypatch):
    monkeypatch.setattr(module, "find", {"some": entry}.get)
    assert fetch_model("some") == fetch_model("some") == entry.path
    assert server.asked == [None]


def test_a_name_that_cannot_be_fetched_gets_a_suggestion():
    with pytest.raises(DifflabError, match="'ema_lsun_church'"):
        fetch_model("ema_lsun_chruch")


def test_a_file_is_verified_once_for_each_change(entry, monkeypatch):
    path = entry.places[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    counted = []
    monkeypatch.setattr(module, "digest", lambda p, kind: counted.append(p) or hashlib.md5(p.read_bytes()).hexdigest())
    verify(entry, path)
    verify(entry, path)
    assert len(counted) == 1
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DifflabError, match=rf"md5 of some.*{SUM[1]} was published"):
        verify(entry, path)
    with pytest.raises(DifflabError):
        verify(entry, path)
    assert len(counted) == 3
