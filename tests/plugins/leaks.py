"""Fails a test that leaves something behind for the next one: a process, a thread, a port, an open file, a file where the tests were started or among
the temporary ones, and what plugins/put_back.py reads: settings of the process, of Python and of libraries, modules and what stands in them. What a
fixture of a wider scope makes belongs to that fixture, and is looked for when its file of tests ends. The states of random generators are put back.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import put_back
import pytest
import warm

MARK = "FACENET_TEST_PROCESS"  # in the environment of all that this process starts
GRACE_S = 5.0  # for what is about to end
START = os.getcwd()  # most often the checkout, which git keeps silent about where it ignores a name
LIBRARIES = (
    "tqdm_monitor",  # lives on after the first bar
    "MlflowLocalArtifactRepository",  # MLflow's executors, which it keeps
    "asyncio_",  # executors that loops of libraries keep
    "ThreadPoolExecutor-albumentations",
)
DATABASES = (".db", ".db-wal", ".db-shm", ".db-journal")  # MLflow keeps its engines as long as the process lives
SCOPES = ("function", "class", "module", "package", "session")


def processes() -> set[str]:
    """Of this machine, but for our warm parent and this process."""
    known = {str(parent.process.pid) for parent in warm.parents if parent.process is not None}
    return {name for name in os.listdir("/proc") if name.isdigit()} - known if sys.platform == "linux" else set()


def ours(number: str) -> bool:
    """Whether this process started it, or something that it started did; also one that ended and was not waited for."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if warm.__file__.encode() in command and int(status[1]) not in (1, os.getpid()):
            return False  # the warm parent of a process that is left itself
        if int(status[1]) == os.getpid():
            return True
        environment = Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={os.getpid()}".encode() in environment.split(b"\0")


def pytest_keyboard_interrupt() -> None:
    """A test that was stopped could put nothing back: its failure came as a page of pytest's own calls."""
    watchers.clear()


def pytest_unconfigure() -> None:
    """What tests left behind and were told of, and what a run that was stopped was amid, does not outlive the run."""
    for number in filter(ours, processes()):
        with contextlib.suppress(OSError):
            os.kill(int(number), signal.SIGTERM)


def shown(number: str) -> str:
    try:
        line = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        line = ""
    return f"{number} {line[:200] or '(ended, not waited for)'}"


def threads() -> dict[int, str]:
    return {
        thread.ident: thread.name
        for thread in threading.enumerate()
        if thread.ident is not None and not thread.name.startswith(LIBRARIES)
    }


def descriptors() -> dict[int, str]:
    """Open ones of this process and what they are, but for that to our warm parent; sockets that wait for connections with their port."""
    found, known = {}, {parent.talk.fileno() for parent in warm.parents}
    for number in map(int, os.listdir("/proc/self/fd")) if sys.platform == "linux" else ():
        if number in known:
            continue
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)")
            if found[number].startswith("socket:"):
                found[number] = port(number) or found[number]
        except OSError:
            found.pop(number, None)
    return found


def port(number: int) -> str:
    """Each socket is asked itself: the kernel's list of all takes 10 ms, three times a test."""
    with socket.socket(fileno=os.dup(number)) as held:
        waits = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return (
            f"listening port {held.getsockname()[1]}"
            if waits and held.family in (socket.AF_INET, socket.AF_INET6)
            else ""
        )


def files() -> set[str]:
    """Where the tests were started, but for what tools keep there, and the temporary ones of this process."""
    kept = {f"{START}/{name}" for name in os.listdir(START) if not name.startswith((".", "__pycache__"))}
    return kept | {f"{put_back.TEMPORARY}/{name}" for name in os.listdir(put_back.TEMPORARY)}


class Watcher:
    """What was there before a test, or another scope, and what wider fixtures have made since.

    Modules are not looked at before each test again: what has changed in them since the last one is a wider fixture's, which says so.
    """

    def __init__(self, scope: str, modules: put_back.Modules | None = None) -> None:
        self.scope, self.modules = scope, modules or put_back.Modules()
        self.whole = True
        self.processes, self.threads, self.descriptors = processes(), threads(), descriptors()
        self.settings, self.files = put_back.settings(), files()

    def absorb(self, then: Watcher) -> None:
        """Count all that has come since as not the test's."""
        now = Watcher(self.scope, self.modules)
        self.processes |= now.processes - then.processes
        self.threads |= dict(now.threads.items() - then.threads.items())
        self.descriptors |= dict(now.descriptors.items() - then.descriptors.items())
        self.files |= now.files - then.files
        for name in now.settings.keys() | then.settings.keys():
            if now.settings.get(name) != then.settings.get(name):
                self.settings[name] = now.settings.get(name)
        self.modules.absorb(then.modules)

    def left(self) -> list[str]:
        numbers = {number for number in processes() - self.processes if ours(number)}
        names = [name for key, name in threads().items() if key not in self.threads]
        fresh = {name for number, name in descriptors().items() if self.descriptors.get(number) != name}
        return [
            *(f"process {shown(number)}" for number in sorted(numbers)),
            *(f"thread {name}" for name in names),
            *(f"open {name}" for name in sorted(fresh) if name.startswith("listening") or self.counts(name)),
            *(f"file {name}" for name in sorted(files() - self.files) if name.startswith(START) or self.whole),
            *put_back.changed(self.settings),
            *self.modules.changed(),
        ]

    def counts(self, name: str) -> bool:
        return self.whole and not (name.endswith(DATABASES) or "/site-packages/" in name)

    def ended(self) -> None:
        """Fails where something is left, once what is about to end has."""
        end = time.monotonic() + GRACE_S
        while (left := self.left()) and time.monotonic() < end:
            gc.collect()
            time.sleep(0.02)
        if left:
            if put_back.directory() == put_back.REMOVED:
                os.chdir(START)  # pytest ends where there is none
            for wider in watchers:  # told once
                wider.absorb(self)
            self.modules.renew()
            pytest.fail("left behind: " + "; ".join(left), pytrace=False)


watchers: list[Watcher] = []  # of the file and of the test that runs


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Of a run that was stopped within a file: its fixtures end without a test that could fail."""
    watchers.clear()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    wider = SCOPES.index(fixturedef.scope)
    narrower = [watcher for watcher in watchers if SCOPES.index(watcher.scope) < wider]
    then = Watcher(fixturedef.scope) if narrower else None
    try:
        return (yield)
    finally:
        for watcher in narrower:
            watcher.absorb(then)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_fixtures() -> Iterator[put_back.Modules]:
    os.environ[MARK] = str(os.getpid())
    watchers.append(Watcher("module"))
    yield put_back.Modules()
    if watchers:
        watchers.pop().ended()


@pytest.fixture(autouse=True)
def nothing_left_behind(nothing_left_by_fixtures: put_back.Modules, request: pytest.FixtureRequest) -> Iterator[None]:
    os.environ[MARK] = str(os.getpid())
    states = put_back.Random()
    watchers.append(Watcher("function", nothing_left_by_fixtures))
    if any(request.node.get_closest_marker(name) for name in ("slow", "nightly")):
        for watcher in watchers:  # whole commands, of which some are killed: they leave open and temporary files
            watcher.whole = False
    yield
    states.put_back()
    if watchers:
        watchers.pop().ended()
