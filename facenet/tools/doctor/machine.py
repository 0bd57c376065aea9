"""Cores, memory, disk, and where runs are recorded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from facenet.devices.cores import available_cores, container_cores, visible_cores
from facenet.privacy import addresses
from facenet.tools.doctor.report import Report

GB = 1e9
LEAST_DISK = 2 * GB  # an InceptionResNetV1 checkpoint with Adam's moments is 0.3 GB, and a run keeps five


def check_machine(report: Report) -> None:
    with report.finding("cores and memory", "report this line; training does not depend on it"):
        check_cores(report)
        found = psutil.virtual_memory()
        told = f"{found.total / GB:.1f} GB, {found.available / GB:.1f} free"
        report.fact("machine", "memory", told, {"total": found.total, "free": found.available})
    with report.finding("working directory", "choose another: hydra.run.dir=DIR"):
        here = Path.cwd()
        free = shutil.disk_usage(here).free
        report.fact("machine", "disk", f"{free / GB:.1f} GB free in {here}", {"directory": str(here), "free": free})
        if not os.access(here, os.W_OK):
            report.problem(f"{here} cannot be written, where a run puts outputs/", "change there, or hydra.run.dir=DIR")
        if free < LEAST_DISK:
            report.problem(f"{free / GB:.1f} GB of disk left for checkpoints", "make room, or hydra.run.dir=DIR")


def check_cores(report: Report) -> None:
    cores, quota, threads = visible_cores(), container_cores(), os.environ.get("OMP_NUM_THREADS")
    limit = "" if quota is None else f", {quota:g} of them by the container's limit"
    report.fact("machine", "cores", f"{cores}{limit}", cores if quota is None else min(cores, quota))
    report.fact("machine", "OMP_NUM_THREADS", threads or "unset: the cores, divided among the processes of a run")
    owned = available_cores()
    wanted = int(threads) if threads is not None and threads.isdigit() else owned
    if wanted > owned:
        report.problem(f"{wanted} threads on {owned} cores wait for each other", f"export OMP_NUM_THREADS={owned}")


def check_tracking(report: Report) -> None:
    """The store that `tracking=mlflow` would take; an absent database stays absent."""
    from facenet.tracking.choice import MlflowTracking
    from facenet.tracking.store import store_state, where

    uri = where()
    report.fact("tracking", "store", addresses.masked_address(uri))
    with report.finding("tracking", "set MLFLOW_TRACKING_URI, or tracking=none"):
        report.fact("tracking", "state", store_state(uri, MlflowTracking().chosen_experiment().name))
