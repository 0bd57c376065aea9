"""The parsers of files from outside, fed with damage: each returns or raises UserError, in bounded time. A million inputs: data/test_fuzz.py."""

from __future__ import annotations

import io
import pickle
import random
import string
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facenet.backbones.weights import read, tensors_of
from facenet.data.files.annotation import read_annotation
from facenet.data.files.records import read_index
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import read_bin
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.tracking.dllogger import read_metric

LOG = b"""TCAPPDLL {"timestamp": "1", "type": "LOG", "step": [0, 1], "data": "{'rank': '0', 'train.loss': '1.5'}"}
DLLL {"type": "LOG", "step": [0, 2], "data": {"train.loss": 2.5, "rank": 0}}
DLL 2026-01-01 - Epoch: 0 Iteration: 3 train.loss : 3.5 rank : 0
TCAPPDLL 2026 - (0, 4) train.loss: 1.0
"""
WORDS = {
    "annotation": [
        *(b"0;x\n", b"1;a.png\n", b";", b"\n", b"..", b"/", b"\xff", b"9" * 25, b"\0", b"\xd9\xa3"),
        *(b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b'"', b"'", b"~/", b"\\", b"C:\\", b"\t", b","),
    ],
    "pairs": [
        b"2 1\n",
        b"a\t1\t2\n",
        b"a\t1\tb\t1\n",
        b"b 2 3\n",
        b"\t",
        b" ",
        b"9" * 5000,
        b"..",
        b"/",
        b"\0",
        b"\xb2",
        *(
            b"\xff\xfe",
            b"\r",
            b",",
            b";",
            b'"',
            b"a/1.png b/1.png 0\n",
            b"name,image1,image2\n",
            b"a,1,2\n",
            b"40\n",
            b"-1",
            b"\\",
        ),
    ],
    "log": [
        *LOG.splitlines(keepends=True),
        b"[",
        b"{",
        b"(" * 300,
        b"1e999",
        b"NaN",
        b"-",
        b"'",
        b'"',
        b"DLL ",
        b" - ",
    ],
    "index": [b"0\t0\n", b"1 8", b"-", b"9" * 25, b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\r", b"1e9", b"nan"],
    "set": [
        *(b"\x80\x02", b"\x80\x05", b"]", b"(", b"e", b"\x86.", b"\x94", b"h\x00", b"h\x05", b"R", b"b", b"\x85", b"a"),
        *(
            b"cnumpy\nndarray\n",
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"\x8c\x02u1",
            b"K\x00",
            b"\x8a\xff",
            b"\x96",
        ),
    ],
    "weights": [
        b"PK\x03\x04",
        b"\x80\x02}",
        b"ctorch\n",
        b"q\x01",
        b"}",
        b"s.",
        b"R.",
        b"X\xff\xff\xff\x7f",
        b"h\x00",
        b"(",
        b"\x8a\x0a",
    ],
}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3)}
FIELDS = {name: kind() for name, kind in checkpoints.FIELDS.items()}
CHECKPOINT = {"format": checkpoints.FORMAT, "version": checkpoints.VERSION, **FIELDS}
SEEDS = {
    "annotation": [
        b"0;x\n1;b/0.png\n",
        b"\xef\xbb\xbf3;/x/a b.png \r\n3;c.png\n7;x\r\n",
        '0; "x"\r1;~/b.png\r1;.\\x\r'.encode("utf-16"),
    ],
    "pairs": [
        b"2 1\na\t1\t2\na\t1\tb\t1\nb\t2\t3\nc\t1\td\t4\n",
        b"2 1\na 1 2\na 1 b 1\nb 2 3\nc 1 d 4\n",
        b'name,image1,image2,\n"a",1,2,\na,1,b,1\nb,2,3,\nc,1,d,4\n',
        "a/1.png;a/2.png;1\r\na/1.png;b/2.png;0\r\n".encode("utf-16-le") * 2,
    ],
    "index": [b"0\t0\n3\t64\n", "3\t64\r\n0\t0\r\n".encode("utf-16")],
    "set": [
        pickle.dumps(([image] * 4, [True, np.True_]), protocol)
        for image in (b"a", np.zeros(9, np.uint8))
        for protocol in (2, 4, 5)
    ],
    "log": [LOG],
    "weights": [saved(STATE), saved(CHECKPOINT)],
}


