"""One process of a job, with its run directory and task as arguments, started by `facenet.launch.local`."""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from facenet.errors import FAILURE, USER, UserError
from facenet.files.atomic import own, replacing
from facenet.files.run_dir import RunDir
from facenet.launch.failure import Failure, note_failure
from facenet.launch.local import LOCK, PARENT, WHERE_SIGNAL, StopFlag, die_with_parent
from facenet.launch.surroundings import keep_open, pass_over_matplotlibrc
from facenet.privacy.logs import guard_logs

TASKS = {
    "train": "facenet.tasks.train:run",
    "collectives": "facenet.tools.doctor:run_collectives",
    "probe": "facenet.tasks.probe:run",
}


def main(run_dir: Path, task: str) -> int:
    """Exit code of the process; rank 0 leaves its return value in `result.json`."""
    die_with_parent(int(os.environ.pop(PARENT)))
    keep_open()
    pass_over_matplotlibrc()
    grace_s, longest_s = map(float, os.environ["FACENET_GRACE_S"].split())
    stop = StopFlag(grace_s, longest_s=longest_s, tell=teller(int(os.environ["FACENET_PATIENCE_FD"])))
    rank, descriptor = int(os.environ["RANK"]), int(os.environ["FACENET_STACK_FD"])
    if lock := os.environ.pop(LOCK, None):
        os.set_inheritable(int(lock), False)  # held as long as this process lives, and not by what it starts
    tell_where(descriptor)
    try:
        start_logging(run_dir, rank)
        from facenet import config

        module, function = TASKS[task].split(":")
        run = getattr(importlib.import_module(module), function)
        settings = config.of_job(run_dir)
        value = run(settings, run_dir=run_dir, run_id=os.environ.get("FACENET_RUN_ID"), stop=stop)
    except BaseException as error:
        try:
            note_failure(run_dir, rank, error)
        except OSError:  # a full disk, or one that is gone: the launcher holds this file
            os.write(descriptor, Failure.of(rank, error).text.encode())
        return USER if isinstance(error, UserError) else FAILURE
    if stop.signal is not None:
        return 128 + stop.signal
    if rank == 0:
        with replacing(RunDir(run_dir).result) as partial:
            partial.write_text(json.dumps(value), encoding="utf-8")
    return 0


def teller(descriptor: int) -> Callable[[float], None]:
    """Tells the launcher, which looks when it wants to."""

    def tell(patience_s: float) -> None:
        os.pwrite(descriptor, f"{patience_s:<31.3f}".encode(), 0)

    return tell


def tell_where(descriptor: int) -> None:
    """Has a crash, and the launcher's question before it kills, answered with this process's stack."""
    faulthandler.enable(descriptor, all_threads=False)
    faulthandler.register(WHERE_SIGNAL, descriptor, all_threads=False)


def start_logging(run_dir: Path, rank: int) -> None:
    """Rank 0 speaks on the terminal and into train.log; the others only warn, on their stderr."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if rank == 0:
        file = open(RunDir(run_dir).log(0), "a", encoding="utf-8", opener=own)  # noqa: SIM115  open as long as the process
        handlers.append(logging.StreamHandler(file))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
    guard_logs()
    logging.captureWarnings(True)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # two long lines where there is no home directory


def leave(code: int) -> NoReturn:
    """Interpreter exit after a process group aborts now and then ("terminate called without an active exception"; 4 of 25 pairs
    without this): flushes everything and leaves at once."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]), sys.argv[2]))
