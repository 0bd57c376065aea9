"""The verification sets of insightface, lfw.bin and its kind: a pickle of (encoded images, whether each two of them are one identity).

A pickle may call whatever it names. Here it may name nothing: the few names that such files hold for plain values (numpy's bool, its arrays of bytes,
bytes in an old protocol) lead to functions of this file, every other one is refused, so that reading runs no code of the file's.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facenet.data.files import contents
from facenet.data.files.contents import Contents
from facenet.data.identities import Indices, Pixels, decode_image, hex_digest
from facenet.errors import UserError
from facenet.files.home import expand_home
from facenet.files.reading import regular

MOST_STEPS = 1 << 23  # three for an image and its answer; the largest set of the field has 24,000 images
NEVER = {
    *("EMPTY_DICT", "DICT", "EMPTY_SET", "ADDITEMS", "FROZENSET", "LONG4"),
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"),
}
CORES = ("numpy.core", "numpy._core")
MOST_DIMENSIONS = 4
NUMBERS = dict.fromkeys(("u1", "B", "b1", "?", "i1", "b"), 1)  # bytes, by type
NUMBERS |= {f"{kind}{size}": size for kind in "iu" for size in (2, 4, 8)}
SCALAR = {(f"{core}.multiarray", "scalar") for core in CORES}
ARRAY = {(f"{core}.multiarray", "_reconstruct") for core in CORES}
BUFFER = {(f"{core}.numeric", "_frombuffer") for core in CORES}  # of protocol 5


class BinFaces:
    """The different images of a set, each with an identity of its own: the file names none. `left`, `right` and `same` (P,) are its pairs."""

    def __init__(self, path: str | Path) -> None:
        self.path = expand_home(path)
        images, self.same = read_bin(self.path)
        number: dict[bytes, int] = {}
        of_pairs = np.array([number.setdefault(image, len(number)) for image in images], np.int64)
        self.left, self.right = of_pairs[::2], of_pairs[1::2]
        self.images = list(number)
        self.labels: Indices = np.arange(len(self.images), dtype=np.int64)
        self.identities = tuple(f"{self.path.name}#{index}" for index in range(len(self.images)))
        self.fingerprint = hex_digest([*self.images, of_pairs.astype("<i8").tobytes(), self.same.tobytes()])

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.identities[index]

    def load(self, index: int) -> Pixels:
        return decode_image(self.images[index], self.name(index))

    def contents(self, index: int) -> Contents:
        return contents.of_bytes(self.images[index])

    def stamp(self) -> str:
        return self.fingerprint


def read_bin(path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    """(2P encoded images, P answers). UserError for a file that is missing, damaged or holds anything else."""
    try:
        with open(path, "rb", opener=regular) as file:
            data = file.read()
    except (OSError, ValueError) as error:  # a zero byte in its name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read ({reason}); expected a verification set of insightface, as lfw.bin"
        ) from error
    try:
        check_size(data)
        content = PlainValues(data).load()
    except Refused as error:
        raise UserError(f"{path}: {error}; it is no verification set, and nothing of it was run") from error
    except Exception as error:  # what unpickling raises depends on the damage: any error there is
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); copy it again") from error
    if isinstance(content, (tuple, list)) and len(content) == 2:
        content = [_listed(part) for part in content]
    if not (
        isinstance(content, (tuple, list)) and len(content) == 2 and all(isinstance(part, list) for part in content)
    ):
        raise UserError(f"{path}: expected a pair of lists (images, same), got {type(content).__name__}")
    images, same = content
    for index, image in enumerate(images):
        if type(image) is _Array:
            images[index] = image = _bytes_of(image, f"{path}: image {index}")
        if type(image) is not bytes:
            raise UserError(f"{path}: image {index} is {type(image).__name__}, expected bytes")
    for index, answer in enumerate(same):
        if type(answer) not in (bool, int, float) or answer not in (0, 1):
            kind = "an array" if type(answer) is _Array else type(answer).__name__
            raise UserError(f"{path}: pair {index} is {kind}, expected true or false")
    if not same or len(images) != 2 * len(same):
        raise UserError(
            f"{path}: {len(images)} images for {len(same)} pairs, expected two each; it is cut, copy it again"
        )
    return images, np.array(same, np.bool_)


def check_size(data: bytes) -> None:
    """Refuses, before pickle in C makes anything, what a few bytes could make large or slow: a memo of billions of places, sets and dicts (whose keys
    may be lists that share lists, each looked at anew), numbers of millions of digits, and more steps than any set needs."""
    count = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(data), start=1):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise Refused(f"it puts value {count} at place {argument}")
        if operation.name in NEVER:
            raise Refused(f"it holds {operation.name.lower().replace('_', ' ')}")
        if count > MOST_STEPS:
            raise Refused(f"more than {MOST_STEPS:,} steps")
    if count == 0:
        raise EOFError


class Refused(pickle.UnpicklingError):
    """A name that plain values do not need."""


class PlainValues(pickle.Unpickler):
    """Lists, tuples, bytes, text, numbers, numpy's bools and whole numbers, which become Python's, and arrays of these."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.encoded_left = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in SCALAR:
            return lambda dtype, data: _number(dtype, data)
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _Dtype(code)
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # of which `_reconstruct` makes one
        if (module, name) in ARRAY:
            return lambda *_: _Array()
        if (module, name) in BUFFER:
            return lambda data, dtype, shape, _: _Array().filled(shape, dtype, self.copied(data))
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: self.encoded(text)
        if name == "bytes" and module in ("builtins", "__builtin__"):
            return lambda: b""
        raise Refused(f"it names {module}.{name}")

    def encoded(self, text: Any) -> bytes:
        """Bytes as protocol 2 writes them."""
        if not isinstance(text, str):
            raise Refused("it encodes what is no text")
        self.spend(len(text))
        return text.encode("latin1")

    def copied(self, data: Any) -> bytes:
        """Bytes out of what protocol 5 keeps an array in."""
        if isinstance(data, bytes):
            return data
        if not isinstance(data, bytearray):
            raise Refused("it holds an array without numbers")
        self.spend(len(data))
        return bytes(data)

    def spend(self, length: int) -> None:
        """Of a part that is about to be made in another form, none more than once: a file may name the same long one again and again."""
        self.encoded_left -= length
        if self.encoded_left < 0:
            raise Refused("it encodes one text again and again")

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it names an object elsewhere")


