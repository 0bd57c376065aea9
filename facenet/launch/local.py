"""Runs one job as processes of this machine, each a fresh command, and returns what rank 0 returned.

A job lives in its run directory: `resolved.yaml` goes in, `result.json` or `failure-<rank>.json` comes out. One process takes the same
path as many, so that the jobs of a sweep share no state.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from facenet.devices.cores import available_cores
from facenet.distributed.choice import Distributed
from facenet.errors import FAILURE, USER, UserError
from facenet.files import trusted
from facenet.files.atomic import own
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.launch.failure import Failure, RankFailed, cause, noted_failures
from facenet.launch.order import Order, RankOrder
from facenet.launch.signals import STOP_SIGNALS, StopFlag, Stopped, held_back, stop_signals, stop_signals_raise

__all__ = ["RankFailed", "StopFlag", "Stopped", "launch", "stop_signals_raise"]

log = logging.getLogger(__name__)

# A rank's place in its group. An outer torchrun's would join a spawned rank to the wrong one.
INHERITED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"),
)

# For ranks, unless the user set them: threads that spin while they wait take the core from the thread they wait for. MobileNetV1 at 160 px in
# bf16 on two cores shared with other work, one reading each and the load not the same: 13 images/s without, 64 with.
RANK_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

# A module as `python -m` runs it, but never from the working directory, which may be anybody's and hold a secrets.py. (-P is of Python 3.11.)
RUN_MODULE = (
    "import sys; sys.path[:] = sys.path[0 if getattr(sys.flags, 'safe_path', False) else 1:]; "
    "from runpy import run_module; run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)

POLL_S = 0.1
FAREWELL_S = 4.0  # after a failure: for the others to notice, flush their metrics and end by themselves
STACK_S = 1.0  # for a process that is about to be killed to write where it stands
WHERE_SIGNAL = signal.SIGUSR1  # faulthandler's, which answers also from within a collective
WHY: dict[int, str] = {
    signal.SIGKILL: ", as the kernel does when memory runs out",
    signal.SIGBUS: ", as the kernel does when a file is cut or its disk fails while it is read (a raw cache, a .rec pack): copy or make it again",
}
FINE = (0, *(128 + number for number in STOP_SIGNALS))


def launch(run_dir: Path, distributed: Distributed, order: Order, task: str = "train") -> Any:
    """What rank 0 of the job in `run_dir` returned. `task` is one of `worker.TASKS`.

    Raises UserError for a user's mistake found by a rank, RankFailed for any other failure, KeyboardInterrupt or Stopped for a signal.
    """
    from facenet.devices.table import loopback_only

    store = local_store()
    count = distributed.num_processes
    group = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # what tells torch's env:// that the store is there already
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    group |= {name: value for name, value in loopback_only().items() if name not in os.environ}
    places = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    failure, stop = run_ranks(run_dir, task, places, order, grace_s=distributed.grace_s)
    del store  # an exception raised from here would keep it, and its port
    if stop is not None:  # before any failure: a sweep must end with it
        if failure is not None:
            log.error("while stopping: %s", failure)
        raise stop
    if failure is not None:
        raise failure
    return result_of(run_dir)


def local_store() -> Any:
    """Opens the store in which the ranks of a job find each other, on any free port: parallel jobs never meet, no rank has to bind a port that
    another job may have taken, and no other machine reaches it, as it would a socket that torch opens itself."""
    import torch.distributed as dist

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=False
    )


def result_of(run_dir: Path) -> Any:
    return json.loads(text_of(RunDir(run_dir).result))


def run_ranks(
    run_dir: Path,
    task: str,
    places: Sequence[dict[str, str]],
    order: Order,
    *,
    grace_s: float,
    longest_s: float = math.inf,
    elsewhere: Callable[[], list[Failure]] = list,
) -> tuple[Exception | None, BaseException | None]:
    """Runs one process per place (RANK, MASTER_ADDR, ...) to its end. Returns the failure, and the exception for a stop signal.

    `elsewhere` gives the failures of the group's ranks that others started. After a stop signal ranks have `grace_s`, or what their steps take, up
    to `longest_s`.
    """
    for leftover in (*RunDir(run_dir).failures(), RunDir(run_dir).result):
        leftover.unlink(missing_ok=True)
    ranks: list[Rank] = []
    with stop_signals() as received:
        try:
            with held_back():
                for place in places:
                    ranks.append(start_rank(run_dir, task, place, order, grace_s, longest_s))
            watch(ranks, received, elsewhere, grace_s)
        finally:
            for rank in ranks:
                rank.process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver
                    rank.process.wait(10)
        # In here: torchrun's signal, for the same rank that failed, may come while they are asked why they ended.
        failure = failure_of(run_dir, ranks, elsewhere())
    numbers = received or [rank.code - 128 for rank in ranks if failure is None and rank.code != 0]
    if not numbers:
        return failure, None
    return failure, KeyboardInterrupt() if numbers[0] == signal.SIGINT else Stopped(128 + numbers[0])


@dataclass
class Rank:
    """A started process. `stack` is where it writes its own when it crashes or is asked to, `patience` how long it may take to stop."""

    number: int
    process: subprocess.Popen[bytes]
    stack: IO[bytes]
    patience: IO[bytes]
    ended: float = 0.0
    killed: bool = False

    @property
    def code(self) -> int:
        return self.process.returncode

    def running(self) -> bool:
        if self.process.poll() is None:
            return True
        self.ended = self.ended or time.time()
        return False

    def patience_s(self) -> float:
        """0 until its steps take longer than the grace time."""
        return float(os.pread(self.patience.fileno(), 32, 0) or 0)

    def stood(self) -> str:
        """Returns where its main thread stood, most recent call first; empty if it did not say."""
        self.stack.seek(0)
        return self.stack.read().decode(errors="replace").strip()


def start_rank(run_dir: Path, task: str, place: dict[str, str], order: Order, grace_s: float, longest_s: float) -> Rank:
    """Ranks above 0 write to `ranks/<rank>.log`; rank 0 keeps the terminal and its progress bar. All hold the lock of the run directory, so that
    no other command trains there while one of them lives."""
    number = int(place["RANK"])
    stack, patience = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  outlive this function
    told = RankOrder(
        **asdict(order),
        parent=os.getpid(),
        grace_s=grace_s,
        longest_s=longest_s,
        patience=patience.fileno(),
        stack=stack.fileno(),
        trusted=trusted.told(),
    )
    threads = max(1, available_cores() // int(place.get("LOCAL_WORLD_SIZE", 1)))
    around = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment = {"OMP_NUM_THREADS": str(threads), **RANK_DEFAULTS, **around, **place, **safe_path()}
    with contextlib.ExitStack() as opened:
        output = None
        if number > 0:
            RunDir(run_dir).ranks.mkdir(exist_ok=True)
            output = opened.enter_context(open(RunDir(run_dir).log(number), "wb", opener=own))
        heard = opened.enter_context(told.handed())
        process = subprocess.Popen(
            [*module_command("facenet.tasks.worker"), str(run_dir), task, str(heard)],
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=[heard, told.stack, told.patience, *([] if order.lock is None else [order.lock])],
            start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone, which passes it on once
        )
    return Rank(number, process, stack, patience)


def safe_path() -> dict[str, str]:
    """Variables that keep the working directory off the path of processes: off that of what libraries start by `python -m`, from Python 3.11 on, and
    where an empty entry of PYTHONPATH (`$PYTHONPATH:/mine` while it was unset) means it."""
    if "PYTHONPATH" not in os.environ:
        return {"PYTHONSAFEPATH": "1"}
    named = os.environ["PYTHONPATH"].split(os.pathsep)
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, named))}


def module_command(name: str) -> list[str]:
    """Returns the command that starts a module of ours in a process of its own."""
    return [sys.executable, "-c", RUN_MODULE, name]


def watch(
    ranks: Sequence[Rank], received: Sequence[int], elsewhere: Callable[[], list[Failure]], grace_s: float
) -> None:
    """Waits until all ranks have ended. The first stop signal is passed on, and ranks end themselves within `grace_s` of it, or as soon as their
    steps allow, or are ended; a failure ends the other ranks within seconds, whatever they wait for."""
    deadline, stopped_at, fallen = math.inf, math.inf, False
    while running := [rank for rank in ranks if rank.running()]:
        patience_s = max(grace_s, *(rank.patience_s() for rank in running))
        if received and stopped_at == math.inf:
            stopped_at = time.monotonic()
            if patience_s > grace_s:
                log.warning(
                    "stopping: its steps take long, so the run has up to %.0f s to end one and save", patience_s
                )
            for rank in running:
                rank.process.send_signal(received[0])
        failed = any(rank not in running and rank.code not in FINE for rank in ranks)
        if not fallen and (failed or elsewhere()):
            fallen, deadline = True, min(deadline, time.monotonic() + FAREWELL_S)
        if time.monotonic() > min(deadline, stopped_at + patience_s + FAREWELL_S):
            for rank in running:
                rank.process.send_signal(WHERE_SIGNAL)
            time.sleep(STACK_S)
            for rank in running:
                rank.killed = rank.running()
                rank.process.kill()
            return
        time.sleep(POLL_S)


def failure_of(run_dir: Path, ranks: Sequence[Rank], elsewhere: Sequence[Failure] = ()) -> Exception | None:
    """The cause of the job's end, with the log of its rank; where it may be a consequence, also where the others stood."""
    failures = [*noted_failures(run_dir), *elsewhere]
    noted = {failure.rank for failure in failures}
    failures += [silent for rank in ranks if rank.number not in noted and (silent := silent_end(run_dir, rank))]
    if not failures:
        return None
    first = cause(failures)
    if first.user:
        return UserError(first.text)
    if first.induced:
        first = replace(first, text="\n".join([first.text, *(tell_unanswered(rank) for rank in ranks if rank.killed)]))
    path = RunDir(run_dir).log(first.rank)
    place = f"\nlog of rank {first.rank}: {path}" if path.is_file() else ""
    return RankFailed(f"rank {first.rank}:\n{first.text}{place}")


def silent_end(run_dir: Path, rank: Rank) -> Failure | None:
    """Describes a rank that ended badly and left no note."""
    lost = rank.number == 0 and rank.code == 0 and not RunDir(run_dir).result.exists()
    if rank.killed or (rank.code in FINE and not lost):
        return None
    if rank.code == USER and (told := rank.stood()):  # where its disk took no note
        return Failure(rank=rank.number, time=rank.ended, user=True, induced=False, text=told)
    reason = f"killed by {signal.Signals(-rank.code).name}" if rank.code < 0 else f"ended with exit code {rank.code}"
    reason += WHY.get(-rank.code, "")
    text = "\n".join(filter(None, [f"{reason}, without a traceback", rank.stood()]))
    # Some backends abort the process when a peer is gone.
    return Failure(rank=rank.number, time=rank.ended, user=False, induced=rank.code == -signal.SIGABRT, text=text)


def tell_unanswered(rank: Rank) -> str:
    return f"rank {rank.number} did not end by itself and was at\n{rank.stood() or '(it did not say)'}"


def die_with_parent(parent: int) -> None:
    """No rank outlives its launcher, the process `parent`, however that ended (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before: nobody will send that signal
        os._exit(FAILURE)
