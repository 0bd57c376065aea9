"""facenet-train as the processes of torchrun, on one machine or several.

Only rank 0 composes the config, owns the tracked run and writes the run directory; the others wait on torchrun's store for what it
publishes: a job, or the exit code of a command that started none. Nothing of torch is imported before that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from facenet.distributed.choice import Distributed
from facenet.errors import FAILURE, USER, UserError, fail
from facenet.files import trusted
from facenet.launch.failure import Failure
from facenet.launch.local import FAREWELL_S, INHERITED, die_with_parent, result_of, run_ranks
from facenet.launch.order import Order
from facenet.launch.signals import StopFlag, ignore_stop_signals
from facenet.privacy import addresses

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

NO_SWEEP = (
    "torchrun starts the processes of one job and cannot start those of a sweep; "
    "run facenet-train -m ... distributed=ddp distributed.num_processes=N without torchrun"
)
WAIT_S = 1800.0  # rank 0 lists the images and reaches the tracking store meanwhile
GRACE_S = 20.0  # torchrun kills 30 s after its signal; the run must be closed by then


def active() -> bool:
    """Whether this process is one of torchrun's. A RANK alone may be left from anything."""
    return "RANK" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ


def command(job: Callable[[], Any]) -> NoReturn:
    """Runs a command as one process of torchrun's, and ends it."""
    die_with_parent(os.getppid())
    from torch.distributed.elastic.multiprocessing.errors import record

    from facenet.tasks.worker import leave

    # torch.distributed.launch adds it to the arguments
    sys.argv[1:] = [each for each in sys.argv[1:] if not each.startswith(("--local-rank=", "--local_rank="))]
    try:
        code = record(follow)() if int(os.environ["RANK"]) > 0 else record(lead)(job)
    except Exception:  # noted for torchrun's own report by `record`
        traceback.print_exc()
        code = FAILURE
    leave(FAILURE if code is None else code)


def lead(job: Callable[[], Any]) -> int:
    """Rank 0: the whole command. Its exit code is told to the others if it started no job, so that they need not wait for one."""
    code = FAILURE
    try:
        if {"-m", "--multirun"} & set(sys.argv[1:]):
            fail(NO_SWEEP, USER)
        job()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILURE
    finally:
        if not store().check(["job"]):
            publish({"code": code})
    return code


def of_this_size(config: dict[str, Any]) -> dict[str, Any]:
    """The config with torchrun's number of processes in place of its own."""
    distributed = config.get("distributed")
    if not isinstance(distributed, dict):  # a mistake, and told as one by the check of the config
        return config
    return {**config, "distributed": {**distributed, "num_processes": int(os.environ["WORLD_SIZE"])}}


def launch(run_dir: Path, distributed: Distributed, order: Order) -> Any:
    """Does what `facenet.launch.local.launch` does, for a group whose other ranks torchrun has started.

    Rank 0 trains in a child, so that this process can close the tracked run whatever happens to it."""
    from facenet import config

    size = int(os.environ["WORLD_SIZE"])
    if distributed.num_processes != size:  # a run that goes on keeps its own number
        raise UserError(
            f"torchrun: {size} processes, but the run has distributed.num_processes={distributed.num_processes}; start as many"
        )
    group = store()
    settings = config.of_job(run_dir)
    known = os.environ.get(addresses.VARIABLE)  # which no file holds, nor what is trusted
    job = {"config": settings, "run_dir": str(run_dir), "run_id": order.run_id, "secrets": known}
    publish({**job, "trusted": trusted.told()})
    place = {name: os.environ[name] for name in INHERITED if name in os.environ}
    grace_s = min(distributed.grace_s, GRACE_S)
    failure, stop = run_ranks(
        run_dir, "train", [place], order, grace_s=grace_s, longest_s=GRACE_S, elsewhere=lambda: failures(group)
    )
    ignore_stop_signals()  # torchrun's, for whatever ended another rank, would break into the closing of the run
    if failure is not None:  # before any signal: torchrun sends one when a rank fails
        report(Failure.of(0, failure))
        raise failure
    if stop is not None:
        raise stop
    return result_of(run_dir)


def follow() -> int:
    """Ranks above 0: the part of the job in this process, or none. Returns the exit code."""
    try:
        job = json.loads(store().get("job"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        fail(f"rank {os.environ['RANK']}: no job from rank 0 within {WAIT_S:g} s ({reason})", FAILURE)
    if "code" in job:
        return int(job["code"])
    from facenet.tasks.run import Run
    from facenet.tasks.train import run
    from facenet.tasks.worker import start_logging

    if job["secrets"] is not None:
        os.environ[addresses.VARIABLE] = job["secrets"]
    trusted.take_over(job["trusted"])
    run_dir, rank = Path(job["run_dir"]), int(os.environ["RANK"])
    stop = StopFlag(min(job["config"]["distributed"]["grace_s"], GRACE_S), longest_s=GRACE_S)
    start_logging(run_dir, rank)
    threading.Thread(target=end_with_others, args=[store()], daemon=True).start()
    try:
        run(Run(run_dir, job["config"], job["run_id"], stop))
    except BaseException as error:
        report(own := Failure.of(rank, error))
        if isinstance(error, UserError):
            return USER  # rank 0 tells it
        if isinstance(error, RuntimeError) and (other := cause_elsewhere(store(), own)) is not None:
            return USER if other.user else FAILURE
        raise
    return 0 if stop.signal is None else 128 + stop.signal


@functools.cache
def store() -> Store:
    """Keys that all ranks of this start see. Lives as long as the process: where torchrun's agents have none, rank 0 hosts it."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    shared, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=WAIT_S))))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the process group finds this one and opens none
    return PrefixStore(f"facenet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", shared)


def end_with_others(group: Store) -> None:
    """Ends this process when another rank failed and it takes no notice: torchrun's signal would leave it its whole grace time, and on
    another machine there is none."""
    while not failures(group):
        time.sleep(1)
    time.sleep(FAREWELL_S)
    print(f"rank {os.environ['RANK']} is ended because another failed, at", file=sys.stderr, flush=True)
    faulthandler.dump_traceback()
    os._exit(FAILURE)


def cause_elsewhere(group: Store, own: Failure) -> Failure | None:
    """What failed in another rank, which tells it, where an error of this one may be no more than that a peer is gone. None where the other tells
    this one's."""
    deadline = time.monotonic() + FAREWELL_S
    while time.monotonic() < deadline:
        if found := [each for each in failures(group) if each.rank != own.rank and not each.induced]:
            return None if own.text in found[0].text else found[0]
        time.sleep(0.1)
    return None


def publish(message: dict[str, Any]) -> None:
    store().set("job", json.dumps(message))


def report(failure: Failure) -> None:
    """Tells the others why this rank ends; their own errors would be that a peer is gone."""
    number = store().add("failures", 1)
    store().set(f"failure/{number}", failure.to_json())


def failures(group: Store) -> list[Failure]:
    """What ranks reported so far; nothing where the store is gone with the agent that hosted it."""
    found: list[Failure] = []
    with contextlib.suppress(RuntimeError):
        while group.check([f"failure/{len(found) + 1}"]):
            found.append(Failure.from_json(group.get(f"failure/{len(found) + 1}")))
    return found
