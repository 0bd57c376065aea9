"""The network that a sweep has come to, in MLflow."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.reports.ranking import rank
from facenet.reports.study import Study
from facenet.tracking.choice import MlflowTracking


def keep_winner(tracking: MlflowTracking, uri: str, study: Study, sweep_dir: Path) -> None:
    """Adds the network of the best job to its run, where that is wanted; of several seeds of the best setting that of the best one. Nothing where no
    job is ranked, or its directory is not seen from here."""
    from facenet.tasks.registration import keep_model
    from facenet.tasks.restore import checkpoint_in

    settings = rank(study).settings
    if not settings:
        return
    sign = -1.0 if study.lower_is_better else 1.0
    winner = max(settings[0].jobs, key=lambda job: sign * (job.value or 0.0))
    jobs = directories(sweep_dir)
    if winner.run_id in jobs:
        others = jobs.keys() & {job.run_id for job in study.jobs} - {winner.run_id}  # another sweep may lie below this
        keep_model(replace(tracking, uri=uri), winner.run_id, checkpoint_in(jobs[winner.run_id]), others)


def directories(sweep_dir: Path) -> dict[str, Path]:
    """MLflow run -> directory, of the jobs in a sweep's directory: what the store says of directories is anybody's word, and another sweep may have
    the name of this one."""
    found: dict[str, Path] = {}
    for path in sorted(sweep_dir.rglob(RunDir.store)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if not path.parent.is_symlink() and isinstance(run_id := json.loads(text_of(path))["run_id"], str):
                found.setdefault(run_id, path.parent)
    return found
