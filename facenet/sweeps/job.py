"""One job of a sweep, in whatever process it runs. With DIR and FD as arguments it is that process where facenet's own launcher
starts it: the order comes as JSON on stdin, the answer goes to the file descriptor."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from facenet.errors import FAILURE, INTERRUPTED, USER, UserError, printable
from facenet.files import trusted
from facenet.files.atomic import replacing
from facenet.files.reading import regular
from facenet.launch.failure import RankFailed, note_failure, noted_failures
from facenet.launch.local import die_with_parent, launch
from facenet.launch.order import Order
from facenet.launch.signals import STOP_SIGNALS, requeued_after, stop_signals_raise
from facenet.launch.surroundings import keep_open, pass_over_matplotlibrc
from facenet.privacy.addresses import mask
from facenet.privacy.logs import guard_logs
from facenet.tracking.facts import JOBS

log = logging.getLogger(__name__)
TABLES = ("plan.csv", "plan.txt")  # in the directory of the sweep


def run_sweep_job(
    config: dict[str, Any],
    *,
    run_dir: Path,
    sweep_dir: Path,
    overrides: list[str],
    tags: dict[str, str],
    pruning: dict[str, int] | None = None,
) -> float | None:
    """The objective of a job, None where it is no number. One that is finished does not run again, one that was interrupted goes on.
    `pruning`: `Sweep.pruning()`.

    Raises what `tasks.job.run_job` does, and UserError where a job of another config ran in this directory.
    """
    from facenet.sweeps.state import finite, state_of
    from facenet.tasks.job import run_job

    state = state_of(run_dir, config)
    if state.kind == "changed":
        raise UserError(f"{run_dir}: a job of another config ran here ({state.note}); choose another hydra.sweep.dir")
    if state.kind == "finished":
        log.info("%s: finished before, not run again", run_dir)
        return state.objective
    run_dir.mkdir(parents=True, exist_ok=True)

    def start(directory: Path, distributed: Any, order: Order) -> Any:
        if order.run_id is not None:
            attach_tables(directory, sweep_dir)
        if pruning is not None:
            order = replace(order, pruning={**rivals(directory, config, tags), **pruning, "directory": str(sweep_dir)})
        return launch(directory, distributed, order)

    config = {**config, "resume": config["resume"] or "auto"}
    tags = {**tags, **known_jobs(sweep_dir)}
    with requeued_after():
        done = run_job(config, run_dir=run_dir, overrides=overrides, tags=tags, start=start, sweep_dir=sweep_dir)
        return finite(done.objective)


def known_jobs(sweep_dir: Path) -> dict[str, str]:
    """The tag that says how many jobs the sweep has; none where a search has not chosen them yet."""
    with contextlib.suppress(OSError, UnicodeError, csv.Error), open(sweep_dir / TABLES[0], opener=regular) as table:
        return {JOBS: str(sum(1 for _ in csv.DictReader(table)))}
    return {}


def rivals(run_dir: Path, config: dict[str, Any], tags: dict[str, str]) -> dict[str, str]:
    """Where `tasks.pruning` finds the sweep's other runs. Raises UserError where none are recorded."""
    from facenet import config as configs
    from facenet.tasks.run_store import stored_in
    from facenet.tracking.choice import MlflowTracking
    from facenet.tracking.store import where

    tracking = configs.build(config["tracking"], "tracking")
    if not isinstance(tracking, MlflowTracking):
        raise UserError("sweep.prune: compares runs that are in MLflow; set tracking=mlflow, or sweep.prune=null")
    uri = where(stored_in(run_dir) or tracking.where())
    return {"uri": uri, "sweep_id": tags["sweep_id"], "job_num": tags["job_num"]}


def attach_tables(run_dir: Path, sweep_dir: Path) -> None:
    """Each run of a sweep shows what the others are: a copy, since nothing outside of a run's directory is sent."""
    from facenet.tracking.tracker import JournalTracker

    with contextlib.closing(JournalTracker(run_dir)) as tracker:
        for path in (sweep_dir / name for name in TABLES):
            if path.is_file() and not path.is_symlink():
                with replacing(run_dir / path.name) as copy:
                    shutil.copyfile(path, copy)
                tracker.artifact(run_dir / path.name, "sweep")


def main(run_dir: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and answer: {"objective"} or {"failure"}."""
    try:
        with stop_signals_raise():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # held back since before this process began
            order = json.load(sys.stdin)
            trusted.take_over(order.pop("trusted"))
            sweep_dir = Path(order.pop("sweep_dir"))
            return 0, {"objective": run_sweep_job(**order, run_dir=run_dir, sweep_dir=sweep_dir)}
    except KeyboardInterrupt:
        return INTERRUPTED, {}
    except SystemExit as end:
        return int(end.code or 0), {}
    except Exception as error:
        known = isinstance(error, (UserError, RankFailed))
        text = printable(mask(str(error) if known else traceback.format_exc()))
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            if not noted_failures(run_dir):  # it failed before a rank did
                note_failure(run_dir, 0, error)
        return USER if isinstance(error, UserError) else FAILURE, {"failure": text}


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    keep_open()
    pass_over_matplotlibrc()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    guard_logs()
    sys.argv[0] = "facenet-train"  # for the command on record
    code, answer = main(Path(sys.argv[1]))
    os.write(int(sys.argv[2]), json.dumps(answer).encode())
    sys.exit(code)
