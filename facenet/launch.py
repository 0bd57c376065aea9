"""Runs one job as processes of this node, each a fresh command, and returns what rank 0 returned.

A job lives in its run directory: `resolved.yaml` goes in, `result.json` or `failure-<rank>.json` comes out. One process takes the same
path as many, so that the jobs of a sweep share no state.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from facenet.distributed import Distributed
from facenet.errors import UserError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
# An outer torchrun's variables in a spawned rank would join it to the wrong group.
INHERITED = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)

# For ranks, unless the user set them. MobileNetV1 at 160 px in bf16 on two cores shared with other work, one reading each and the load
# not the same: 5 images/s without these, 13 with the three for glibc, 64 with all. Threads that spin while they wait take the core from
# the thread they wait for; and glibc returns every large block to the kernel, which then clears its pages anew for each activation.
RANK_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


class RankFailed(Exception):
    """A process of the job failed; the text ends with that process's own traceback. Plain text, so that it can be pickled."""


class Stopped(SystemExit):
    """A stop signal ended the job. Not an Exception: Hydra would count it as one failed job and start the next."""


def launch(run_dir: Path, distributed: Distributed, environment: dict[str, str]) -> Any:
    """What rank 0 of the job in `run_dir` returned.

    Raises UserError for a user's mistake found by a rank, RankFailed for any other failure, KeyboardInterrupt or Stopped for a signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    # Its account of a stop or a failure; ours is shorter.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for leftover in (*run_dir.glob("failure-*.json"), run_dir / "result.json"):
        leftover.unlink(missing_ok=True)
    threads = str(max(1, available_cores() // distributed.num_processes))
    defaults = {"OMP_NUM_THREADS": threads, **RANK_DEFAULTS}
    unset = {name: value for name, value in defaults.items() if name not in os.environ}
    try:
        with saved_signal_handlers(), changed_environment({**unset, **environment}):
            elastic_launch(elastic_config(run_dir, distributed), sys.executable)("-m", "facenet.worker", str(run_dir))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        raise failure_of(run_dir, f"rank {first.local_rank}: {first.message.splitlines()[0]}") from None
    except SignalException as stop:
        if stop.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise Stopped(128 + int(stop.sigval)) from None
    return json.loads((run_dir / "result.json").read_text(encoding="utf-8"))


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def elastic_config(run_dir: Path, distributed: Distributed) -> Any:
    """Any free port (parallel jobs never meet); ranks above 0 write to files, rank 0 keeps the terminal and its progress bar."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    count = distributed.num_processes
    options: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": count,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "max_restarts": 0,
        "monitor_interval": 0.2,
        "logs_specs": DefaultLogsSpecs(
            log_dir=str(run_dir / "ranks"), redirects=dict.fromkeys(range(1, count), Std.ALL) or Std.NONE
        ),
        "signals_to_handle": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
        "shutdown_timeout": int(distributed.grace_s),
    }
    known = {field.name for field in dataclasses.fields(LaunchConfig)}  # the last two came after torch 2.4
    return LaunchConfig(**{name: value for name, value in options.items() if name in known})


def failure_of(run_dir: Path, otherwise: str) -> Exception:
    """The failure that came first: a rank that raises takes the others down with errors of their own."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in run_dir.glob("failure-*.json")]
    if not notes:
        return RankFailed(otherwise)
    first = min(notes, key=lambda note: note["time"])
    return UserError(first["message"]) if first["user"] else RankFailed(f"rank {first['rank']}:\n{first['traceback']}")


def note_failure(run_dir: Path, rank: int, error: BaseException) -> None:
    """Leaves the reason where `failure_of` finds it."""
    note = {
        "rank": rank,
        "time": time.time(),
        "user": isinstance(error, UserError),
        "message": str(error) or repr(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    (run_dir / f"failure-{rank}.json").write_text(json.dumps(note), encoding="utf-8")


class StopFlag:
    """Set by SIGTERM, SIGINT or SIGUSR2; the training loop looks at it between steps, saves and ends.

    A process that reaches no such point within `grace_s` (stuck in a collective or a read) is ended, or its job would never end.
    """

    def __init__(self, grace_s: float) -> None:
        self.signal: int | None = None
        self.grace_s = grace_s
        for number in STOP_SIGNALS:
            signal.signal(number, self.set)

    def set(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            watchdog = threading.Timer(self.grace_s, os._exit, [128 + number])
            watchdog.daemon = True
            watchdog.start()

    def __bool__(self) -> bool:
        return self.signal is not None


def die_with_parent() -> None:
    """No rank outlives its launcher, however that ended (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """SIGTERM before the ranks run (imports, a slow tracking server) ends the command as Stopped, so that `finally` blocks run."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    with saved_signal_handlers():
        signal.signal(signal.SIGTERM, stop)
        yield


@contextlib.contextmanager
def saved_signal_handlers() -> Iterator[None]:
    """Puts back the handlers found: torch's elastic launcher leaves its own behind."""
    numbers = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def changed_environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in INHERITED:
        os.environ.pop(name, None)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
