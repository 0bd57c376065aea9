"""Pickles of tensors and plain values, read without calling anything that they name.

This is a machine of the operations that torch.save writes, those of pickle's protocol 2. Names lead to the functions of this file or are refused.
torch's own such machine (`weights_only`) runs what it is given in torch 2.4 and 2.5 where the file is a TorchScript archive (CVE-2025-32434), and in
every version takes more names than weights need; pickle's own, in C, lets a file set attributes of what it made, and takes 2 GiB for 9 bytes.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from facenet.errors import shown

MOST_STEPS = 1 << 25  # ten million identities take 20 million
MOST_CONTAINERS = 1 << 20  # a tensor takes about 8, for a moment; one byte of the file makes one of 60 to 200 bytes
DEEPEST = 100  # of lists in lists; a config has about 10
FEW = 100_000  # values that lists may share without a question
LONGEST_NAME = 200
MOST_ARGUMENTS = 8
MOST_DIMENSIONS = 64
KEYS = (str, int, float, bool, type(None), bytes)
LARGEST_KEY = 2**61 - 1  # Python's hash of an integer is its remainder by this: larger ones can be made to collide
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64", "complex32"} | {
    f"float8_{kind}" for kind in ("e5m2", "e4m3fn", "e5m2fnuz", "e4m3fnuz", "e8m0fnu")
}


class Refused(ValueError):
    """The file is damaged, or holds what weights do not need; one line says what. Nothing of it was run."""


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names: what stands for it here, called with the machine first."""

    text: str
    make: Callable[..., Any]


@dataclass(frozen=True)
class StorageKind:
    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """`numel` numbers from number `start` on of `stored`."""

    stored: torch.UntypedStorage
    dtype: torch.dtype
    numel: int
    start: int = 0


@dataclass(frozen=True)
class NumpyType:
    code: str


StorageOf = Callable[[torch.dtype, Any, int, Any], Storage]


def no_storage(*_: Any) -> Storage:
    raise Refused("a storage where none belongs")


class Machine:
    """One pickle of `data` from byte `at` on; afterwards `at` is behind it. storage_of: finds a storage by (type, key, count, view). most_bytes: what
    all tensors may take when they are copied; in the file a tensor may be one number again and again."""

    def __init__(self, data: bytes, at: int = 0, storage_of: StorageOf = no_storage, most_bytes: int = 0) -> None:
        self.data, self.at, self.storage_of = data, at, storage_of
        self.bytes_left, self.containers_left = most_bytes, MOST_CONTAINERS
        self.copies_left = min(len(data), MOST_STEPS)
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

    def counted(self) -> None:
        self.containers_left -= 1
        if self.containers_left < 0:
            raise Refused(f"more than {MOST_CONTAINERS} lists and dicts")

    def copied(self, part: Any) -> Any:
        """A part that is about to be made again in another form; a pickle may name the same long one a million times."""
        self.copies_left -= len(part)
        if self.copies_left < 0:
            raise Refused("it copies one part again and again")
        return part

    def marked(self) -> list[Any]:
        """Returns what was put on the stack since the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def last(self, count: int) -> None:
        """A tuple of the last values."""
        self.counted()
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def mark(self) -> None:
        self.counted()
        self.marks.append(len(self.stack))

    def container(self, made: Any) -> None:
        self.counted()
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
        self.container(name.make(self, *arguments))

    def build(self) -> None:
        """State after making: of state dicts the versions of their layers, of numpy's types the byte order."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is OrderedDict:
            if is_versions(versions := state.get("_metadata"), self):
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

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        _: Any = None,
        marks: Any = None,
    ) -> torch.Tensor:
        return self.typed_tensor(storage, offset, size, stride, requires_grad, None, storage.dtype, marks)

    def typed_tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        _: Any,
        dtype: Any,
        marks: Any = None,
    ) -> torch.Tensor:
        """A view into the storage: torch's own function makes a storage larger where a tensor does not fit."""
        if type(storage) is not Storage or type(dtype) is not torch.dtype or (storage.start and dtype != storage.dtype):
            raise Refused("a tensor without a storage")
        if marks:  # conjugated or negated when it is read
            raise Refused("a complex tensor that is not resolved; save .resolve_conj() of it")
        end = storage.start * dtype.itemsize + extent(offset, size, stride) * dtype.itemsize
        if end > (storage.start + storage.numel) * storage.dtype.itemsize:
            raise Refused("a tensor reaches beyond its storage")
        self.bytes_left -= math.prod(size) * dtype.itemsize
        if self.bytes_left < 0:
            raise Refused(
                "its tensors repeat few numbers so often that they would take many times the size of the file"
            )
        made = torch.empty(0, dtype=dtype)
        made.set_(storage.stored, storage.start + offset, tuple(size), tuple(stride))
        return made.requires_grad_() if requires_grad is True else made


