"""Processes that start warm: Python commands of the tests are forked from a parent that has imported torch, MLflow and Hydra and done nothing else.

An import of those takes a fresh process 6 s of a processor, and a training command starts two such processes. Here a command is still a process of
its own, the child of whoever started it, with its own session, descriptors, environment, signals and exit code; only its imports are done already.
`use()` makes `subprocess.Popen` start Python commands so; what it cannot start so (another interpreter, a shell, flags, other PYTHON variables)
starts as ever, and everything does under `cold()`.

The parent runs no operation of torch: threads of OpenMP do not survive a fork. A process is forked twice, and the one in between ends, so that it
becomes the child of the process that asked, which is the nearest ancestor that takes orphans meanwhile. Each process started so brings a parent of
its own for those that it starts. Linux only; elsewhere everything starts as ever.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    *(
        "torch",
        "torch.distributed",
        "torch._dynamo",
        "torch.onnx",
        "sympy",
        "numpy",
        "cv2",
        "PIL.Image",
        "PIL.JpegImagePlugin",
    ),
    *(
        "albumentations",
        "psutil",
        "tqdm",
        "hydra._internal.hydra",
        "omegaconf",
        "sqlalchemy.dialects.sqlite",
        "alembic.command",
    ),
    *("mlflow.store.tracking.sqlalchemy_store", "cProfile"),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.ticker"),  # a sixth of a tiny job
)
LATER = {"facenet.tasks.worker", "facenet.__main__"}  # run as __main__, which a module that is there already may not be
BIN = Path(sys.executable).parent
# Read when the interpreter or a library starts, so that a process which wants another value of one starts cold. PYTHONPATH is followed.
AT_START = (
    "PYTHON",
    "LD_",
    "OMP_NUM_THREADS",
    "OPENBLAS_",
    "MKL_",
    "KMP_",
    "MALLOC_",
    "GLIBC_",
    "COVERAGE_",
    "MATPLOTLIBRC",
)
PATH = "PYTHONPATH"
# PYTHONSAFEPATH: by what the commands do themselves. LD_LIBRARY_PATH: cv2 sets it when it is imported, for itself.
FOLLOWED = {PATH, "PYTHONSAFEPATH", "LD_LIBRARY_PATH"}
ROOM = 8192  # bytes for the command line that a forked process shows instead of the parent's
ENVIRONMENT_ROOM = 32768  # and for its environment
MEASURING = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")  # a forked process begins to measure by itself
START = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
COLD_POPEN = subprocess.Popen
SUBREAPER, MEMORY_MAP, ARG_END = 36, 35, 9  # prctl's


class Warm(COLD_POPEN):  # type: ignore[type-arg]
    """Popen that has Python commands forked by the warm parent of this process."""

    def _execute_child(self, *given: Any) -> None:
        asked = START.bind(self, *given).arguments
        wanted = request(asked)
        if wanted is None:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        std = [
            asked[name] if asked[name] != -1 else number
            for number, name in enumerate(("p2cread", "c2pwrite", "errwrite"))
        ]
        self.pid = parent().start(wanted, [*std, *asked["pass_fds"]])
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]


def request(asked: dict[str, Any]) -> dict[str, Any] | None:
    """What the warm parent is asked for; None for a command that it cannot start."""
    given, command = asked["args"], asked["args"]
    if asked["shell"] or asked["executable"] or asked["preexec_fn"] or isinstance(given, (str, bytes, os.PathLike)):
        return None
    if (
        asked.get("uid") is not None
        or asked.get("gid") is not None
        or asked.get("gids") is not None
        or asked["umask"] >= 0
    ):
        return None
    if asked.get("process_group", -1) not in (-1, None):
        return None
    environment = {os.fsdecode(key): os.fsdecode(value) for key, value in (asked["env"] or os.environ).items()}
    if at_start(environment) != started or shadows(environment.get(PATH, "")):
        return None
    command = [os.fsdecode(part) for part in given]
    if command[0] == sys.executable:
        command = command[1:]
        if command[:1] == ["-u"]:
            command = command[1:]
        if not command or (command[0].startswith("-") and command[0] not in ("-c", "-m")):
            return None
    elif Path(command[0]).parent != BIN or not is_python(Path(command[0])):
        return None
    return {
        "command": command,
        "shown": [os.fsdecode(part) for part in given],
        "environment": environment,
        "cwd": os.fspath(asked["cwd"] or os.getcwd()),
        "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "session": asked["start_new_session"],
        "descriptors": [0, 1, 2, *asked["pass_fds"]],
    }


def is_python(script: Path) -> bool:
    with contextlib.suppress(OSError), script.open("rb") as file:
        return file.readline().strip() == f"#!{sys.executable}".encode()
    return False


# --- who asks


class Parent:
    """The end of a warm parent's socket in the process that it starts others for."""

    def __init__(self, talk: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self.talk, self.process, self.lock = talk, process, threading.Lock()

    def start(self, wanted: dict[str, Any], descriptors: list[int]) -> int:
        """Number of the started process, a child of this one."""
        with self.lock:
            ctypes.CDLL(None).prctl(SUBREAPER, 1)
            try:
                content = json.dumps(wanted).encode()
                socket.send_fds(self.talk, [len(content).to_bytes(8, "big")], descriptors)
                self.talk.sendall(content)
                return int.from_bytes(received(self.talk, 8), "big")
            finally:
                ctypes.CDLL(None).prctl(SUBREAPER, 0)

    def close(self) -> None:
        self.talk.close()
        if self.process is not None:
            self.process.wait(30)


parents: list[Parent] = []  # none, or that of this process


def parent() -> Parent:
    if not parents:
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), " " * ROOM]
        environment = {name: value for name, value in os.environ.items() if name != PATH and name not in MEASURING}
        environment["WARM_ROOM"] = " " * ENVIRONMENT_ROOM
        with theirs:
            process = COLD_POPEN(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        parents.append(Parent(ours, process))
    return parents[0]


def at_start(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(
        (name, value) for name, value in environment.items() if name.startswith(AT_START) and name not in FOLLOWED
    )


started: list[tuple[str, str]] = []  # with which the parent starts, and so all that comes from it


def shadows(path: str) -> bool:
    """Whether a PYTHONPATH holds a module of a name that the parent, or any Python, has imported already."""
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    names = {entry.name.partition(".")[0] for folder in folders if folder.is_dir() for entry in folder.iterdir()}
    taken = {name.partition(".")[0] for name in PRELOADED} | sys.stdlib_module_names | {"facenet", "requests"}
    return not names.isdisjoint(taken)


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Everything starts as ever."""
    before = subprocess.Popen
    subprocess.Popen = COLD_POPEN  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


@contextlib.contextmanager
def use() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    started[:] = at_start(os.environ)
    subprocess.Popen = Warm  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = COLD_POPEN  # type: ignore[misc]
        while parents:
            parents.pop().close()


# --- the parent


def serve(talk: socket.socket) -> dict[str, Any]:
    """Forks what it is asked for. Returns in the forked process, with the request; the parent itself ends when nobody can ask any more."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the processes of its group
    while True:
        try:
            length, descriptors, _, _ = socket.recv_fds(talk, 8, 64)
        except ConnectionError:
            os._exit(0)
        if len(length) < 8:
            os._exit(0)
        wanted = json.loads(received(talk, int.from_bytes(length, "big")))
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            ours = os.getpid()
            child = os.fork()
            if child:
                os.write(writing, child.to_bytes(8, "big"))
                os._exit(0)
            while os.getppid() == ours:
                time.sleep(0.0005)
            talk.close()
            become(wanted, descriptors)
            return wanted
        os.waitpid(between, 0)
        talk.sendall(os.read(reading, 8))
        for number in (reading, writing, *descriptors):
            os.close(number)


def become(wanted: dict[str, Any], descriptors: list[int]) -> None:
    """This forked process as a fresh one would be: descriptors, session, directory, environment, signals."""
    held = [os.dup2(number, 1000 + place, inheritable=False) for place, number in enumerate(descriptors)]
    os.closerange(0, 1000)
    for number, target in zip(held, wanted["descriptors"], strict=True):
        os.dup2(number, target)
    os.closerange(1000, 1000 + len(held))
    if wanted["session"]:
        os.setsid()
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    tempfile.tempdir = None  # TMPDIR may be another
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def show(command: list[str], environment: Mapping[str, str]) -> None:
    """Has /proc say this command line and environment, which is where a process is found."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end, variables, last = (int(field) for field in fields[45:49])
    content = b"".join(os.fsencode(part) + b"\0" for part in command)[:ROOM]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, content, len(content))
    if begin + len(content) <= end:  # only root may; else the line ends in zeros
        ctypes.CDLL(None).prctl(MEMORY_MAP, ARG_END, ctypes.c_ulong(begin + len(content)), 0, 0)
    # Nothing lies there any more: os.environ has been emptied, and what was set since lies elsewhere.
    said = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())[: last - variables]
    ctypes.memset(variables, 0, last - variables)
    ctypes.memmove(variables, said, len(said))


def bring_parent() -> None:
    """A warm parent for what this process will start, while it has no threads yet."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        os.chdir("/")  # not where tests look for what a command left
        with open(os.devnull, "r+b") as nothing:
            for number in (0, 1, 2):
                os.dup2(nothing.fileno(), number)
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, 1000)
        run(serve(theirs))
    theirs.close()
    parents[:], started[:] = [Parent(ours)], at_start(os.environ)
    subprocess.Popen = Warm  # type: ignore[misc]


def run(wanted: dict[str, Any]) -> NoReturn:
    """The command, to its end."""
    bring_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted["mask"])
    show(wanted["shown"], wanted["environment"])
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.open(number, "wb", -1, closefd=False)  # noqa: SIM115, UP020
        text = io.TextIOWrapper(
            raw,
            encoding="utf-8",
            errors="backslashreplace" if number == 2 else "strict",
            line_buffering=number == 2 or raw.isatty(),
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    if any(name in os.environ for name in MEASURING):
        importlib.import_module("coverage").process_startup(force=True)
    sys.path[1:1] = [folder for folder in os.environ.get(PATH, "").split(os.pathsep) if folder]
    code = 1
    try:
        own = any(
            Path(folder, "sitecustomize.py").is_file()
            for folder in os.environ.get(PATH, "").split(os.pathsep)
            if folder
        )
        if own:  # comes before one of the system, which the parent has read
            sys.modules.pop("sitecustomize", None)
            importlib.import_module("sitecustomize")
        execute(*wanted["command"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = -signal.SIGINT
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    leave(code)


def leave(code: int) -> NoReturn:
    """As the interpreter ends, but without taking thousands of modules apart, which copies every page that they share with the parent."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def execute(kind: str, *rest: str) -> None:
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    elif kind == "-m":
        sys.argv, sys.path[0] = [*rest], os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *rest], str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def received(talk: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = talk.recv(count - len(content))
        if not more:
            raise ConnectionError("the other end is gone")
        content += more
    return content


def preload() -> None:
    import facenet

    ours = [module.name for module in pkgutil.walk_packages(facenet.__path__, "facenet.")]
    for name in (*PRELOADED, *ours):
        if name not in LATER:
            with contextlib.suppress(ImportError):  # optional ones
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all of it


def main() -> None:
    talk = socket.socket(fileno=int(sys.argv[1]))
    preload()
    run(serve(talk))


if __name__ == "__main__":
    sys.modules["warm"] = sys.modules["__main__"]
    main()
