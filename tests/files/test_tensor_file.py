"""Files of torch.save: what torch reads is read alike, and what a stranger writes into one neither runs nor takes more than its size."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facenet.files import pickled_values, tensor_file
from facenet.files.pickled_values import Refused
from facenet.files.plain_pickle import Machine
from facenet.files.tensor_file import load

LAYOUTS = {"zip": True, "old": False}
BASE = torch.arange(24.0).reshape(4, 6)
CONTENTS: dict[str, Any] = {
    "types": {
        str(kind): torch.arange(5).to(kind)
        for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    },
    "small types": {str(kind): torch.arange(5).to(kind) for kind in (torch.int8, torch.uint8, torch.bool)},
    "complex": [torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex128)],
    "views of one storage": [BASE, BASE.t(), BASE[1:, ::2], BASE[2, 3]],
    "empty and scalar": [torch.empty(0), torch.empty(3, 0, 2), torch.tensor(1.5)],
    "repeated": torch.ones(1, 3).expand(1000, 3),
    "parameters": [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)],
    "gradient": torch.ones(2, requires_grad=True),
    "plain": {
        "a": [1, -1, 70_000, 2**40, 2.5, None, True, False, "ü", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        3: {},
    },
    "bytes and the rest": [b"\x00\xff", {1, 2}, 1 + 2j, torch.Size([1, 2]), torch.device("cuda", 1), torch.float16],
    "schedule": {"milestones": Counter({30: 1}), "_step_count": 3},
    "shared plain values": [shared := ["x"] * 3, shared, {"again": shared}],
    "many names": [f"n{number:06d}" for number in range(5000)],
}


def same(found: Any, expected: Any) -> bool:
    if type(found) is not type(expected):
        return False
    if isinstance(expected, torch.Tensor):
        marks = [(t.dtype, t.shape, t.stride(), t.storage_offset(), t.requires_grad) for t in (found, expected)]
        return marks[0] == marks[1] and torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_torch_writes_is_read_as_torch_reads_it(content: Any, layout: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=layout)
    assert same(load(tmp_path / "a.pt"), content)


def test_newer_number_types(tmp_path: Path) -> None:
    if not hasattr(torch, "uint16"):
        pytest.skip("this torch has none")
    content = [torch.arange(5).to(torch.uint16), torch.ones(3).to(torch.float8_e5m2).view(torch.uint8)]
    try:
        torch.save(content, tmp_path / "a.pt")
    except KeyError:  # torch 2.4
        pytest.skip("this torch has them and cannot write them")
    assert same(load(tmp_path / "a.pt"), content)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_state_dicts_keep_their_versions_and_shared_storages_stay_shared(layout: bool, tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    torch.save({"state": state, "twice": [BASE, BASE[1]]}, tmp_path / "a.pt", _use_new_zipfile_serialization=layout)
    found = load(tmp_path / "a.pt")
    assert type(found["state"]) is OrderedDict and found["state"]._metadata == state._metadata  # type: ignore[attr-defined]
    found["twice"][0][1, 0] = -1
    assert found["twice"][1][0] == -1


def test_numpy_numbers_beside_weights_become_plain_ones(tmp_path: Path) -> None:
    torch.save({"best": np.float64(0.75), "epoch": np.int64(3), "done": np.bool_(True)}, tmp_path / "a.pt")
    found = load(tmp_path / "a.pt")
    assert found == {"best": 0.75, "epoch": 3, "done": True} and [type(value) for value in found.values()] == [
        float,
        int,
        bool,
    ]


def test_attributes_on_a_tensor_are_left_out(tmp_path: Path) -> None:
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    tensor.note, parameter.note = "x", "y"  # type: ignore[attr-defined]
    torch.save([tensor, parameter], tmp_path / "a.pt")
    found = load(tmp_path / "a.pt")
    assert same(found, [torch.ones(2), torch.nn.Parameter(torch.ones(2))]) and not hasattr(found[0], "note")


def archive(
    path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", pickled)
        for name, data in (storages or {}).items():
            file.writestr(f"a/data/{name}", data)
    return path


def old(path: Path, pickled: bytes) -> Path:
    head = [pickle.dumps(part, 2) for part in (tensor_file.MAGIC, tensor_file.PROTOCOL, {"little_endian": True})]
    path.write_bytes(b"".join(head) + pickled + pickle.dumps([], 2))
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TOUCH = b"cposix\nsystem\n"
PAYLOADS = {
    "reduce": TOUCH + text("touch {trace}") + b"\x85R.",
    "python 2": b"c__builtin__\neval\n" + text("open('{trace}', 'w')") + b"\x85R.",
    "stack global": text("posix") + text("system") + b"\x93" + text("touch {trace}") + b"\x85R.",
    "dotted": text("torch") + text("os.system") + b"\x93" + text("touch {trace}") + b"\x85R.",
    "dotted global": b"ctorch\nos.system\n" + text("touch {trace}") + b"\x85R.",
    "inst": b"(" + text("touch {trace}") + b"iposix\nsystem\n.",
    "obj": b"(" + TOUCH + text("touch {trace}") + b"o.",
    "newobj": b"csubprocess\nPopen\n" + text("touch {trace}") + b"\x85\x81.",
    "newobj_ex": b"csubprocess\nPopen\n" + text("touch {trace}") + b"\x85}\x92.",
    "build": b"ctorch.nn.parameter\nParameter\n)\x81}" + text("__setstate__") + TOUCH + b"sb.",
    "build of a class": b"ccollections\nOrderedDict\nN}" + text("__call__") + TOUCH + b"s\x86b.",
    "shadowed method": b"ccollections\nOrderedDict\n)R}" + text("items") + TOUCH + b"sb.",
    "extension": b"\x82\x01.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "getattr": b"cbuiltins\ngetattr\nctorch\nserialization\n" + text("os") + b"\x86R.",
    "unsafe storage": b"ctorch.storage\n_load_from_bytes\n" + b"C\x01x" + b"\x85R.",
    "torch.load": b"ctorch.serialization\nload\n" + text("{trace}") + b"\x85R.",
    "jit": b"ctorch.jit._serialization\nload\n" + text("{trace}") + b"\x85R.",
    "collect_env": b"ctorch.utils.collect_env\nrun\n" + text("touch {trace}") + b"\x85R.",
    "attributes of a tensor": b"ctorch._utils\n_set_obj_state\n}}\x86R.",
    "made by another function": b"ctorch._tensor\n_rebuild_from_type_v2\n("
    + TOUCH
    + b"ctorch\nTensor\n"
    + text("x")
    + b"\x85}tR.",
    "a name as content": b"}" + text("x") + b"ccollections\nOrderedDict\ns.",
    "persistent module": b"(" + text("module") + b"ctorch.nn\nLinear\n" + text("x") + text("y") + b"tQ.",
    "persistent name": text("storage") + b"Q.",
}


@pytest.mark.parametrize("write", [archive, old])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_published_payloads_run_nothing(payload: bytes, write: Any, tmp_path: Path) -> None:
    trace = tmp_path / "t"
    command = payload.replace(b"{trace}", os.fsencode(trace))
    for length in (len("touch {trace}"), len("open('{trace}', 'w')"), len("{trace}")):
        grown = length - len("{trace}") + len(str(trace))
        command = command.replace(b"X" + struct.pack("<I", length), b"X" + struct.pack("<I", grown))
    with pytest.raises(Refused) as raised:
        load(write(tmp_path / "a.pt", b"\x80\x02" + command))
    assert not trace.exists() and "\n" not in str(raised.value)


def test_the_payloads_are_ones() -> None:
    """Twin: plain pickle, in C, would run them."""
    runs = PAYLOADS["reduce"].replace(b"posix\nsystem", b"builtins\nlen").replace(b"{trace}", b"123 567")
    assert pickle.loads(b"\x80\x02" + runs) == len("touch {trace}")


BOMBS = {
    "memo": (b"Nr\xff\xff\xff\xff" + b"\x8b\xff\xff\xff\x7f.", "operation"),
    "text": (b"X\xff\xff\xff\xff.", "it is cut"),
    "text of 8 bytes": (b"\x8d" + b"\xff" * 8 + b".", "operation 0x8d"),
    "frame": (b"\x95" + b"\xff" * 8 + b".", "operation 0x95"),
    "deep": (b"]" * 5000 + b"a" * 4999 + b".", "deep"),
    "many lists": (b"(" + b"]" * 20_001 + b"t.", "lists and dicts"),
    "itself": (b"]q\x00h\x00a.", "holds itself"),
    "colliding keys": (
        b"}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(9)) + b"u.",
        "key",
    ),
    "tuple as a key": (b"}))\x86N s.".replace(b" ", b""), "key"),
    "copies": (
        b"(" + text("x" * 1000) + b"q\x00" + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 50 + b"t.",
        "again",
    ),
    "one size again and again": (
        b"(" + b"K\x01" * 2000 + b"tq\x00(" + b"ctorch\nSize\nh\x00\x85R" * 9 + b"t.",
        "impossible shape",
    ),
    "one call's arguments again and again": (
        b"(" + b"K\x01" * 2000 + b"tq\x00" + b"ccollections\nOrderedDict\nh\x00R.",
        "it calls what is no name",
    ),
    "one list as a set again and again": (
        b"]("
        + b"".join(b"M" + struct.pack("<H", n) for n in range(2000))
        + b"eq\x00("
        + b"cbuiltins\nset\nh\x00\x85R" * 50
        + b"t.",
        "again and again",
    ),
    "one set of versions again and again": (
        b"}("
        + b"".join(text(str(n)) + b"}" for n in range(500))
        + b"uq\x00("
        + (b"ccollections\nOrderedDict\n)R}" + text("_metadata") + b"h\x00sb") * 50
        + b"t.",
        "again and again",
    ),
    "ends early": (b"}q\x00", "IndexError|left over"),
}


@pytest.mark.parametrize("write", [archive, old])
@pytest.mark.parametrize(("bomb", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_few_bytes_take_little(
    bomb: bytes, reason: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickled_values, "MOST_CONTAINERS", 20_000)  # 0.6 s where it is a million
    path = write(tmp_path / "a.pt", b"\x80\x02" + bomb)
    started = time.monotonic()
    with pytest.raises(Refused, match=reason):
        load(path)
    assert time.monotonic() - started < 10


def test_lists_that_share_lists_are_counted_as_written_out(tmp_path: Path) -> None:
    content: Any = ["x"]
    for _ in range(40):
        content = [content, content]
    path = archive(tmp_path / "a.pt", pickle.dumps(content, 2))
    with pytest.raises(
        Refused, match=r"its lists share lists: 122 values would be [\d,]{15,} when they are written out"
    ):
        load(path)
    content = ["x"]
    for _ in range(10):
        content = [content, content]
    assert load(archive(path, pickle.dumps(content, 2))) == content


def test_depth_of_a_config_is_no_matter(tmp_path: Path) -> None:
    content: Any = 1
    for _ in range(90):
        content = {"a": content}
    assert load(archive(tmp_path / "a.pt", pickle.dumps(content, 2))) == content


def tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = 4) -> bytes:
    """The pickle of a tensor over storage 0."""
    place = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(numel) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + number(offset)
        + shape
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([tensor(0, (5,), (1,))], "beyond its storage"),
        ([tensor(1, (4,), (1,))], "beyond its storage"),
        ([tensor(-1, (4,), (1,))], "impossible shape"),
        ([tensor(3, (2,), (-1,))], "impossible shape"),
        ([tensor(0, (2, 2), (3, 1))], "beyond its storage"),
        ([tensor(0, (-1,), (1,))], "impossible shape"),
        ([tensor(0, (4,), (1, 1))], "impossible shape"),
        ([tensor(0, (2**40,), (0,))], "many times the size"),
        ([tensor(0, (2**31, 2**31), (0, 0))], "many times the size"),
        ([tensor(0, (2**20, 4), (0, 1))] * 5, "many times the size"),
        ([tensor(0, (4,), (1,), numel=5)], "shorter than its 5 numbers"),
        ([tensor(0, (4,), (1,), numel=2**60)], "shorter than"),
    ],
)
def test_tensors_stay_within_their_storage(tensors: list[bytes], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=reason):
        load(archive(tmp_path / "a.pt", b"\x80\x02(" + b"".join(tensors) + b"t.", {"0": bytes(16)}))


def test_tensors_within_their_storage(tmp_path: Path) -> None:
    """Twin: the same pickles with shapes that fit."""
    parts = [tensor(0, (4,), (1,)), tensor(3, (1,), (9,)), tensor(0, (2, 2), (2, 1)), tensor(1, (1000, 3), (0, 1))]
    data = struct.pack("<4f", 1, 2, 3, 4)
    found = load(archive(tmp_path / "a.pt", b"\x80\x02(" + b"".join(parts) + b"t.", {"0": data}))
    assert [part.tolist() for part in found[:3]] == [[1, 2, 3, 4], [4], [[1, 2], [3, 4]]]
    assert found[3].shape == (1000, 3) and found[3][999].tolist() == [2, 3, 4]


def test_an_old_file_may_not_promise_what_it_does_not_hold(tmp_path: Path) -> None:
    path = old(tmp_path / "a.pt", b"\x80\x02" + tensor(0, (2**40,), (1,), numel=2**40) + b".")
    with pytest.raises(Refused, match="storages are larger than the file"):
        load(path)
    path = old(path, b"\x80\x02" + tensor(0, (4,), (1,)) + b".")
    with pytest.raises(Refused, match="its storages are not those"):  # else it would hold what the memory held before
        load(path)


def test_compressed_storages_may_not_grow(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", b"\x80\x02N.", {"0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 15
    tracemalloc.start()
    with pytest.raises(Refused, match=r"bytes that unpack to 16,777,2\d\d; torch.save does not compress"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_file_that_was_packed_again_by_hand_is_read(tmp_path: Path) -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": weights}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for name in source.namelist():
            file.writestr(name, source.read(name))
    assert torch.equal(load(tmp_path / "b.pt")["weight"], weights)


def test_archives_of_another_kind(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", b"\x80\x02N.")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/constants.pkl", b"")
        file.writestr("a/code/x.py", b"import os")
    with pytest.raises(Refused, match="a TorchScript archive, which holds code"):
        load(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("photo.jpg", b"")
    with pytest.raises(Refused, match=r"a zip file, but not of torch\.save"):
        load(path)
    with zipfile.ZipFile(archive(path, b"\x80\x02N."), "a") as file:
        file.writestr("a/byteorder", b"big")
    with pytest.raises(Refused, match="the other byte order"):
        load(path)
    with zipfile.ZipFile(archive(path, b"\x80\x02N."), "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("a/data.pkl", b"\x80\x02N.")
    with pytest.raises(Refused, match="two members of one name"):
        load(path)


def test_state_dicts_take_versions_alone_with_them(tmp_path: Path) -> None:
    """`assign_to_params_buffers` would put the file's own tensors, of any type, in the place of a network's."""
    state = torch.nn.BatchNorm1d(3).state_dict()
    state._metadata[""]["assign_to_params_buffers"] = 1  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "a.pt")
    assert not hasattr(load(tmp_path / "a.pt"), "_metadata")


def damaged(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed))
        changed[at : at + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
    return bytes(changed)


def look(seed: int, tmp_path: Path) -> None:
    """A pickle with bytes changed, in either layout: read or refused, and refused within a second or so."""
    draw = random.Random(seed)
    buffer = io.BytesIO()
    torch.save(
        draw.choice(list(CONTENTS.values())), buffer, _use_new_zipfile_serialization=(zipped := draw.random() < 0.5)
    )
    path = tmp_path / "a.pt"
    if zipped and draw.random() < 0.7:
        with zipfile.ZipFile(buffer) as file:
            parts = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
        storages = {name.removeprefix("data/"): data for name, data in parts.items() if name.startswith("data/")}
        archive(path, damaged(parts["data.pkl"], draw), storages)
    else:
        path.write_bytes(damaged(buffer.getvalue(), draw))
    started = time.monotonic()
    try:
        load(path)
    except Refused as error:
        assert str(error) and "\n" not in str(error) and str(error).isprintable()
    assert time.monotonic() - started < 20


def test_damage_is_read_or_refused(tmp_path: Path) -> None:
    for seed in range(60):
        look(seed, tmp_path)


@pytest.mark.nightly
def test_much_damage_is_read_or_refused(tmp_path: Path) -> None:
    for seed in range(1000, 1200):
        look(seed, tmp_path)


def test_the_machine_reads_one_pickle_and_says_where_it_ends() -> None:
    data = pickle.dumps([1], 2) + b"rest"
    machine = Machine(data)
    assert machine.run() == [1] and data[machine.at :] == b"rest"
