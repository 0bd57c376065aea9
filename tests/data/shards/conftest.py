"""Faces as files and as shards, and a web server on this machine that serves them well or badly."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.identities import FolderFaces
from facenet.data.shards.writing import write_shards

PEOPLE = {"Ann": 9, "Bob": 7, "Cid": 8, "Dora Ünal": 6}  # 30 images
PER_SHARD = 8


def picture(person: int, number: int) -> Image.Image:
    """No two alike, and no two of a size next to each other."""
    rng = np.random.default_rng([person, number])
    coarse = rng.integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((20 + 3 * number, 24 + person), Image.Resampling.BILINEAR)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards") / "people"
    for person, (name, count) in enumerate(PEOPLE.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            suffix = ".png" if number == 1 else ".JPG" if number == 2 else ".jpg"
            picture(person, number).save(root / name / f"{number}{suffix}")
    return root


@pytest.fixture(scope="session")
def written(people: Path) -> Path:
    """shard-000000.tar to shard-000003.tar of 8, 8, 8 and 6 images, and their index."""
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    write_shards(FolderFaces(people), people.parent / "written", images_per_shard=PER_SHARD)
    return people.parent / "written"


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def jpeg(person: int = 0, number: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(person, number).save(buffer, "JPEG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """asked: (path, Range header or None) of every request. ranges: whether it knows `Range`. cut: bytes after which each of the next `cuts` answers
    breaks off. busy: answers that are 503 first. moved: where a path redirects to."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[tuple[str, str | None]] = []
        self.ranges, self.cut, self.cuts, self.busy = True, 1 << 60, 0, 0
        self.moved: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if target := self.server.moved.get(self.path):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        path = Path(self.translate_path(self.path))
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: self.server.cut]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the folder that `written` is in."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(written.parent) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.shutdown()
        thread.join()