class _Dtype:
    """Stands for numpy's type object while numbers are read."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: a bool has none."""


class _Array:
    """Stands for a numpy array while its bytes are read, which it does not copy."""

    __slots__ = ("data", "shape", "size")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.data = b""
        self.size = 1  # bytes of a number

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("it holds an array without numbers")
        _, shape, dtype, _, data = state
        self.filled(shape, dtype, data)

    def filled(self, shape: Any, dtype: Any, data: Any) -> _Array:
        code, size = getattr(dtype, "code", None), _size_of(dtype)
        if size is None:
            raise Refused(
                f"it holds an array of type {code!r}; encoded images are read as uint8 arrays, answers as bools or whole numbers, all else as lists"
            )
        if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS or any(type(size) is not int for size in shape):
            raise Refused("it holds an array without a shape")
        if type(data) is not bytes or any(each < 0 for each in shape) or math.prod(shape) * size != len(data):
            raise Refused(f"it holds an array of shape {shape} with other numbers than that")
        self.shape, self.data, self.size = shape, data, size
        return self

    def numbers(self) -> list[int]:
        """Of answers, which stand in a row or a column; none of any other shape. In another order of bytes they are no answers."""
        in_line = max(self.shape, default=0) == math.prod(self.shape) <= MOST_STEPS
        return [*np.frombuffer(self.data, f"<i{self.size}").tolist()] if in_line else []


def _bytes_of(array: _Array, where: str) -> bytes:
    if array.size != 1 or max(array.shape, default=0) != len(array.data):
        raise UserError(
            f"{where} is an array of pixels of shape {array.shape}, which does not say the order of its colours; "
            "encode each image as PNG or JPEG and pickle the bytes"
        )
    return array.data


def _listed(part: Any) -> Any:
    """Returns what a list of this array or tuple would hold."""
    return list(part) if type(part) is tuple else part.numbers() if type(part) is _Array else part


def _size_of(dtype: Any) -> int | None:
    """Bytes of a bool or a whole number; None for all else."""
    code = getattr(dtype, "code", None)
    return NUMBERS.get(code.decode("ascii", "replace") if isinstance(code, bytes) else str(code))


def _number(dtype: Any, data: Any) -> int:
    if type(data) is not bytes or len(data) != _size_of(dtype):
        raise Refused(f"it holds a number of type {getattr(dtype, 'code', None)!r}")
    return int.from_bytes(data, "little")
