"""Fails a test that leaves something behind for the next one: a process, a thread, a listening port, an environment variable, a signal's handler,
a working directory, a file where the tests were started, a process group or a setting of torch. What a fixture of a wider scope makes belongs to
that fixture.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm

MARK = "FACENET_TEST_PROCESS"  # in the environment of all that this process starts
GRACE_S = 5.0  # for what is about to end
START = os.getcwd()  # most often the checkout, which git keeps silent about where it ignores a name
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LIBRARIES = (
    "tqdm_monitor",  # lives on after the first bar
    "MlflowLocalArtifactRepository",  # MLflow's executors, which it keeps
    "asyncio_",  # executors that loops of libraries keep
    "ThreadPoolExecutor-albumentations",
)
VARIABLES = (
    *(MARK, "PYTEST_CURRENT_TEST", "COVERAGE_PROCESS_CONFIG"),
    *("TORCHINDUCTOR_CACHE_DIR", "LD_LIBRARY_PATH"),  # by torch and cv2 when they are imported
    "FACENET_SECRETS",  # what facenet.privacy.addresses hides, as long as the process lives
    # By facenet.tracking.store when a process first opens a store.
    *("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
)


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


def listening() -> set[str]:
    """Sockets of this process that wait for connections. Each is asked itself: the kernel's list of all takes 10 ms, three times a test."""
    found = set()
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(number))) as held:
                waits = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if waits and held.family in (socket.AF_INET, socket.AF_INET6):
                    found.add(f"port {held.getsockname()[1]}")
        except OSError:
            continue
    return found


def files() -> set[str]:
    """Where the tests were started, but for what tools keep there."""
    return {name for name in os.listdir(START) if not name.startswith((".", "__pycache__"))}


def settings() -> dict[str, Any]:
    """What a test may change and must put back."""
    found: dict[str, Any] = {f"variable {name}": value for name, value in os.environ.items() if name not in VARIABLES}
    found |= {f"handler of {number.name}": signal.getsignal(number) for number in SIGNALS}
    root = logging.getLogger()
    handlers = [repr(handler) for handler in root.handlers if not type(handler).__module__.startswith("_pytest")]
    found |= {
        "working directory": os.getcwd(),
        "level of the root logger": root.level,
        "handlers of the root logger": handlers,
    }
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "distributed"):
        found |= {
            "torch's default dtype": torch.get_default_dtype(),
            "torch's threads": torch.get_num_threads(),
            "torch's gradients": torch.is_grad_enabled(),
            "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "a process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
        }
    return found


class Watcher:
    """What was there before a test, and what wider fixtures have made since."""

    def __init__(self) -> None:
        self.before = (processes(), threads(), listening(), settings(), files())

    def absorb(self) -> Callable[[], None]:
        """Call what it returns to count all that has come since as not the test's."""
        then = (processes(), threads(), listening(), settings(), files())

        def since() -> None:
            now = (processes(), threads(), listening(), settings(), files())
            self.before[0].update(now[0] - then[0])
            self.before[1].update({key: now[1][key] for key in now[1].keys() - then[1].keys()})
            self.before[2].update(now[2] - then[2])
            changed = {name for name in now[3].keys() | then[3].keys() if now[3].get(name) != then[3].get(name)}
            for name in changed:
                self.before[3][name] = now[3].get(name)
            self.before[4].update(now[4] - then[4])

        return since

    def left(self) -> list[str]:
        numbers = {number for number in processes() - self.before[0] if ours(number)}
        names = [name for key, name in threads().items() if key not in self.before[1]]
        before, now = self.before[3], settings()
        fresh = {"torch's", "a process"}  # there once torch is imported
        changed = [
            f"{name}: {before.get(name)!r}, now {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
            and not (name not in before and name.startswith(tuple(fresh)) and now[name] is not True)
        ]
        return [
            *(f"process {shown(number)}" for number in sorted(numbers)),
            *(f"thread {name}" for name in names),
            *(f"listening {name}" for name in sorted(listening() - self.before[2])),
            *(f"file {name} in {START}" for name in sorted(files() - self.before[4])),
            *changed,
        ]


watchers: list[Watcher] = []  # of the test that runs


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Any:
    if fixturedef.scope == "function" or not watchers:
        return (yield)
    since = watchers[-1].absorb()
    try:
        return (yield)
    finally:
        since()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    os.environ[MARK] = str(os.getpid())
    watchers.append(Watcher())
    yield
    if not watchers:
        return
    watcher, end = watchers.pop(), time.monotonic() + GRACE_S
    while (left := watcher.left()) and time.monotonic() < end:
        time.sleep(0.02)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