def extent(offset: Any, size: Any, stride: Any) -> int:
    """The number of elements of a storage that a tensor needs."""
    if type(size) not in (tuple, list, torch.Size) or type(stride) not in (tuple, list):
        raise Refused("a tensor without a shape")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise Refused("a tensor of an impossible shape")
    if any(type(number) is not int or not 0 <= number < 2**62 for number in (offset, *size, *stride)):
        raise Refused("a tensor of an impossible shape")
    reach = sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    return int(offset if 0 in size else offset + reach + 1)


def checked(content: Any) -> Any:
    """The content, where it is of plain values and tensors, does not hold itself, and is not much larger written out than in the file: lists that
    hold the same lists twice, 40 levels of them, take any walk years."""
    own, written, depths = 0, dict[int, int](), dict[int, int]()
    waiting: list[tuple[Any, list[Any] | None]] = [(content, None)]
    while waiting:
        part, inner = waiting.pop()
        if inner is not None:
            written[id(part)] = len(part) + 1 + sum(written[id(child)] for child in inner)
            depths[id(part)] = 1 + max((depths[id(child)] for child in inner), default=0)
            if depths[id(part)] > DEEPEST:
                raise Refused(f"lists in lists, more than {DEEPEST} deep")
        elif type(part) in CONTAINERS and id(part) not in written:
            inner = inner_of(part)
            own += len(part) + 1
            written[id(part)] = 0
            waiting.append((part, inner))
            waiting += [(child, None) for child in inner]
        elif type(part) in CONTAINERS and written[id(part)] == 0:
            raise Refused("a list or dict that holds itself")
        elif type(part) not in CONTAINERS and type(part) not in LEAVES:
            raise Refused(f"it holds a {type(part).__name__}, which is no plain value")
    if type(content) in CONTAINERS and written[id(content)] > 2 * own + FEW:
        raise Refused(
            f"its lists share lists: {own} values would be {written[id(content)]:,} when they are written out"
        )
    return content


def inner_of(part: Any) -> list[Any]:
    """What is no plain value of a container."""
    return [child for child in (part.values() if isinstance(part, dict) else part) if type(child) not in LEAVES]


def checked_key(key: Any) -> Any:
    """A key whose hash takes no long time and is its own."""
    if type(key) not in KEYS or (type(key) is int and abs(key) >= LARGEST_KEY):
        raise Refused(f"a dict's key that is a {type(key).__name__}" + (" too large" if type(key) is int else ""))
    return key


def is_versions(versions: Any, machine: Machine) -> bool:
    """Whether these are the versions of a state dict's layers."""
    if type(versions) not in (dict, OrderedDict):
        return False
    layers = machine.copied(versions).values()
    return all(
        type(layer) is dict and list(machine.copied(layer)) == ["version"] and type(layer["version"]) is int
        for layer in layers
    )


