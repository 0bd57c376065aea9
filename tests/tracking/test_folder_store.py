"""A store that keeps runs in folders and each metric in a file, as MLflow's servers had it for years: `train/ce` cannot be a file and a folder."""

from __future__ import annotations

import pytest

from facenet.errors import UserError
from facenet.tracking import delivery, reading
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.delivery import as_named, name_beside
from facenet.tracking.sqlite_file import absolute
from facenet.tracking.store import store_state

ROWS = [
    {"train/loss": 2.0, "train/ce": 1.5, "train/ce/accuracy": 0.25, "epoch": 1.0, "epoch/train/ce/accuracy": 0.5},
    {"train/loss": 1.0, "train/ce": 0.5, "train/ce/accuracy": 0.75, "epoch": 2.0, "epoch/train/ce/accuracy": 1.0},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Tracking into ./mlruns, as MLFLOW_TRACKING_URI=mlruns has it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without, newer versions refuse it, and say so
    monkeypatch.setattr(delivery, "in_folders", {})
    monkeypatch.chdir(tmp_path)
    return MlflowTracking(uri="mlruns", system_metrics=False)


@pytest.mark.slow
def test_a_run_is_whole_there_and_ends(folder, facts, tmp_path, monkeypatch):
    with folder.run(facts()) as run_id:
        tracker = folder.tracker(run_id, tmp_path)
        for step, row in enumerate(ROWS):
            tracker.metrics(row, step=step)
        tracker.close()
    monkeypatch.chdir("/")  # the address has its whole path
    run = reading.run(str(tmp_path / "mlruns"), run_id)
    assert (run.status, run.metrics) == ("FINISHED", ROWS[1])
    for name in ROWS[0]:
        points = dict(reading.history(str(tmp_path / "mlruns"), run_id, name))
        assert points == {step: row[name] for step, row in enumerate(ROWS)}


def test_the_doctor_takes_it_where_mlflow_does(folder, monkeypatch, tmp_path):
    assert store_state(folder.where(), "study") == "a folder of runs" and not (tmp_path / "mlruns").exists()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(UserError, match="a folder, which newer MLflow refuses without MLFLOW_ALLOW_FILE_STORE=true"):
        store_state(folder.where(), "study")


def test_the_address_of_a_folder_is_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("./mlruns") == absolute("mlruns") == f"{tmp_path}/mlruns" == absolute(f"{tmp_path}/mlruns")
    for other in ("http://host:5000", "file:///runs", "databricks", "databricks://profile", "sqlite:////x/mlflow.db"):
        assert absolute(other) == other


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("train/ce", "train/ce"),
        ("train/ce/accuracy", "train/ce accuracy"),
        ("train/cell", "train/cell"),
        ("epoch/train/ce/accuracy", "epoch train ce accuracy"),
        ("lfw/tar_at_far_0.001", "lfw/tar_at_far_0.001"),
    ],
)
def test_names_that_go_on_where_another_ends_come_back(name, stored):
    assert name_beside(name, {"train/ce", "epoch"}) == stored and as_named(stored) == name
    assert name_beside(name, ()) == name
