"""What a server or an index may cost: endless and dripping answers, numbers that wrap around, heads without end."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facenet.data.shards import faces, places
from facenet.data.shards.faces import stored_index
from facenet.data.shards.index import ARRAYS, LONGEST_HEAD, load_index, scan
from facenet.data.shards.places import Shard
from facenet.errors import UserError

from .conftest import jpeg, tar


class Slow(BaseHTTPRequestHandler):
    """/endless, /drip (its body), /drip-head, /steady: 2,000 bytes in 20 parts."""

    def do_GET(self) -> None:
        end = time.monotonic() + 20
        if self.path == "/drip-head":
            self.send(b"HTTP/1.0 200 OK\r\nX: ", b"y", end)
        elif self.path == "/steady":
            self.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2000\r\n\r\n", b"z" * 100, end, times=20)
        elif self.path == "/drip":
            self.send(b"HTTP/1.0 200 OK\r\n\r\n", b"y", end)
        else:
            self.send(b"HTTP/1.0 200 OK\r\n\r\n", bytes(1 << 16), end, pause=0)

    def send(self, head: bytes, part: bytes, end: float, times: int = 1 << 30, pause: float = 0.02) -> None:
        try:
            self.wfile.write(head)
            while times and time.monotonic() < end and not self.server.closing.is_set():  # type: ignore[attr-defined]
                self.wfile.write(part)
                times -= 1
                time.sleep(pause)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(places, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(places, "TIMEOUT_S", 0.5)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.closing = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.closing.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("path", "reason"), [("/drip", r"\d+ of \d+ bytes came in 1 s"), ("/drip-head", "cannot be read")]
)
def test_an_answer_that_drips_ends(slow: str, path: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SLOWEST", 1 << 24)
    started = time.monotonic()
    with pytest.raises(UserError, match=reason):
        stored_index(slow + path)
    assert time.monotonic() - started < 15  # three tries of 0.5 s


def test_an_endless_answer_ends(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "LARGEST_INDEX", 1 << 23)
    with pytest.raises(UserError, match="more than 8,388,608 bytes, which no index has"):
        stored_index(slow + "/endless")


def test_an_answer_in_many_parts_is_whole(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "TIMEOUT_S", 30.0)
    with Shard(slow + "/steady") as shard:
        assert shard.read(0, 1500) == b"z" * 1500 and shard.read(1500, 1500) == b"z" * 500


GOOD: dict[str, list[int]] = {
    "lengths": [10_240, 10_240],
    "counts": [1, 1],
    "labels": [0, 1],
    "offsets": [512, 512],
    "sizes": [9, 9],
    "checksums": [1, 2],
}


def npz(about: bytes | None = None, **changed: list[int]) -> bytes:
    head = {"version": 1, "shards": ["a.tar", "b.tar"], "identities": ["x", "y"], "fingerprint": "f"}
    arrays: dict[str, Any] = {name: np.array(values, ARRAYS[name]) for name, values in {**GOOD, **changed}.items()}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(about or json.dumps(head).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def test_an_index_is_read() -> None:
    assert load_index(npz(), "x").names == ("a.tar", "b.tar")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npz(offsets=[2**63 - 5, 512]), "an image outside of its shard"),
        (npz(counts=[2**63 - 1, 2**63 - 1], lengths=[1, 1]), "the shards' counts do not add up"),
        (npz(counts=[2**62, 2**62, 2**62, 2**62 - 1 + 3], lengths=[1] * 4), "do not add up|different lengths"),
        (npz(about=b"[" * 100_000), "recursion"),
        (
            npz(
                about=b'{"version": 1, "shards": ["\\u0000.tar", "b.tar"], "identities": ["x", "y"], "fingerprint": ""}'
            ),
            "a shard's name",
        ),
    ],
)
def test_an_index_that_wraps_around_or_nests_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=f"damaged .*{reason}"):
        load_index(data, "x")


def head_of(size: int, kind: bytes) -> bytes:
    """A member that is a name or a set of values for the next one."""
    member = tarfile.TarInfo("././@LongLink")
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_head_without_end_is_refused(kind: bytes, tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(head_of(1 << 33, kind))
        file.truncate(1 << 33)  # zeros, which take no room
    started = time.monotonic()
    with pytest.raises(UserError, match=f"a member's head of more than {LONGEST_HEAD} bytes"):
        scan(str(tmp_path / "a.tar"))
    assert time.monotonic() - started < 10


def test_long_names_and_large_members_beside_images_are_passed(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    long = "n" * 300
    members = [
        (f"{long}.jpg", jpeg()),
        (f"{long}.cls", b"3"),
        (f"{long}.npy", bytes(3 << 20)),
        ("b.jpg", jpeg()),
        ("b.cls", b"4"),
    ]
    index = scan(str(tar(tmp_path / "a.tar", members)))
    assert index.counts.tolist() == [2] and index.labels.tolist() == [3, 4]
