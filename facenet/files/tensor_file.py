"""Files of torch.save, read without running anything in them, in memory that follows from their size; `plain_pickle` says what they hold.

Two layouts: a zip file with a pickle and a member for each storage, and the one before torch 1.6, pickles one after another with the storages behind
them. TorchScript archives and the layout before that, a tar file, hold code or are unpacked to disk: they are refused.
"""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from facenet.errors import shown
from facenet.files.pickled_names import Storage
from facenet.files.pickled_values import Refused
from facenet.files.plain_pickle import Machine

ZIP, LOCAL_HEADER = b"PK\x03\x04", 30
MOST_MEMBERS = 1 << 17
RATIO = 4  # of all members uncompressed to the file: weights shrink by a tenth; torch.save does not compress at all
OVERLAP, OVERLAP_BYTES = 8, 1 << 26  # tensors that share or repeat their numbers, as torch.save keeps them
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def load(path: Path) -> Any:
    """The content on the CPU: tensors, plain values, and lists and dicts of them. Raises Refused with one line, and OSError."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(ZIP))
            file.seek(0)
            return Archive(file).load() if beginning == ZIP else Stream(file.read()).load()
    except Refused:
        raise
    except Exception as error:  # damage surfaces as almost any type: IndexError, KeyError, struct.error, ...
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a place before the file's beginning
            raise
        raise Refused(shown(f"{type(error).__name__}: {error}".split("\n")[0])[:200]) from error


def most_bytes(size: int) -> int:
    return OVERLAP * size + OVERLAP_BYTES


def bytes_in(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.numpy())  # type: ignore[arg-type]  # its types say that it is a buffer from Python 3.12 on


class Archive:
    """The zip layout."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.zip = zipfile.ZipFile(file)
        members = self.zip.infolist()
        self.members = {member.filename: member for member in members}
        self.stored: dict[str, torch.UntypedStorage] = {}
        if len(members) > MOST_MEMBERS or len(self.members) < len(members):
            raise Refused(
                f"more than {MOST_MEMBERS} members" if len(members) > MOST_MEMBERS else "two members of one name"
            )
        unpacked = sum(member.file_size for member in members)
        if unpacked > RATIO * self.size or any(member.compress_type not in TAKEN for member in members):
            raise Refused(
                f"{self.size} bytes that unpack to {unpacked:,}; torch.save does not compress: load and save it again"
            )

    def load(self) -> Any:
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("a zip file, but not of torch.save")
        self.folder = pickles[0].removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.members:
            raise Refused("a TorchScript archive, which holds code; save the state_dict() of the network")
        if f"{self.folder}byteorder" in self.members and self.bytes_of("byteorder") != b"little":
            raise Refused("written by a machine of the other byte order; save it on this one")
        return Machine(self.bytes_of("data.pkl"), 0, self.storage, most_bytes(self.size)).run()

    def storage(self, dtype: torch.dtype, key: Any, numel: int, _: Any) -> Storage:
        name = str(key)
        if name not in self.stored:
            raw = torch.empty(self.members[f"{self.folder}data/{name}"].file_size, dtype=torch.uint8)
            self.read(f"data/{name}", bytes_in(raw))
            self.stored[name] = raw.untyped_storage()
        if numel * dtype.itemsize > self.stored[name].nbytes():
            raise Refused(f"storage {shown(name)} is shorter than its {numel} numbers")
        return Storage(self.stored[name], dtype, numel)

    def bytes_of(self, name: str) -> bytes:
        data = bytearray(self.members[self.folder + name].file_size)
        self.read(name, memoryview(data))
        return bytes(data)

    def read(self, name: str, into: memoryview) -> None:
        """A member's bytes, straight into their place where they are not compressed: zipfile would copy them twice and sum them up."""
        member = self.members[self.folder + name]
        if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & ENCRYPTED:
            self.file.seek(member.header_offset)
            header = self.file.read(LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            self.file.seek(lengths, os.SEEK_CUR)
            count = self.file.readinto(into) if into.nbytes else 0
            whole = header.startswith(ZIP) and member.compress_size == member.file_size == count
        else:
            with self.zip.open(member) as unpacked:
                data = unpacked.read(into.nbytes)
            if whole := len(data) == into.nbytes:
                into[:] = data
        if not whole:
            raise Refused(f"{shown(member.filename)} is cut")


class Stream:
    """The layout before torch 1.6: `data` holds five pickles (a mark, a version, the machine, the content, the keys of the storages in their order),
    then of each storage the count in 8 bytes and its numbers."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.bytes_left = data, 0, len(data)
        self.stored: dict[str, Storage] = {}

    def load(self) -> Any:
        if self.pickle() != MAGIC or self.pickle() != PROTOCOL:
            raise Refused("no file of torch.save")
        if not self.pickle()["little_endian"]:
            raise Refused("written by a machine of the other byte order; save it on this one")
        machine = Machine(self.data, self.at, self.storage, most_bytes(len(self.data)))
        content, self.at = machine.run(), machine.at
        keys = [str(key) for key in self.pickle()]
        if len(keys) != len(self.stored) or set(keys) != set(self.stored):
            raise Refused("its storages are not those that its tensors need")
        for key in keys:
            self.fill(self.stored[key])
        return content

    def pickle(self) -> Any:
        machine = Machine(self.data, self.at)
        content, self.at = machine.run(), machine.at
        return content

    def storage(self, dtype: torch.dtype, key: Any, numel: int, view: Any) -> Storage:
        key = str(key)  # numbers can be chosen so that a dict looks at each of them
        if key not in self.stored:
            self.bytes_left -= numel * dtype.itemsize
            if self.bytes_left < 0:
                raise Refused("it is cut, or its storages are larger than the file")
            self.stored[key] = Storage(torch.empty(numel, dtype=dtype).untyped_storage(), dtype, numel)
        whole = self.stored[key]
        if dtype != whole.dtype or numel != whole.numel:
            raise Refused("a storage of two sizes")
        if view is None:
            return whole
        _, start, count = view
        if type(start) is not int or type(count) is not int or not 0 <= start <= start + count <= numel:
            raise Refused("a part of a storage beyond its end")
        return Storage(whole.stored, dtype, count, start)

    def fill(self, storage: Storage) -> None:
        end = self.at + 8 + storage.stored.nbytes()
        if int.from_bytes(self.data[self.at : self.at + 8], "little") != storage.numel or end > len(self.data):
            raise Refused("it is cut, or a storage has another size than its tensors need")
        if storage.numel:
            bytes_in(torch.empty(0, dtype=torch.uint8).set_(storage.stored))[:] = memoryview(self.data)[
                self.at + 8 : end
            ]
        self.at = end


TAKEN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 1
