"""One process of a job, with its run directory, task and the descriptor of its order as arguments, started by `facenet.launch.local`."""

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
from facenet.files import trusted
from facenet.files.atomic import own, replacing
from facenet.files.run_dir import RunDir
from facenet.launch.failure import Failure, note_failure
from facenet.launch.local import WHERE_SIGNAL, StopFlag, die_with_parent
from facenet.launch.order import RankOrder
from facenet.launch.surroundings import keep_open, pass_over_matplotlibrc
from facenet.privacy.logs import guard_logs

TASKS = {
    "train": "facenet.tasks.train:run",
    "collectives": "facenet.tools.doctor:run_collectives",
    "probe": "facenet.tasks.probe:run",
}


def main(run_dir: Path, task: str, descriptor: int) -> int:
    """Exit code of the process; rank 0 leaves its return value in `result.json`. descriptor: of its order."""
    order, rank = RankOrder.read(descriptor), int(os.environ["RANK"])
    die_with_parent(order.parent)
    keep_open()
    pass_over_matplotlibrc()
    stop = StopFlag(order.grace_s, longest_s=order.longest_s, tell=teller(order.patience))
    if order.lock is not None:
        os.set_inheritable(order.lock, False)  # held as long as this process lives, and not by what it starts
    tell_where(order.stack)
    trusted.take_over(order.trusted)
    try:
        start_logging(run_dir, rank)
        from facenet import config
        from facenet.tasks.run import Run

        module, function = TASKS[task].split(":")
        run = getattr(importlib.import_module(module), function)
        value = run(Run.of(order, run_dir, config.of_job(run_dir), stop))
    except BaseException as error:
        try:
            note_failure(run_dir, rank, error)
        except OSError:  # a full disk, or one that is gone: the launcher holds this file
            os.write(order.stack, Failure.of(rank, error).text.encode())
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
    leave(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
