"""Where shards are, and how their bytes come: files, and http(s) read by urllib.

Nothing here starts a program. The webdataset library opens `pipe:` in a shell, and http, gs, hf, sftp and others by running curl or gsutil; only its
expansion of patterns is used, and every other kind of address is refused.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from facenet.errors import UserError, shown
from facenet.privacy.addresses import HIDDEN, masked_address, masked_in, restored_address

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
REMOTE = ("http://", "https://")
TIMEOUT_S = 60.0  # of each wait, of an answer's head, and of a part that is read besides what SLOWEST allows
SLOWEST = 1 << 16  # bytes a second; below that a line is one that drips, which no wait of its own would end
WAITS_S = (1.0, 4.0)  # before the second and the third try
NEAR = 1 << 20  # bytes that are read and dropped rather than asked for anew
PASSING = (408, 429)  # what a server says that may answer later, besides 5xx


def webdataset() -> ModuleType:
    """The library, or a UserError that names the extra."""
    try:
        import webdataset
    except ImportError as error:
        raise UserError(f"data=shards: {error}; it comes with an extra: pip install 'facenet[shards]'") from error
    module: ModuleType = webdataset
    return module


def is_remote(address: str) -> bool:
    return address.startswith(REMOTE)


def check_address(address: str) -> str:
    """The address, its ~ replaced by the home. UserError for one that is neither a path nor http(s)."""
    scheme = SCHEME.match(address)
    if scheme is None:
        return os.path.expanduser(address)
    if not is_remote(address):
        danger = (
            " runs a shell command, which a config may not" if scheme[0].lower() == "pipe:" else " is not read here"
        )
        raise UserError(
            f"data.shards: {shown(scheme[0])}{danger}; use paths or http(s) addresses: object stores serve them, and mount as folders"
        )
    return restored_address(address, "data.shards") if HIDDEN in address else address


def expand(pattern: str) -> list[str]:
    """The addresses of `casia-{000000..000099}.tar`; several patterns are joined by `::`. UserError where there is nothing to expand."""
    for part in pattern.split("::"):
        check_address(part)
    if not set("{}$") & set(pattern):
        return [check_address(part) for part in pattern.split("::")]
    try:
        return [check_address(address) for address in webdataset().shardlists.expand_urls(pattern)]
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"data.shards={tell_address(pattern)}: {error}; write it like casia-{{000000..000099}}.tar"
        ) from error


def tell_address(address: str) -> str:
    """An address in a message or a name: without what could be secret in it."""
    return shown(masked_address(address))


def split_query(address: str) -> tuple[str, str]:
    """An address up to its query, which may be the signature that lets one read, and the query with its question mark."""
    at = address.find("?") if is_remote(address) else -1
    return (address, "") if at < 0 else (address[:at], address[at:])


def name_of(address: str) -> str:
    """Returns the name of the file or folder at an address."""
    return split_query(address)[0].rstrip("/").rpartition("/")[2]


def folder_of(address: str) -> str:
    return beside(address, "")


def as_folder(address: str) -> str:
    path, query = split_query(address)
    return path.rstrip("/") + "/" + query


def beside(address: str, name: str) -> str:
    """The address of `name` in the folder of `address`, which a signature of the folder opens as well."""
    path, query = split_query(address)
    return path[: path.rfind("/") + 1] + name + query


class LocalShard:
    """A file. `size`: its bytes."""

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self.file = os.open(address, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self.size: int | None = os.fstat(self.file).st_size
        except OSError as error:
            raise unread(address, error.strerror or str(error)) from error

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes only where the file ends."""
        try:
            return os.pread(self.file, size, offset)
        except OSError as error:
            raise unread(self.address, error.strerror or str(error)) from error

    def close(self) -> None:
        os.close(self.file)


class RemoteShard:
    """One connection, read forwards; other places are asked for by `Range`, and read up to where a server does not know that. `size`: the bytes of
    the whole, known after the first read where the server tells it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.at = 0
        self.size: int | None = None
        self.response: http.client.HTTPResponse | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes only where the file ends; a broken connection is opened again."""
        for wait in (*WAITS_S, None):
            try:
                return self._read(offset, size)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in PASSING
                if wait is None or final or isinstance(error, ValueError):
                    raise unread(self.address, masked_in(str(error), self.address) or type(error).__name__) from error
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _read(self, offset: int, size: int) -> bytes:
        if self.response is None or not 0 <= offset - self.at <= NEAR:
            self._open(offset)
        while self.at < offset:
            if not self._next(min(NEAR, offset - self.at)):
                return b""
        return self._next(size)

    def _next(self, size: int) -> bytes:
        assert self.response is not None
        data = in_time(self.response, size)
        self.at += len(data)
        if len(data) < size and self.size is not None and self.at < self.size:
            raise ConnectionError(f"the connection ended after {self.at} of {self.size} bytes")
        return data

    def _open(self, offset: int) -> None:
        self.close()
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response: http.client.HTTPResponse = opener().open(request(self.address, headers), timeout=TIMEOUT_S)
        self.response, self.at = response, offset if response.status == 206 else 0
        whole = response.headers.get("Content-Range", "").rpartition("/")[2] if self.at else ""
        whole = whole or ("" if self.at else response.headers.get("Content-Length", ""))
        self.size = int(whole) if whole.isdecimal() else self.size

    def close(self) -> None:
        if self.response is not None:
            self.response.close()
        self.response = None


