"""facenet-report, and the end of a sweep: reads it from MLflow, writes its page, adds that to the best run and says there that it is the best."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import webbrowser
from dataclasses import replace
from pathlib import Path

from facenet.errors import UserError, printable, shown
from facenet.files.atomic import replacing
from facenet.files.typed import naming
from facenet.privacy.addresses import mask
from facenet.reports.page import page
from facenet.reports.pairwise import faces_of, found_in
from facenet.reports.ranking import rank, verdict
from facenet.reports.study import Study, read_curves, read_study, sweeps_of
from facenet.tracking import reading
from facenet.tracking.store import NOTE, served, slug, where
from facenet.tracking.views import over_seeds

BEST, END = "**Best of its sweep**", "\n\n---\n\n"


def run_report(
    sweep_id: str | None, uri: str | None, out: str | None, *, faces: str | None = None, open: bool = False
) -> str:
    """The verdict and where the page is, which a browser shows if asked to `open` it. `faces`: the folder of the images, which are then in the page.
    Raises UserError for no or an unknown sweep, a folder without the images and a file that cannot be written."""
    address = where(uri)
    if sweep_id is None:
        raise UserError(f"SWEEP_ID is missing: name a sweep of {sweeps_of(address)}")
    directory = os.path.abspath(sweep_id) if "/" in sweep_id else ""
    sweep_id = os.path.basename(directory) or sweep_id
    study = read_study(address, sweep_id, directory)
    if directory not in ("", study.directory):
        raise UserError(
            f"{shown(directory)}: no sweep of MLflow's ran there; name it as {naming('facenet-report', sweep_id)}"
        )
    path = Path(out or name_of(sweep_id)).absolute()
    told = write_report(address, study, path, exactly=out is not None, faces=faces)
    unfinished = "".join(f"{shown(line)}\n" for line in study.left_out)
    if open and not webbrowser.open(path.as_uri()):
        told += "; no browser was found to open it"
    return f"{shown(verdict(rank(study)))}\n{unfinished}{told}"


def name_of(sweep_id: str) -> str:
    return f"report-{slug(sweep_id)}.html"


def write_report(uri: str, study: Study, path: Path, *, exactly: bool = False, faces: str | None = None) -> str:
    """Where the page is, in words. `exactly`: at this very path, be it a link or a pipe. With `faces` in it, it stays on this machine. Raises
    UserError for a file that cannot be written and a store that cannot be read."""
    names = dict.fromkeys([study.metric, "train/loss", "val/loss"])
    curves, found = {name: read_curves(uri, study, name) for name in names}, found_in(uri, rank(study))
    if faces is not None:
        if found.pairwise is None:
            raise UserError("--faces: the two best settings have no lists of the same pairs in MLflow; leave it out")
        found = replace(found, faces=faces_of(found.pairwise, Path(faces)))
    text = page(study, curves, served(uri), found)
    try:
        with contextlib.nullcontext(path) if exactly else replacing(path) as place:
            place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror}); choose another") from None
    size, best = f"{path.stat().st_size / 1e6:.2f} MB", home(study)
    if not path.is_file():  # a pipe, which is read by whoever reads it
        return f"{shown(str(path))}: written"
    if faces is not None:
        return f"{shown(str(path))} ({size}), with faces in it and therefore not sent to MLflow"
    try:
        attach(uri, best, path, name_of(study.sweep_id))
    except UserError as error:
        return f"{shown(str(path))} ({size}); not among the artifacts of run {best}: {error}"
    tell_best(uri, study, best, f"report/{name_of(study.sweep_id)}")
    tell_spread(uri, study)
    return f"{shown(str(path))} ({size}), also in the artifacts of run {best}"


def attach(uri: str, run_id: str, path: Path, name: str) -> None:
    """Adds the page to a run under its own name, whatever the file is called: a run has one page of a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder) / name)
        reading.attach(uri, run_id, Path(folder) / name, "report")


def home(study: Study) -> str:
    """The run that keeps the page: the best one, or the first where none has a rank."""
    settings = rank(study).settings
    return settings[0].jobs[0].run_id if settings else study.jobs[0].run_id


def tell_best(uri: str, study: Study, best: str, artifact: str) -> None:
    """Puts the answer of a sweep before the best run's description, and takes it from the run that was the best before."""
    answer = printable(mask(verdict(rank(study)))).replace("`", "'")
    for run in reading.runs_of_sweep(uri, study.sweep_id, directory=study.directory):
        note = run.tags.get(NOTE, "")
        rest = note.partition(END)[2] if note.startswith(BEST) else note
        told = f"{BEST}: `{answer}`\n\nThe whole comparison: artifact `{artifact}`{END}{rest}"
        if (new := told if run.id == best else rest) != note:
            reading.tag(uri, run.id, {NOTE: new})


def tell_spread(uri: str, study: Study) -> None:
    """Gives each run the standard deviation of its setting over seeds, where there are several: MLflow's table has nothing else to show it by."""
    spread = {job.run_id: each.std for each in rank(study).settings for job in each.jobs if each.std is not None}
    name = over_seeds(study.metric)
    for run in reading.runs_of_sweep(uri, study.sweep_id, directory=study.directory):
        if (std := spread.get(run.id)) is not None and run.metrics.get(name) != std:
            reading.measure(uri, run.id, name, std)
