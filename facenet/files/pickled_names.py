"""What stands for a name in a pickle of weights: functions of this file, each within a budget, and types of numbers. Other names are refused."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from facenet.errors import shown
from facenet.files.pickled_values import Budget, Refused, checked_key

MOST_ARGUMENTS = 8
MOST_DIMENSIONS = 64
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


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names: what stands for it here, called with the budget first."""

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


def nothing(*_: Any) -> Any:
    raise Refused("a storage where none belongs")


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


def tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    _: Any = None,
    marks: Any = None,
) -> torch.Tensor:
    return typed_tensor(budget, storage, offset, size, stride, requires_grad, None, storage.dtype, marks)


def typed_tensor(
    budget: Budget,
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
    budget.tensor(math.prod(size) * dtype.itemsize)
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


def parameter(_: Budget, data: torch.Tensor, requires_grad: bool, *__: Any) -> torch.nn.Parameter:
    if type(data) is not torch.Tensor or type(requires_grad) is not bool:
        raise Refused("a parameter without a tensor")
    return torch.nn.Parameter(data, requires_grad)


def with_attributes(budget: Budget, function: Any, _: Any, arguments: Any, __: Any) -> Any:
    """A tensor on which a program had set attributes: without them."""
    if (
        type(function) is not Name
        or not function.text.startswith("torch._utils._rebuild_")
        or type(arguments) is not tuple
        or len(arguments) > MOST_ARGUMENTS
    ):
        raise Refused("a tensor made by no function of torch")
    return function.make(budget, *arguments)


def ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((checked_key(key), value) for key, value in budget.copied(pairs))


def counter(budget: Budget, counts: Any) -> Counter[Any]:
    if type(counts) is not dict or not all(type(count) is int for count in budget.copied(counts).values()):
        raise Refused("a counter of what is no number")
    return Counter(counts)


def plain_set(budget: Budget, items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in budget.copied(items)}


def shape(_: Budget, sizes: Any) -> torch.Size:
    extent(0, sizes, sizes)
    return torch.Size(sizes)


def device(_: Budget, kind: str, *index: int) -> torch.device:
    return torch.device(kind, *index)


def complex_number(_: Budget, real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def encoded(budget: Budget, text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an unknown encoding")
    return bytes(budget.copied(text).encode("latin-1"))


def numpy_type(_: Budget, code: Any, *__: Any) -> NumpyType:
    code = code.decode("ascii") if type(code) is bytes and len(code) == 2 else code
    if type(code) is not str or code not in NUMBERS:
        raise Refused("a numpy type that is no number's")
    return NumpyType(code)


def numpy_number(_: Budget, kind: Any, data: Any) -> float | int | bool:
    """Returns a NumPy number as Python's: a best score, mostly."""
    if type(kind) is not NumpyType or type(data) not in (bytes, str) or len(data) > 8:
        raise Refused("a numpy number without type or value")
    raw = data if type(data) is bytes else data.encode("latin-1")
    found: float | int | bool = np.frombuffer(raw, f"<{kind.code}", 1)[0].item()
    return found


def is_versions(versions: Any, budget: Budget) -> bool:
    """Whether these are the versions of a state dict's layers."""
    if type(versions) not in (dict, OrderedDict):
        return False
    layers = budget.copied(versions).values()
    return all(
        type(layer) is dict and list(budget.copied(layer)) == ["version"] and type(layer["version"]) is int
        for layer in layers
    )


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
    "torch.Tensor": nothing,
    "torch.nn.parameter.Parameter": nothing,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": typed_tensor,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda _, data, *__: data,
    "torch._tensor._rebuild_from_type_v2": with_attributes,
    "numpy.dtype": numpy_type,
    "numpy.core.multiarray.scalar": numpy_number,
    "numpy._core.multiarray.scalar": numpy_number,
}
NAMES: dict[tuple[str, ...], Name] = {tuple(text.rsplit(".", 1)): Name(text, make) for text, make in MAKERS.items()}
