"""What a test may change in its own process and must put back, read in less than half a millisecond: settings of the process, of Python, of logging
and of libraries, the modules that are imported, and what stands in modules of ours.
"""

from __future__ import annotations

import ctypes
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GET_SUBREAPER = 37  # prctl's
REMOVED = "removed"  # a working directory that is no more
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
VARIABLES = (
    *("FACENET_TEST_PROCESS", "PYTEST_CURRENT_TEST", "COVERAGE_PROCESS_CONFIG"),
    *("TORCHINDUCTOR_CACHE_DIR", "LD_LIBRARY_PATH"),  # by torch and cv2 when they are imported
    "FACENET_SECRETS",  # what facenet.privacy.addresses hides, as long as the process lives
    # By facenet.tracking.store when a process first opens a store.
    *("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "_MLFLOW_TELEMETRY_SESSION_ID",  # by MLflow when its first client is made
)
# What of a library is so when it has just been imported; anything else that comes with it is taken as its own.
LIBRARIES = (
    "trusted packages",
    "torch's ",
    "NumPy's ",
    "Pillow",
    "matplotlib's ",
    "MLflow's ",
    "Hydra",
    "a process group",
)
AT_IMPORT = {
    "torch's default dtype": "torch.float32",
    "torch's gradients": True,
    "torch's deterministic algorithms": False,
    "a process group": False,
    "trusted packages": {},
    "Hydra": False,
    "Pillow takes cut files": False,
}
# Of Python's own modules, those whose functions a test may want to replace.
PYTHON = (
    "builtins",
    "io",
    "json",
    "os",
    "os.path",
    "random",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
)
TEMPORARY = str(Path(tempfile.gettempdir()).resolve())  # of this process alone, by conftest.py
libc = ctypes.CDLL(None, use_errno=True)


found: dict[str, tuple[int, list[str]]] = {}


def starting_with(beginning: str, names: dict[str, Any]) -> list[str]:
    """Looked for where their number has changed: thousands are the same most of the time."""
    if found.get(beginning, (0,))[0] != len(names):
        found[beginning] = len(names), [name for name in names if name.startswith(beginning)]
    return [name for name in found[beginning][1] if name in names]


def directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return REMOVED


def subreaper() -> bool:
    if sys.platform != "linux":
        return False
    value = ctypes.c_int()
    libc.prctl(GET_SUBREAPER, ctypes.byref(value))
    return bool(value.value)


def umask() -> str:
    """Asked of /proc: the call that tells it sets it, for all threads."""
    if sys.platform != "linux":
        return ""
    with open("/proc/self/status", "rb") as file:
        return file.read(200).partition(b"Umask:\t")[2][:4].decode()


def of_process() -> Iterator[tuple[str, Any]]:
    for name, value in os.environ.items():
        if name not in VARIABLES:
            yield f"variable {name}", value
    for number in SIGNALS:
        yield f"handler of {number.name}", signal.getsignal(number)
    yield "blocked signals", signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield "timers", signal.getitimer(signal.ITIMER_REAL)[1]
    yield "working directory", directory()
    yield "umask", umask()
    yield "subreaper", subreaper()
    yield "locale", locale.setlocale(locale.LC_ALL)
    yield "limits", {name: resource.getrlimit(number) for name, number in LIMITS.items()}


def stays(finder: Any) -> bool:
    """Our own of trusted packages, and those of libraries, which come with their import."""
    place = getattr(sys.modules.get(type(finder).__module__), "__file__", None) or ""
    return place.endswith("/files/trusted.py") or "/site-packages/" in place


def of_python() -> Iterator[tuple[str, Any]]:
    yield "sys.path", [*sys.path]
    yield "sys.meta_path", [each for each in sys.meta_path if not stays(each)]
    if (trusted := sys.modules.get("facenet.files.trusted")) is not None:
        yield "trusted packages", {**trusted.finder.packages}
    yield "sys.argv", [*sys.argv]
    for name in (
        "stdin",
        "stdout",
        "stderr",
        "excepthook",
        "displayhook",
        "unraisablehook",
        "__stdout__",
        "__stderr__",
    ):
        value = getattr(sys, name)
        if not getattr(value, "__module__", "").startswith("torch."):  # a process group's, which stays
            yield f"sys.{name}", value
    yield "recursion limit", sys.getrecursionlimit()
    yield "thread switches", sys.getswitchinterval()
    yield "threads' excepthook", threading.excepthook
    yield "trace", (sys.gettrace() is None, threading.gettrace() is None)  # type: ignore[attr-defined]
    yield "garbage collection", (gc.isenabled(), gc.get_threshold())
    yield "sockets' timeout", socket.getdefaulttimeout()
    yield "temporary folder", tempfile.tempdir or os.environ.get("TMPDIR")


def handlers(logger: logging.Logger) -> list[str]:
    return [repr(handler) for handler in logger.handlers if not type(handler).__module__.startswith("_pytest")]


def of_logging() -> Iterator[tuple[str, Any]]:
    """Of the root and of loggers of ours; other packages set up theirs as they are imported."""
    root, known = logging.root, logging.root.manager
    yield "level of the root logger", root.level
    yield "handlers of the root logger", handlers(root)
    yield "logging", (known.disable, logging.raiseExceptions, logging.getLoggerClass(), logging.getLogRecordFactory())
    for name in starting_with("facenet", known.loggerDict):
        if isinstance(logger := known.loggerDict[name], logging.Logger):
            set_up = (logger.level, logger.propagate, logger.disabled, handlers(logger))
            if set_up != (0, True, False, []):
                yield f"logger {name}", set_up


def of_libraries() -> Iterator[tuple[str, Any]]:
    """Of those that are imported."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "distributed"):
        yield "torch's default dtype", str(torch.get_default_dtype())
        yield "torch's default device", str(torch.get_default_device()) if hasattr(torch, "get_default_device") else ""
        yield "torch's threads", torch.get_num_threads()
        yield "torch's gradients", torch.is_grad_enabled()
        yield "torch's autocast", (torch.is_autocast_enabled(), torch.is_anomaly_enabled())
        yield "torch's precision", (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)
        yield "torch's deterministic algorithms", torch.are_deterministic_algorithms_enabled()
        yield "a process group", torch.distributed.is_available() and torch.distributed.is_initialized()
    if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "get_printoptions"):
        yield "NumPy's errors", numpy.geterr()
        yield "NumPy's printing", str(numpy.get_printoptions())
    if (files := sys.modules.get("PIL.ImageFile")) is not None:
        yield "Pillow takes cut files", files.LOAD_TRUNCATED_IMAGES
        yield "Pillow's largest image", sys.modules["PIL.Image"].MAX_IMAGE_PIXELS
    if (plots := sys.modules.get("matplotlib")) is not None and hasattr(plots, "rcParams"):
        yield "matplotlib's rcParams", {name: value for name, value in dict.items(plots.rcParams) if name != "backend"}
    if (figures := sys.modules.get("matplotlib._pylab_helpers")) is not None:
        yield "matplotlib's open figures", [*figures.Gcf.figs]
    if (hydra := sys.modules.get("hydra.core.global_hydra")) is not None:
        yield "Hydra", hydra.GlobalHydra.instance().is_initialized()
    if (uris := sys.modules.get("mlflow.tracking._tracking_service.utils")) is not None:
        yield "MLflow's store", uris._tracking_uri
    if (fluent := sys.modules.get("mlflow.tracking.fluent")) is not None:
        yield "MLflow's runs", len(fluent._active_run_stack.get())


def settings() -> dict[str, Any]:
    return dict([*of_process(), *of_python(), *of_logging(), *of_libraries()])


def changed(before: dict[str, Any]) -> Iterator[str]:
    now = settings()
    for name in sorted(before.keys() | now.keys()):
        imported = name not in before and name.startswith(LIBRARIES)
        was = AT_IMPORT.get(name, now[name]) if imported else before.get(name)
        if was != now.get(name):
            yield f"{name}: {was!r}, now {now.get(name)!r}"


def same(values: list[Any], before: list[Any]) -> bool:
    """By identity, which a list tries first: 10 us for a thousand, a twentieth of what dicts take."""
    try:
        return values == before
    except Exception:  # of arrays, which are not compared by one answer: then one of them is another
        return False


class Modules:
    """The imported modules, and what stands in those whose content a test may replace: Python's and ours."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.all, self.order = sys.modules.copy(), [*sys.modules.values()]
        names = (*starting_with("facenet.", self.all), *PYTHON)
        watched = {name: self.all[name].__dict__ for name in names if self.all.get(name) is not None}
        self.inside = {name: (now, now.copy(), [*now.values()]) for name, now in watched.items()}

    def absorb(self, then: Modules) -> None:
        """Count what has changed since then as there before."""
        for name in sys.modules.keys() | then.all.keys():
            if name not in sys.modules:
                self.all.pop(name, None)
            elif sys.modules[name] is not then.all.get(name):
                self.all[name] = sys.modules[name]
        self.order = [*self.all.values()]
        for name, (now, before, _) in then.inside.items():
            if name in self.inside:
                mine = self.inside[name][1]
                mine.update({key: now.get(key) for key in before if now.get(key) is not before[key]})
                self.inside[name] = (now, mine, [*mine.values()])

    def changed(self) -> list[str]:
        found = []
        fresh = not same([*sys.modules.values()], self.order)
        if fresh:
            found += self.changed_modules()
        for name, (now, before, order) in self.inside.items():
            if not same([*now.values()], order):
                fresh = True
                found += [
                    f"{name}.{key}: {value!r:.80}, now {now.get(key)!r:.80}"
                    for key, value in before.items()
                    if now.get(key) is not value
                ]
        if fresh and not found:  # imports, and what they add
            self.renew()
        return found

    def changed_modules(self) -> Iterator[str]:
        for name, module in self.all.items():
            if sys.modules.get(name) is not module:
                yield f"module {name} is {'another' if name in sys.modules else 'gone'}"
        for name in sys.modules.keys() - self.all.keys():
            module = sys.modules[name]
            by_hand = not name.startswith("_") and "." not in name  # C extensions make others so
            if by_hand and getattr(module, "__spec__", None) is None:
                yield f"module {name}, which was made by hand"
            elif str(getattr(module, "__file__", None)).startswith(TEMPORARY):
                yield f"module {name} of {module.__file__}"


class Random:
    """The states of the generators that all tests of a process share."""

    def __init__(self) -> None:
        self.numpy, self.torch = (sys.modules.get(name) for name in ("numpy.random", "torch"))
        self.states = (
            random.getstate(),
            self.numpy.get_state() if self.numpy else None,
            self.torch.get_rng_state() if hasattr(self.torch, "get_rng_state") else None,  # type: ignore[union-attr]
        )

    def put_back(self) -> None:
        own, numpy, torch = self.states
        random.setstate(own)
        if numpy is not None:
            self.numpy.set_state(numpy)  # type: ignore[union-attr]
        if torch is not None:
            self.torch.set_rng_state(torch)  # type: ignore[union-attr]
