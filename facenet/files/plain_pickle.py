"""Pickles of tensors and plain values, read without calling anything that they name.

This is a machine of the operations that torch.save writes, those of pickle's protocol 2. Names lead to functions of `pickled_names`, or are refused.
torch's own such machine (`weights_only`) runs what it is given in torch 2.4 and 2.5 where the file is a TorchScript archive (CVE-2025-32434), and in
every version takes more names than weights need; pickle's own, in C, lets a file set attributes of what it made, and takes 2 GiB for 9 bytes.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from facenet.files.pickled_names import (
    MOST_ARGUMENTS,
    Name,
    NumpyType,
    Storage,
    StorageKind,
    is_versions,
    named,
    nothing,
)
from facenet.files.pickled_values import MOST_STEPS, Budget, Refused, checked, checked_key

LONGEST_NAME = 200
StorageOf = Callable[[torch.dtype, Any, int, Any], Storage]


class Machine:
    """One pickle of `data` from byte `at` on; afterwards `at` is behind it. storage_of: finds a storage by (type, key, count, view). most_bytes: what
    all tensors may take when they are copied; in the file a tensor may be one number again and again."""

    def __init__(self, data: bytes, at: int = 0, storage_of: StorageOf = nothing, most_bytes: int = 0) -> None:
        self.data, self.at, self.storage_of = data, at, storage_of
        self.budget = Budget(len(data), most_bytes)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The content. Raises Refused; whatever else is raised means damage."""
        for _ in range(MOST_STEPS):
            code = self.data[self.at]
            self.at += 1
            if code == STOP:
                if len(self.stack) != 1 or self.marks:
                    raise Refused("parts are left over")
                return checked(self.stack.pop())
            operation = OPERATIONS.get(code)
            if operation is None:
                raise Refused(f"operation {code:#04x}, which torch.save does not write")
            operation(self)
        raise Refused(f"more than {MOST_STEPS} steps")

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) != size:
            raise Refused("it is cut")
        self.at += size
        return part

    def number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def line(self) -> str:
        end = self.data.index(b"\n", self.at, self.at + LONGEST_NAME)
        return self.take(end + 1 - self.at)[:-1].decode("ascii")

    def marked(self) -> list[Any]:
        """Returns what was put on the stack since the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def last(self, count: int) -> None:
        """A tuple of the last values."""
        self.budget.container()
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def mark(self) -> None:
        self.budget.container()
        self.marks.append(len(self.stack))

    def container(self, made: Any) -> None:
        self.budget.container()
        self.stack.append(made)

    def extend(self, items: Iterable[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("a list's operation on another value")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, OrderedDict):
            raise Refused("a dict's operation on another value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][checked_key(key)] = value

    def name(self) -> None:
        module, name = self.line(), self.line()
        self.stack.append(named(module, name))

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple or len(arguments) > MOST_ARGUMENTS:
            raise Refused("it calls what is no name")
        self.container(name.make(self.budget, *arguments))

    def build(self) -> None:
        """State after making: of state dicts the versions of their layers, of numpy's types the byte order."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is OrderedDict:
            if is_versions(versions := state.get("_metadata"), self.budget):
                made._metadata = versions  # type: ignore[attr-defined]  # where load_state_dict looks for it
        elif type(made) is not NumpyType or state[1] not in ("<", "|", b"<", b"|"):
            raise Refused(f"it sets attributes of a {type(made).__name__}")

    def storage(self) -> None:
        place = self.stack.pop()
        if (
            type(place) is not tuple
            or len(place) not in (5, 6)
            or place[0] != "storage"
            or type(place[1]) is not StorageKind
        ):
            raise Refused("it names an object elsewhere")
        _, kind, key, _, numel, *view = place
        if type(key) not in (str, int, bytes) or type(numel) is not int or numel < 0:
            raise Refused("a storage without key or size")
        self.stack.append(self.storage_of(kind.dtype, key, numel, view[0] if view else None))


BYTE, SHORT, INT, UINT, FLOAT = (struct.Struct(form) for form in ("<B", "<H", "<i", "<I", ">d"))
STOP = pickle.STOP[0]


def put(machine: Machine, form: struct.Struct) -> None:
    machine.memo[machine.number(form)] = machine.stack[-1]


def constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def counted_part(form: struct.Struct, of: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(of(machine.take(machine.number(form))))


def value(form: struct.Struct) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.number(form))


def setitem(machine: Machine) -> None:
    items = [machine.stack.pop(-2), machine.stack.pop()]
    machine.update(items)


OPERATIONS: dict[int, Callable[[Machine], None]] = {
    pickle.PROTO[0]: lambda machine: machine.number(BYTE),
    pickle.BINPUT[0]: lambda machine: put(machine, BYTE),
    pickle.LONG_BINPUT[0]: lambda machine: put(machine, UINT),
    pickle.BINGET[0]: lambda machine: machine.stack.append(machine.memo[machine.number(BYTE)]),
    pickle.LONG_BINGET[0]: lambda machine: machine.stack.append(machine.memo[machine.number(UINT)]),
    pickle.NONE[0]: constant(None),
    pickle.NEWTRUE[0]: constant(True),
    pickle.NEWFALSE[0]: constant(False),
    pickle.BININT[0]: value(INT),
    pickle.BININT1[0]: value(BYTE),
    pickle.BININT2[0]: value(SHORT),
    pickle.BINFLOAT[0]: value(FLOAT),
    pickle.LONG1[0]: counted_part(BYTE, pickle.decode_long),
    pickle.BINUNICODE[0]: counted_part(UINT, lambda part: str(part, "utf-8", "surrogatepass")),
    pickle.SHORT_BINSTRING[0]: counted_part(BYTE, lambda part: str(part, "utf-8")),
    pickle.EMPTY_TUPLE[0]: constant(()),
    pickle.EMPTY_LIST[0]: lambda machine: machine.container([]),
    pickle.EMPTY_DICT[0]: lambda machine: machine.container({}),
    pickle.EMPTY_SET[0]: lambda machine: machine.container(set()),
    pickle.MARK[0]: Machine.mark,
    pickle.TUPLE[0]: lambda machine: machine.container(tuple(machine.marked())),
    pickle.TUPLE1[0]: lambda machine: machine.last(1),
    pickle.TUPLE2[0]: lambda machine: machine.last(2),
    pickle.TUPLE3[0]: lambda machine: machine.last(3),
    pickle.APPEND[0]: lambda machine: machine.extend([machine.stack.pop()]),
    pickle.APPENDS[0]: lambda machine: machine.extend(machine.marked()),
    pickle.SETITEM[0]: setitem,
    pickle.SETITEMS[0]: lambda machine: machine.update(machine.marked()),
    pickle.GLOBAL[0]: Machine.name,
    pickle.REDUCE[0]: Machine.reduce,
    pickle.BUILD[0]: Machine.build,
    pickle.BINPERSID[0]: Machine.storage,
}
