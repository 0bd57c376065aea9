"""What was deleted in MLflow, and addresses that depend on a directory."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.reports.ranking import ranked_table
from facenet.reports.study import read_study
from facenet.tools.recorded import run_list, run_show
from facenet.tracking import store
from facenet.tracking.sqlite_file import absolute
from facenet.tracking.store import open_client, store_state, where


def test_a_deleted_experiment_is_seen_by_doctor_and_report(own):
    client = open_client(own.uri)
    study = client.get_experiment_by_name("study one").experiment_id
    run = client.create_run(study, tags={"sweep_id": "lost", "job_num": "0"}).info.run_id
    assert store_state(own.uri, "study one").endswith(" runs")
    client.delete_experiment(study)
    with pytest.raises(
        UserError, match="^tracking.experiment=study one: was deleted .* experiments restore .*, or set "
    ):
        store_state(own.uri, "study one")
    assert store_state(own.uri, "facenet").endswith(" runs")
    with pytest.raises(UserError, match=f"^lost: its experiment study one: was deleted .* --experiment-id {study}, "):
        read_study(own.uri, "lost")
    client.restore_experiment(study)
    client.delete_run(run)
    with pytest.raises(UserError, match=f"^lost: its 1 runs were deleted in MLflow; .* runs restore --run-id {run}$"):
        read_study(own.uri, "lost")
    with pytest.raises(UserError, match="^none: no such sweep in MLflow"):
        read_study(own.uri, "none")


@pytest.mark.slow  # two commands of MLflow
def test_a_sweep_says_which_runs_of_it_were_deleted_and_the_line_brings_them_back(own):
    """They were told as jobs that have no run yet, with a command that skips them as finished."""
    client = open_client(own.uri)
    experiment = client.get_experiment_by_name("study one").experiment_id

    def begin(number: int, place: str = "here", **tags: str) -> str:
        tags |= {"sweep_id": "part", "job_num": str(number), "run_dir": f"/{place}/part/{number}", "sweep.jobs": "5"}
        return str(client.create_run(experiment, tags=tags, run_name=f"job {number}").info.run_id)

    older, *runs = [begin(2, "elsewhere"), *(begin(number) for number in (0, 1, 2, 2))]
    client.create_run(experiment, tags={"sweep_id": "other", "job_num": "3"})
    for gone in (older, *runs[1:3]):  # another sweep's, job 1, and the first try of job 2
        client.delete_run(gone)
    study = read_study(own.uri, "part")
    assert (study.missing, study.deleted) == ((3, 4), (1,))
    said = f"MLFLOW_TRACKING_URI={own.uri} mlflow runs restore --run-id"
    assert study.left_out == [
        "2 of 5 jobs have no run yet, or never will (3, 4); go on with: facenet-train sweep.resume=/here/part",
        f"the runs of 1 of 5 jobs were deleted in MLflow (1), which are left out here; bring it back with: {said} {runs[1]}",
    ]
    assert f"\n  {study.left_out[1]}\n" in ranked_table(study)
    client.delete_run(runs[3])
    study = read_study(own.uri, "part")
    assert study.deleted == (1, 2)
    loop = f"for run in {runs[1]} {runs[3]}; do {said} $run; done"  # of job 2 the newest
    assert study.way_back == f"bring them back with: {loop}"
    with pytest.raises(
        UserError, match=f"^job 1: this run was deleted in MLflow; bring it back .* --run-id {runs[1]}$"
    ):
        run_show(uri=own.uri, run="job 1")

    client.delete_run(runs[0])
    with pytest.raises(UserError, match="^part: its 5 runs were deleted in MLflow; bring them back with: for run in "):
        run_list(uri=own.uri, experiment=None, sweep="part", limit=20)
    with pytest.raises(UserError, match="^no run of sweep part in MLflow"):
        run_list(uri=own.uri, experiment="Default", sweep="part", limit=20)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", loop], env={**os.environ, "PATH": path}, check=True, timeout=600)
    study = read_study(own.uri, "part")
    assert [job.run_id for job in study.jobs] == [runs[1], runs[3]] and study.deleted == (0,)


@pytest.mark.parametrize("uri", ["sqlite:///runs.db", "sqlite:///sub/runs.db?timeout=30"])
def test_an_address_is_the_same_from_any_directory(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = where(uri)
    assert found == uri.replace("sqlite:///", f"sqlite:///{tmp_path}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert where() == found
    os.chdir("/")
    assert where(found) == found


@pytest.mark.parametrize("uri", ["sqlite:////a/b.db", "sqlite:///:memory:", "http://host:5000/x", "postgresql://h/db"])
def test_other_addresses_stay_as_they_are(uri):
    assert absolute(uri) == uri


def test_the_advised_server_takes_a_port_that_is_free(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(store, "FIRST_PORT", taken.getsockname()[1])
        advised = store.page("sqlite:////a b/mlflow.db", "#/x")
    (port,) = re.findall(r"--port (\d+) ", advised)
    assert int(port) > store.FIRST_PORT and f"http://127.0.0.1:{port}/#/x" in advised
    assert shlex.split(advised.splitlines()[0])[3] == "sqlite:////a b/mlflow.db"
