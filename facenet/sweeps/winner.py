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
    if (run_dir := directory_of(winner.run_id, sweep_dir)) is not None:
        keep_model(replace(tracking, uri=uri), winner.run_id, checkpoint_in(run_dir))


def directory_of(run_id: str, sweep_dir: Path) -> Path | None:
    """Of the jobs in a sweep's directory, that of an MLflow run: what the store says of directories is anybody's word."""
    for path in sorted(sweep_dir.rglob(RunDir.store)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if not path.parent.is_symlink() and json.loads(text_of(path))["run_id"] == run_id:
                return path.parent
    return None
