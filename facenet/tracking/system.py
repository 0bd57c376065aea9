"""The load of this machine during a run, as MLflow collects and names it: processors, memory, disk, network, and the devices it knows."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from facenet.errors import UserError
from facenet.tracking.journal import Journal, last_steps

PREFIX = "system/"
FIRST = f"{PREFIX}cpu_utilization_percentage"  # in every sample


@contextlib.contextmanager
def sampled(path: Path, run_id: str, uri: str, *, every_s: float = 10.0) -> Iterator[None]:
    """Samples into a journal until left. The step of a sample is its number, also over the resumed parts of a run."""
    closing = threading.Event()
    thread = threading.Thread(
        target=sample, args=(path, run_id, uri, every_s, closing), name="system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(5)


def sample(path: Path, run_id: str, uri: str, every_s: float, closing: threading.Event) -> None:
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # which devices it does not have
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # As a collector: its own thread ends when the store is away. Without the address it would make a database in this directory.
    monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
    known = last_steps(path)
    step = 1 + known.get(FIRST, -1)
    with contextlib.closing(Journal(path)) as journal, contextlib.suppress(UserError):  # which rank 0 meets as well
        monitor.collect_metrics()  # the load since the sample before: the first has none
        while not closing.wait(every_s):
            known = known or last_steps(path)
            if not known:  # of a run's metrics these are the last: MLflow's pages show first what came first
                continue
            for each in monitor.monitors:
                each.clear_metrics()
            monitor.collect_metrics()
            values = {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            journal.add(step=step, metrics=values)
            step += 1
