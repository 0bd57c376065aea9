"""facenet-report: reads a sweep from MLflow, writes its page and adds it to the best run."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from facenet.errors import UserError, shown
from facenet.files.atomic import replacing
from facenet.reports.ranking import rank, verdict
from facenet.reports.study import Study, read_curves, read_study
from facenet.tracking import reading
from facenet.tracking.store import where


def run_report(sweep_id: str, uri: str | None, out: str | None) -> str:
    """The verdict and where the page is. Raises UserError for an unknown sweep, a missing plotly, or a file that cannot be written."""
    try:
        from facenet.reports.page import page
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("plotly"):
            raise
        raise UserError(
            "facenet-report draws with plotly, which is not installed: pip install 'facenet[report]'"
        ) from None
    address = where(uri)
    study = read_study(address, sweep_id)
    curves = {
        name: read_curves(address, study, name) for name in dict.fromkeys([study.metric, "train/loss", "val/loss"])
    }
    path = Path(out or f"report-{re.sub(r'[^A-Za-z0-9_.-]', '_', sweep_id)}.html").absolute()
    try:
        with contextlib.nullcontext(path) if out else replacing(path) as place:
            place.write_text(page(study, curves), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror}); choose another") from None
    run_id = home(study)
    reading.attach(address, run_id, path, "report")
    unfinished = f"{shown(study.incomplete)}\n" if study.incomplete else ""
    said = f"{shown(verdict(rank(study)))}\n{unfinished}"
    return f"{said}{shown(str(path))} ({path.stat().st_size / 1e6:.1f} MB), also in the artifacts of run {run_id}"


def home(study: Study) -> str:
    """The run that keeps the page: the best one, or the first where none has a rank."""
    settings = rank(study).settings
    return settings[0].jobs[0].run_id if settings else study.jobs[0].run_id