def in_time(response: http.client.HTTPResponse, size: int) -> bytes:
    """Fewer bytes only where the answer ends. Raises TimeoutError where they come too slowly."""
    parts, left, last_s = [], size, time.monotonic() + TIMEOUT_S + size / SLOWEST
    while left and (part := response.read1(left)):
        parts.append(part)
        left -= len(part)
        if left and time.monotonic() > last_s:
            raise TimeoutError(f"{size - left} of {size} bytes came in {TIMEOUT_S + size / SLOWEST:.0f} s")
    return parts[0] if len(parts) == 1 else b"".join(parts)


class HeadInTime(http.client.HTTPConnection):
    """Ends the wait for an answer's head, which may come byte by byte."""

    def getresponse(self) -> http.client.HTTPResponse:
        self.late = False
        timer = threading.Timer(TIMEOUT_S, self.end)
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
            timer.join()
        if self.late:  # what came of the head passes for a whole one
            raise TimeoutError(f"no answer in {TIMEOUT_S:.0f} s")
        return response

    def end(self) -> None:
        self.late = True
        with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
            self.sock.shutdown(socket.SHUT_RDWR)


class SafeHeadInTime(HeadInTime, http.client.HTTPSConnection):
    pass


class Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(HeadInTime, request)


class Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(SafeHeadInTime, request)


class Shard(contextlib.AbstractContextManager["Shard"]):
    """A shard that is open. `size`: bytes that it must have, where they are known."""

    def __init__(self, address: str, size: int | None = None) -> None:
        self.address, self.expected = address, size
        self.source: LocalShard | RemoteShard = RemoteShard(address) if is_remote(address) else LocalShard(address)

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes only at the end. UserError where it cannot be read, or is another file than was expected."""
        data = self.source.read(offset, size)
        if None not in (self.expected, self.source.size) and self.source.size != self.expected:
            raise UserError(
                f"{tell_address(self.address)}: has {self.source.size} bytes, the index says {self.expected}; "
                "it is cut or another file, copy it again"
            )
        return data

    def __exit__(self, *_: object) -> None:
        self.source.close()


def request(address: str, headers: dict[str, str]) -> urllib.request.Request:
    """A user and password in the address are sent as such, to this server and to none that it redirects to."""
    scheme, place, path, query, _ = urllib.parse.urlsplit(address)
    user, at, host = place.rpartition("@")
    made = urllib.request.Request(urllib.parse.urlunsplit((scheme, host, path, query, "")), headers=headers)
    if at:
        name, _, password = user.partition(":")
        plain = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
        made.add_unredirected_header("Authorization", f"Basic {base64.b64encode(plain.encode()).decode()}")
    return made


def opener() -> urllib.request.OpenerDirector:
    """http and https, through the environment's proxies; a redirect to anything else is an error, where urllib's own would follow ftp."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Http(),
        Https(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        made.add_handler(handler)
    return made


def unread(address: str, reason: str) -> UserError:
    return UserError(f"{tell_address(address)}: cannot be read ({shown(reason)}); put it there, or correct data.shards")


def existing(addresses: Sequence[str]) -> list[tuple[int, int]]:
    """(bytes, modification time in ns) of each file; UserError that counts and names those that are missing."""
    states, missing = [], []
    for address in addresses:
        try:
            state = os.stat(address)
            states.append((state.st_size, state.st_mtime_ns))
        except OSError:
            missing.append(address)
    if missing:
        raise UserError(
            f"data.shards: {len(missing)} of {len(addresses)} shards are missing, first {tell_address(missing[0])}; "
            "copy them there, or correct the pattern"
        )
    return states


def tars_in(folder: str) -> list[str]:
    """The .tar files of a folder, by name."""
    return [str(path) for path in sorted(Path(folder).glob("*.tar"))] if os.path.isdir(folder) else []
