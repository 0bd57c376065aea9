from __future__ import annotations

from pathlib import Path

import pytest

from facenet.data.shards import places
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.places import Shard, expand
from facenet.errors import UserError

from .conftest import Server


def test_patterns_are_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    monkeypatch.setenv("HOME", "/home/someone")
    assert expand("a{08..10}.tar::~/b.tar") == ["a08.tar", "a09.tar", "a10.tar", "/home/someone/b.tar"]
    assert expand("https://host/x-{a,b}.tar") == ["https://host/x-a.tar", "https://host/x-b.tar"]
    for wrong in ("a{1..2.tar", "a${NO_SUCH_NAME}.tar"):
        with pytest.raises(UserError, match="data.shards=a.*write it like casia-{000000..000099}.tar"):
            expand(wrong)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pipe:touch {marker}; cat x.tar", "pipe: runs a shell command, which a config may not; use paths or http"),
        ("PIPE:touch {marker}", "PIPE: runs a shell command"),
        ("x.tar::pipe:touch {marker}", "pipe: runs a shell command"),
        ("{{x.tar,pipe:touch {marker}}}", "pipe: runs a shell command"),
        ("s3://bucket/x.tar", "s3: is not read here; use paths or http\\(s\\) addresses: object stores serve them"),
        *((f"{scheme}://host/x.tar", f"{scheme}: is not read here") for scheme in ("gs", "hf", "ais", "sftp", "ftp")),
        ("file:///etc/passwd.tar", "file: is not read here"),
    ],
)
def test_what_could_run_a_program_is_refused_and_runs_none(address: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    marker = tmp_path / "marker"
    with pytest.raises(UserError, match=message):
        ShardFaces(address.format(marker=marker))
    assert not marker.exists()


def test_a_file_is_read_at_any_place_and_told_apart_from_another(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(range(100)))
    with Shard(str(tmp_path / "x.tar"), 100) as shard:
        assert shard.read(90, 5) == bytes(range(90, 95)) and shard.read(10, 3) == b"\n\v\f"
        assert shard.read(98, 9) == b"bc" and shard.read(200, 1) == b""
    with (
        Shard(str(tmp_path / "x.tar"), 101) as shard,
        pytest.raises(UserError, match="has 100 bytes, the index says 101"),
    ):
        shard.read(0, 1)
    with pytest.raises(UserError, match="y.tar: cannot be read .No such file"):
        Shard(str(tmp_path / "y.tar"))
    with Shard(str(tmp_path)) as shard, pytest.raises(UserError, match="cannot be read .Is a directory"):
        shard.read(0, 1)


@pytest.mark.parametrize("ranges", [True, False])
def test_http_gives_the_bytes_of_the_file(server: Server, written: Path, ranges: bool) -> None:
    server.ranges = ranges
    data = (written / "shard-000000.tar").read_bytes()
    with Shard(f"{server.address}/written/shard-000000.tar", len(data)) as shard:
        assert shard.read(5, 10) == data[5:15]
        assert shard.read(len(data) - 600, 1000) == data[-600:]
        assert shard.read(700, 50) == data[700:750], "backwards"
        assert shard.source.size == len(data)
    asked = [wanted for _, wanted in server.asked]
    assert asked == ["bytes=5-", "bytes=700-"] if ranges else len(asked) == 2


def test_a_broken_connection_goes_on_where_it_broke(
    server: Server, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "WAITS_S", (0.0, 0.0))
    data = (written / "shard-000000.tar").read_bytes()
    server.cut, server.cuts = 3000, 1
    with Shard(f"{server.address}/written/shard-000000.tar") as shard:
        assert shard.read(0, 2000) + shard.read(2000, 5000) == data[:7000]
    assert [wanted for _, wanted in server.asked] == [None, "bytes=2000-"]
    server.busy = 2
    with Shard(f"{server.address}/written/shard-000000.tar") as shard:
        assert shard.read(0, 512) == data[:512]
    server.busy = 3
    with Shard(f"{server.address}/written/shard-000000.tar") as shard, pytest.raises(UserError, match="503"):
        shard.read(0, 512)
    server.cut, server.cuts = 100, 9
    with Shard(f"{server.address}/written/shard-000000.tar") as shard, pytest.raises(UserError, match="after 1?100 of"):
        shard.read(1000, 5000)


def test_what_a_server_has_not_or_sends_elsewhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "WAITS_S", (0.0, 0.0))
    (tmp_path / "secret.tar").write_bytes(b"secret")
    with Shard(f"{server.address}/none.tar") as shard, pytest.raises(UserError, match="none.tar: cannot be read .*404"):
        shard.read(0, 1)
    assert len(server.asked) == 1, "asked again for what is not there"
    server.moved = {
        "/a.tar": f"file://{tmp_path}/secret.tar",
        "/b.tar": "ftp://127.0.0.1:1/x",
        "/c.tar": "/written/index.npz",
    }
    for name in ("a", "b"):
        with Shard(f"{server.address}/{name}.tar") as shard, pytest.raises(UserError, match="cannot be read"):
            shard.read(0, 6)
    with Shard(f"{server.address}/c.tar") as shard:
        assert shard.read(0, 2) == b"PK"