def weights(path: Path) -> None:
    tensors_of(read(path), path)


def metric(path: Path) -> None:
    read_metric(path, "train.loss")


READERS: dict[str, list[Callable[[Path], object]]] = {
    "annotation": [read_annotation],
    "pairs": [read_pairs],
    "index": [lambda path: read_index(path, 1000)],
    "set": [read_bin],
    "log": [metric],
    "weights": [weights, checkpoints.load],
}


def feed(kind: str, content: bytes, path: Path) -> int:
    """The number of its readers that took the content; anything but UserError comes out. Annotation seeds name the file x itself."""
    path.write_bytes(content)
    taken = 0
    for reader in READERS[kind]:
        try:
            reader(path)
            taken += 1
        except UserError as error:
            assert str(error)
    return taken


def damaged(kind: str, draw: random.Random) -> bytes:
    """A seed with bytes changed, parts cut out, doubled or swapped, and words of the format put in; or words alone."""
    content = bytearray(draw.choice(SEEDS[kind]) if draw.random() < 0.8 else b"")
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(content))
        end = min(len(content), at + draw.randint(0, 40))
        choice = draw.randrange(5)
        if choice == 0:
            content[at:at] = draw.choice(WORDS[kind])
        elif choice == 1:
            content[at:end] = b""
        elif choice == 2:
            content[at:at] = content[at:end] * draw.randint(1, 3)
        elif choice == 3:
            content[at:end] = draw.choice(string.printable).encode() * (end - at)
        elif at < len(content):
            content[at] = draw.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("kind", READERS)
def test_the_seeds_are_whole(kind: str, tmp_path: Path) -> None:
    """So that damage to them reaches every part of a parser."""
    assert [feed(kind, seed, tmp_path / "x") > 0 for seed in SEEDS[kind]] == [True for _ in SEEDS[kind]]


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_arbitrary_content_is_read_or_refused(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    word = st.one_of(st.sampled_from([*WORDS[kind], *SEEDS[kind]]), st.binary(max_size=12))
    feed(kind, b"".join(data.draw(st.lists(word, max_size=12))), tmp_path / "x")


@pytest.mark.parametrize("kind", READERS)
def test_damage_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    taken = sum(feed(kind, damaged(kind, draw), tmp_path / "x") > 0 for _ in range(150))
    assert 0 < taken < 150


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("log", b"DLL " * 500_000),
        ("log", b"DLL x - Epoch: 0 Iteration: 1 " + b"a" * 90_000),
        ("log", b"DLL " + b" - (1" * 18_000),
        ("log", b'DLLL {"type": "LOG", "step": [1e999, 1], "data": {}}'),
        ("log", b'DLLL {"type": "LOG", "step": [0, 1], "data": "' + b"(" * 50_000 + b'"}'),
        ("log", b'DLLL {"type": "LOG", "step": [0, 1], "data": "{1: 2}"}'),
        ("log", b"DLLL " + b'{"a":' * 19_000),
        ("annotation", b"9" * 5000 + b";a\n1;x\n"),
        ("annotation", b"99999999999999999999;x\n1;x\n"),
        ("annotation", "\u0663\x1d;x\n1\n".encode()),
        ("annotation", b";" * 2_000_000),
        ("annotation", "\u3042".encode("utf-16-le") * 2_000_000),
        ("annotation", b" " * 16_000 + b";\n"),
        ("annotation", b"x" + b", " * 8_000 + b"x\n"),
        ("pairs", b"9" * 5000 + b" 1\n"),
        ("pairs", b"," * 2_000_000),
        ("pairs", b'"' + b"a," * 1_000_000),
        ("pairs", b"1," + b"\0" * 200_000 + b",a\n"),
        ("pairs", b"2 999999999\na\t1\t2\n"),
        ("pairs", b"2 1\na\t" + b"1" * 5000 + b"\t2\n"),
        ("weights", b"\x80\x02X\xff\xff\xff\x7f"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else value,
)
def test_content_made_to_crash_or_hang(kind: str, content: bytes, tmp_path: Path) -> None:
    started = time.monotonic()
    assert feed(kind, content, tmp_path / "x") == 0
    assert time.monotonic() - started < 10
