"""Whether all local devices reach each other, in processes started as training starts them."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from facenet.distributed.choice import Distributed
from facenet.errors import UserError
from facenet.files.run_dir import RunDir
from facenet.launch.local import RankFailed, Stopped, launch
from facenet.launch.order import Order
from facenet.tasks.run import Run
from facenet.tools.doctor.report import Report

COLLECTIVE_S = 60.0
PROCESSES_S = 120.0  # start, imports and the collectives
NUM_FLOATS = 2_500_000  # 10 MB, about a bucket of gradients
REPEATS = 5
ALONE = "distributed=single trains in one process, without them"


def check_collectives(report: Report, name: str, num_processes: int | None) -> None:
    """One process per device; two where processes share it. A failure leaves training in one process, so it is a remark."""
    from facenet.devices.table import device_count, is_host, row

    count = num_processes or (2 if is_host(name) else device_count(name))
    if count == 1:
        report.fact("collectives", "processes", "1: nothing to exchange", 1)
        return
    report.fact("collectives", "processes", f"{count} over {row(name).collective}", count)
    with report.finding("collectives", ALONE):
        try:
            found = exchange(name, count)
        except RankFailed as failure:
            report.fact("collectives", "failure", str(failure).partition("\nlog of rank")[0])  # which is gone by now
            raise UserError(f"collectives: {count} processes fail, as told above; {ALONE}") from None
        if not (found["sum"] and found["gather"]):
            raise UserError(f"collectives: wrong results {found}; {ALONE}")
        report.fact("collectives", "results", "sum and gather are right")
        mean = {"bytes": 4 * NUM_FLOATS, "ms": found["mean_ms"]}
        report.fact("collectives", "mean", f"{found['mean_ms']:.1f} ms for {mean['bytes'] / 1e6:g} MB", mean)


def exchange(name: str, count: int) -> dict[str, Any]:
    """Starts `count` processes and returns what rank 0 found. Raises RankFailed when one fails, UserError when they take too long."""
    from facenet import config as configs

    distributed = Distributed(num_processes=count, timeout_s=COLLECTIVE_S, grace_s=1.0)
    config = {
        "accelerator": {"_target_": "facenet.devices.DeviceChoice", "name": name},
        "timeout_s": distributed.timeout_s,
    }
    late = threading.Timer(PROCESSES_S, os.kill, [os.getpid(), signal.SIGTERM])  # the launcher then ends its processes
    late.daemon = True
    with tempfile.TemporaryDirectory(prefix="facenet-doctor-") as folder:
        configs.write(config, RunDir(Path(folder)).resolved)
        late.start()
        try:
            found: dict[str, Any] = launch(Path(folder), distributed, Order(), task="collectives")
        except Stopped:
            if late.is_alive():
                raise  # somebody else's signal
            raise UserError(f"collectives: not done in {PROCESSES_S:g} s; {ALONE}") from None
        finally:
            late.cancel()
    return found


def run_collectives(run: Run) -> dict[str, Any]:
    """Returns, in each process, whether sum and gather are right in all of them, and milliseconds per mean of 10 MB."""
    import torch

    from facenet import config as configs
    from facenet.devices.accelerator import Accelerator
    from facenet.devices.table import Precision
    from facenet.distributed import collectives

    keep_quiet(run.directory / "said.log")
    choice = configs.build(run.config["accelerator"], "accelerator")
    with Accelerator.start(choice, Precision(), timeout_s=run.config["timeout_s"]) as accelerator:
        count, device = accelerator.world_size, accelerator.device
        own = torch.full((3,), float(accelerator.rank), device=device)
        total = collectives.mean(own) * count
        parts = collectives.gather(own, [len(own)] * count)
        wrong_sum = bool((total != count * (count - 1) / 2).any())
        wrong_gather = any(bool((part != rank).any()) for rank, part in enumerate(parts))
        gradients = torch.zeros(NUM_FLOATS, device=device)
        collectives.mean(gradients)
        accelerator.synchronize()
        start = time.perf_counter()
        for _ in range(REPEATS):
            collectives.mean(gradients)
        accelerator.synchronize()
        mean_ms = (time.perf_counter() - start) / REPEATS * 1e3
        return {"sum": not accelerator.any(wrong_sum), "gather": not accelerator.any(wrong_gather), "mean_ms": mean_ms}


def keep_quiet(path: Path) -> None:
    """All output of this process goes to the file: what rank 0 and its plugin say would stand among the findings."""
    with path.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
