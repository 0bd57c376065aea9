from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facenet.data.shards.index import ARRAYS, ShardIndex, load_index, scan_all
from facenet.errors import UserError

from .conftest import PEOPLE, Server, jpeg, tar

webdataset = pytest.importorskip("webdataset", reason="needs facenet[shards]")
NAMES = [f"shard-{number:06d}.tar" for number in range(4)]


def stored(folder: Path) -> ShardIndex:
    return load_index((folder / "index.npz").read_bytes(), "index.npz")


def same(left: ShardIndex, right: ShardIndex) -> bool:
    arrays = all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ARRAYS)
    return arrays and (left.names, left.identities, left.fingerprint) == (
        right.names,
        right.identities,
        right.fingerprint,
    )


def test_the_index_is_what_a_count_finds(written: Path, server: Server) -> None:
    index = stored(written)
    assert index.names == tuple(NAMES) and index.counts.tolist() == [8, 8, 8, 6]
    assert index.identities == tuple(PEOPLE)
    assert np.bincount(index.labels).tolist() == list(PEOPLE.values())
    assert index.lengths.tolist() == [(written / name).stat().st_size for name in NAMES]
    again = scan_all([str(written / name) for name in NAMES])
    assert again.identities == ("0", "1", "2", "3")
    assert same(index, replace(again, identities=index.identities))
    told: list[tuple[int, int]] = []
    far = scan_all([f"{server.address}/written/{name}" for name in NAMES], lambda *at: told.append(at))
    assert same(again, far) and told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_places_are_those_of_the_files(written: Path) -> None:
    index = stored(written)
    starts = np.cumsum(index.counts) - index.counts
    for shard, name in enumerate(NAMES):
        data = (written / name).read_bytes()
        with tarfile.open(written / name) as archive:
            images = [member for member in archive if not member.name.endswith(".cls")]
        for row, member in enumerate(images, int(starts[shard])):
            at, size = int(index.offsets[row]), int(index.sizes[row])
            assert (at, size) == (member.offset_data, member.size)
            assert data[at : at + size][:2] in (b"\xff\xd8", b"\x89P")
            assert zlib.crc32(data[at : at + size]) == index.checksums[row]


def test_shards_of_others_are_read_in_the_librarys_convention(tmp_path: Path) -> None:
    """Gaps in labels, further members, directories, suffixes in capitals, metadata, long and foreign names."""
    with webdataset.ShardWriter(f"{tmp_path}/a-%02d.tar", maxcount=2, verbose=0, encoder=False) as writer:
        for number, label in enumerate((70, 5, 70)):
            writer.write(
                {"__key__": f"deep/er/{number}", "json": b"{}", "jpg": jpeg(number), "cls": f"{label}\n".encode()}
            )
    long = "ü" * 150
    tar(
        tmp_path / "b.tar",
        [
            ("__meta__/x.jpg", b"x"),
            (f"{long}.JPG", jpeg()),
            (f"{long}.seg.png", b"y"),
            (f"{long}.cls", b"6"),
            ("README", b"z"),
        ],
    )
    index = scan_all([str(tmp_path / name) for name in ("a-00.tar", "a-01.tar", "b.tar")])
    assert index.identities == ("5", "6", "70") and index.labels.tolist() == [2, 0, 2, 1]
    assert index.counts.tolist() == [2, 1, 1]
    seen = [
        sample["jpg"]
        for name in ("a-00.tar", "a-01.tar", "b.tar")
        for sample in webdataset.WebDataset(str(tmp_path / name), shardshuffle=False)
        if "jpg" in sample
    ]
    whole = [(tmp_path / name).read_bytes() for name in ("a-00.tar", "a-00.tar", "a-01.tar", "b.tar")]
    ours = [data[at : at + size] for data, at, size in zip(whole, index.offsets, index.sizes, strict=True)]
    assert ours == seen and len(ours) == 4


GOOD = [("0.jpg", jpeg()), ("0.cls", b"0"), ("1.jpg", jpeg(1)), ("1.cls", b"1")]


def cut(path: Path, at: int) -> None:
    os.truncate(path, at)