def named(module: str, name: str) -> Any:
    """What stands for a name. Types of numbers stand for themselves."""
    parent, _, device = module.partition(".")
    if parent == "torch" and "." not in device and name in STORAGES:  # each device has its own names for them
        return StorageKind(getattr(torch, STORAGES[name]))
    if module == "torch" and name in DTYPES and hasattr(torch, name):
        return getattr(torch, name)
    if (found := NAMES.get((module, name))) is None:
        raise Refused(f"it names {shown(f'{module}.{name}')}, which tensors and plain values do not need")
    return found


def parameter(_: Machine, data: torch.Tensor, requires_grad: bool, *__: Any) -> torch.nn.Parameter:
    if type(data) is not torch.Tensor or type(requires_grad) is not bool:
        raise Refused("a parameter without a tensor")
    return torch.nn.Parameter(data, requires_grad)


def with_attributes(machine: Machine, function: Any, _: Any, arguments: Any, __: Any) -> Any:
    """A tensor on which a program had set attributes: without them."""
    if (
        type(function) is not Name
        or not function.text.startswith("torch._utils._rebuild_")
        or type(arguments) is not tuple
        or len(arguments) > MOST_ARGUMENTS
    ):
        raise Refused("a tensor made by no function of torch")
    return function.make(machine, *arguments)


def ordered_dict(machine: Machine, pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((checked_key(key), value) for key, value in machine.copied(pairs))


def counter(machine: Machine, counts: Any) -> Counter[Any]:
    if type(counts) is not dict or not all(type(count) is int for count in machine.copied(counts).values()):
        raise Refused("a counter of what is no number")
    return Counter(counts)


def plain_set(machine: Machine, items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in machine.copied(items)}


def shape(_: Machine, sizes: Any) -> torch.Size:
    extent(0, sizes, sizes)
    return torch.Size(sizes)


def device(_: Machine, kind: str, *index: int) -> torch.device:
    return torch.device(kind, *index)


def complex_number(_: Machine, real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def encoded(machine: Machine, text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an unknown encoding")
    return bytes(machine.copied(text).encode("latin-1"))


def numpy_type(_: Machine, code: Any, *__: Any) -> NumpyType:
    code = code.decode("ascii") if type(code) is bytes and len(code) == 2 else code
    if type(code) is not str or code not in NUMBERS:
        raise Refused("a numpy type that is no number's")
    return NumpyType(code)


def numpy_number(_: Machine, kind: Any, data: Any) -> float | int | bool:
    """Returns a NumPy number as Python's: a best score, mostly."""
    if type(kind) is not NumpyType or type(data) not in (bytes, str) or len(data) > 8:
        raise Refused("a numpy number without type or value")
    raw = data if type(data) is bytes else data.encode("latin-1")
    found: float | int | bool = np.frombuffer(raw, f"<{kind.code}", 1)[0].item()
    return found


MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": ordered_dict,
    "collections.Counter": counter,
    "builtins.set": plain_set,
    "__builtin__.set": plain_set,
    "builtins.complex": complex_number,
    "__builtin__.complex": complex_number,
    "_codecs.encode": encoded,
    "torch.Size": shape,
    "torch.device": device,
    "torch.Tensor": no_storage,
    "torch.nn.parameter.Parameter": no_storage,
    "torch._utils._rebuild_tensor": Machine.tensor,
    "torch._utils._rebuild_tensor_v2": Machine.tensor,
    "torch._utils._rebuild_tensor_v3": Machine.typed_tensor,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda _, data, *__: data,
    "torch._tensor._rebuild_from_type_v2": with_attributes,
    "numpy.dtype": numpy_type,
    "numpy.core.multiarray.scalar": numpy_number,
    "numpy._core.multiarray.scalar": numpy_number,
}
NAMES: dict[tuple[str, ...], Name] = {tuple(text.rsplit(".", 1)): Name(text, make) for text, make in MAKERS.items()}

CONTAINERS = {dict, OrderedDict, list, tuple}
LEAVES = {*KEYS, complex, set, Counter, torch.Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype}
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
