"""A store that is full, or comes and goes, takes a few lines of the terminal."""

import logging
import shutil
import sqlite3
import time

import pytest

from facenet.tracking import journal, sender
from facenet.tracking.store import open_experiment


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(sender, "PAUSE_S", 0.01)
    monkeypatch.setattr(sender, "RETRY_S", 0.01)


def lines(caplog):
    return [record.getMessage().split(" (")[0] for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_store_that_comes_and_goes_is_told_once(tmp_path, monkeypatch, caplog, quick):
    answers = []

    def deliver(client, path):
        answers.append(len(answers))
        if len(answers) % 2:
            raise OSError("full")

    monkeypatch.setattr(sender, "deliver", deliver)
    monkeypatch.setattr(sender, "open_client", lambda uri: None)
    away = sender.Sender("http://store", tmp_path / "metrics.jsonl")
    while len(answers) < 20:
        time.sleep(0.01)
    away.close()
    told = lines(caplog)
    assert told[:2] == [
        "MLflow at http://store is away",
        "MLflow at http://store is back and has all records until now",
    ]
    assert len(told) <= 3  # and whether it has all at the end


def test_a_full_database_writes_no_pages_of_tracebacks(store, tmp_path, caplog, quick, capfd, monkeypatch):
    """SQLite itself says that it is full."""
    shutil.copyfile(store / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, experiment = open_experiment(uri, "x")
    run_id = client.create_run(experiment).info.run_id
    path = journal.begin(tmp_path, run_id, uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT json('database or disk is full'); END"
        )
    tries, deliver = [], sender.deliver
    monkeypatch.setattr(sender, "deliver", lambda client, path: tries.append(path) or deliver(client, path))
    sending = sender.Sender(uri, path)
    written = journal.Journal(path)
    written.add(step=1, metrics={"a": 1.0})
    while not caplog.records:
        time.sleep(0.01)
    told = len(tries)
    while len(tries) < told + 5:
        time.sleep(0.01)
    sending.close()
    written.close()
    away, lacks = (line for line in lines(caplog) if line.startswith("MLflow"))  # the copy was moved, too
    assert away.startswith("MLflow at sqlite:") and away.endswith("is away")
    assert lacks.startswith("MLflow lacks the last records of the run; send them later: facenet-runs sync ")
    assert "Traceback" not in capfd.readouterr().err + caplog.text
