"""What was deleted in MLflow, and addresses that depend on a directory."""

from __future__ import annotations

import os
import re
import shlex
import socket

import pytest

from facenet.errors import UserError
from facenet.reports.study import read_study
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
