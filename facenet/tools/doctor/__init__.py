"""Whether this machine can train, and what to fix: `facenet-doctor`.

Each check says what it finds as it finds it; a check that fails is a finding and never a traceback. Nothing is written outside a
temporary directory, and the tracking store is looked at without being made.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator

from facenet.errors import printable
from facenet.launch.local import INHERITED
from facenet.tools.doctor.collectives import check_collectives, run_collectives
from facenet.tools.doctor.machine import check_machine, check_tracking
from facenet.tools.doctor.report import Report
from facenet.tools.doctor.settings import check_settings
from facenet.tools.doctor.software import check_software

__all__ = ["run_collectives", "run_doctor"]


def run_doctor(accelerator: str, *, num_processes: int | None, as_json: bool) -> bool:
    """Whether one can train on `accelerator`; prints the findings, or with `as_json` one object on stdout when all are known."""
    if not as_json:
        report = examine(Report(say=lambda line: print(printable(line), flush=True)), accelerator, num_processes)
        print(printable(f"\n{report.summary()}"), flush=True)
    else:
        with stdout_to_stderr():
            report = examine(Report(say=lambda line: None), accelerator, num_processes)
        print(json.dumps(report.as_dict(), indent=2), flush=True)
    return not report.cannot_train


def examine(report: Report, accelerator: str, num_processes: int | None) -> Report:
    """All checks, cheap ones first; what needs torch or a device is left out where there is none."""
    has_torch = check_software(report)
    check_settings(report, has_torch)
    check_machine(report)
    check_tracking(report)
    if not has_torch:
        return report
    from facenet.tools.doctor.device import check_device, check_devices

    with outside_groups():  # a RANK left in the environment would have the checks wait for other processes
        name = check_devices(report, accelerator)
        if name is not None and check_device(report, name):
            check_collectives(report, name, num_processes)
    return report


@contextlib.contextmanager
def outside_groups() -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in INHERITED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """For all that writes to the terminal, plugins in C and started processes included, so that stdout holds one object alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