def scratch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: cut(p, header_of(p, "1.jpg") + 700), "no whole tar file in the convention of WebDataset .unexpected end"),
        (lambda p: cut(p, header_of(p, "1.jpg")), "ends or is damaged after byte"),
        (lambda p: cut(p, header_of(p, "1.jpg") + 100), "ends or is damaged after byte"),
        (lambda p: scratch(p, header_of(p, "1.jpg") + 20, b"damage"), "ends or is damaged after byte"),
        (lambda p: cut(p, 0), "no whole tar file .*empty file"),
        (lambda p: p.write_bytes(os.urandom(4096)), "no whole tar file"),
        (lambda p: tar(p, [*GOOD, ("1.jpg", jpeg(1))]), "duplicate file name"),
        (lambda p: tar(p, [*GOOD, ("2.cls", b"0")]), "2 has 0 images, a sample has one"),
        (lambda p: tar(p, [*GOOD, ("2.jpg", b"x"), ("2.png", b"x"), ("2.cls", b"0")]), "2 has 2 images"),
        (lambda p: tar(p, [*GOOD, ("2.jpg", b"x")]), "2.cls is missing or empty, expected a number"),
        (lambda p: tar(p, [*GOOD, ("2.jpg", b"x"), ("2.cls", b"-1")]), "2.cls is b'-1', expected a number"),
        (lambda p: tar(p, [*GOOD, ("2.jpg", b"x"), ("2.cls", b"9" * 20)]), "2.cls is b'9+', expected a number"),
        (lambda p: tar(p, [*GOOD, ("2.jpg", b"x"), ("2.cls", b"9" * 999)]), "2.cls has 999 bytes, at most 20 are read"),
        (lambda p: tar(p, [*GOOD, ("a\n\x1b[2J.jpg", b"x")]), r"a\\n\\x1b\[2J.cls is missing"),
        (lambda p: tar(p, GOOD[:2]), "1 identities in 1 shards, at least two are needed"),
    ],
)  # fmt: skip
def test_what_is_no_shard_is_told_with_shard_and_member(
    damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = tar(tmp_path / "x.tar", GOOD)
    damage(path)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(UserError, match=f"x.tar: .*({message})"):
        scan_all([str(path)])
    assert sorted(tmp_path.parent.rglob("*")) == before, "something was unpacked"


def test_a_member_that_claims_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("0.jpg")
    entry.size = 1 << 42
    (tmp_path / "x.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(
        UserError, match=r"x.tar: 0.jpg has 4398046511104 bytes, at most 268435456 are read; leave it out"
    ):
        scan_all([str(tmp_path / "x.tar")])


def test_names_that_lead_elsewhere_and_links_are_never_followed(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "x.tar",
        [("../../up.jpg", jpeg()), ("../../up.cls", b"0"), ("/etc/x.jpg", jpeg(1)), ("/etc/x.cls", b"1")],
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert scan_all([str(path)]).counts.tolist() == [2]
    assert [found.name for found in tmp_path.iterdir()] == ["x.tar"]


def test_a_part_keeps_names_and_numbers_labels_anew(written: Path) -> None:
    index = stored(written)
    assert index.part(NAMES) is index
    part = index.part([NAMES[3], NAMES[1]])
    assert part is not None
    rows = [*range(24, 30), *range(8, 16)]
    assert [part.identities[label] for label in part.labels] == [
        index.identities[label] for label in index.labels[rows]
    ]
    assert part.offsets.tolist() == index.offsets[rows].tolist() and part.counts.tolist() == [6, 8]
    assert part.fingerprint != index.fingerprint
    assert index.part([NAMES[0], "other.tar"]) is None and index.part([NAMES[0], NAMES[0]]) is None


def changed(folder: Path, **arrays: Any) -> bytes:
    with np.load(folder / "index.npz") as found:
        content = {name: found[name] for name in found.files}
    about = json.loads(content["about"].tobytes())
    about.update({name: arrays.pop(name) for name in [*arrays] if name in ("version", "shards", "identities")})
    content |= {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in content.items() if array is not None})
    return file.getvalue()


def flipped(folder: Path) -> bytes:
    data = bytearray((folder / "index.npz").read_bytes())
    data[data.index(b"labels.npy") + 150] ^= 1
    return bytes(data)


def compressed(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(folder / "index.npz") as plain:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda f: b"no zip", "File is not a zip file"),
        (lambda f: (f / "index.npz").read_bytes()[:-50], "File is not a zip file"),
        (flipped, "Bad CRC-32 for file"),
        (compressed, "compressed"),
        (lambda f: changed(f, version=99), "version 99, this is 1"),
        (lambda f: changed(f, labels=None), "labels is not a file in the archive"),
        (lambda f: changed(f, labels=np.array([{}], object)), "Object arrays cannot be loaded"),
        (lambda f: changed(f, labels=np.zeros(30, np.int32)), "labels that are not 0 to"),
        (lambda f: changed(f, labels=np.zeros((30, 1), np.int32)), "another shape"),
        (lambda f: changed(f, sizes=np.full(30, 1 << 30)), "impossible size"),
        (lambda f: changed(f, offsets=np.full(30, 1 << 40)), "outside of its shard"),
        (lambda f: changed(f, offsets=np.full(30, -1)), "impossible size"),
        (lambda f: changed(f, counts=np.array([8, 8, 8, 7])), "do not add up"),
        (lambda f: changed(f, sizes=np.zeros(29, np.int32)), "different lengths"),
        (lambda f: changed(f, shards=["../x.tar", *NAMES[1:]]), "a shard's name that is none"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_told(made: Callable[[Path], bytes], message: str, written: Path) -> None:
    with pytest.raises(UserError, match=f"index.npz: damaged .*{message}"):
        load_index(made(written), "index.npz")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_ends_in_one_line_or_not_at_all(data: st.DataObject, written: Path, tmp_path: Path) -> None:
    for name, read in (
        ("shard-000000.tar", lambda path: scan_all([str(path)])),
        ("index.npz", lambda path: load_index(path.read_bytes(), "x")),
    ):
        content = bytearray((written / name).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        (tmp_path / name).write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        try:
            read(tmp_path / name)
        except UserError as error:
            assert str(error).isprintable()
