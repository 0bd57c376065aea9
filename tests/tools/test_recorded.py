"""facenet-runs list and show, on a store with three runs."""

import contextlib
import shutil
import sqlite3
import time

import pytest

from facenet.errors import UserError
from facenet.tools.recorded import run_list, run_show
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts
from facenet.tracking.store import NOTE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    mlflow = MlflowTracking(uri=f"sqlite:///{folder}/mlflow.db", system_metrics=False)
    for number, name in enumerate(["lr 1e-3 · bs 96", "lr 2e-3 · bs 96", "twice", "twice"]):
        compared = {"optimizer.lr": 0.001 * (number + 1), "data.batch_size": 96, "plan.select": "lfw/accuracy"}
        tags = {
            NOTE: f"**lfw/accuracy 0.{number}**",
            "interval.lfw": "0.1000 – 0.2000",
            **({"sweep_id": "s"} if number < 2 else {}),
        }
        directory = folder / str(number)
        directory.mkdir()
        facts = RunFacts(name, directory, {}, "", {}, tags, {}, compared)
        try:
            with mlflow.run(facts) as run_id:
                tracker = mlflow.tracker(run_id, directory)
                tracker.metrics({"best/lfw/accuracy": 0.1 * number, "system/x": 1.0}, step=8)
                tracker.close()
                if number == 1:
                    raise ValueError("boom\nat rank 1")
        except ValueError:
            pass
        time.sleep(0.002)  # one after the other also in milliseconds
    return folder, mlflow.uri


def test_a_line_per_run(store, monkeypatch):
    folder, uri = store
    head, first, second, *_, last = run_list(uri=uri, experiment=None, sweep=None, limit=20).splitlines()
    assert head.split()[:6] == ["run", "name", "state", "lr", "batch", "best"]
    assert "lr 1e-3 · bs 96" in first and "finished" in first and "0.0000  0.1000 – 0.2000  lfw/accuracy" in first
    assert "failed" in second and "0.002" in second and "96" in second
    assert last == "facenet-runs show RUN says more of one"
    assert head.endswith("  directory") and first.endswith(f"  {folder}/0")
    monkeypatch.chdir(folder.parent)
    assert run_list(uri=uri, experiment=None, sweep="s", limit=1).splitlines()[1].endswith(f"  {folder.name}/1")


def test_the_newest_and_those_of_a_sweep(store):
    _, uri = store
    newest = run_list(uri=uri, experiment=None, sweep=None, limit=1)
    assert newest.count("twice") == 1 and "3 older ones with --limit 4" in newest
    assert run_list(uri=uri, experiment=None, sweep="s", limit=20).count("bs 96") == 2
    with pytest.raises(UserError, match="no run of sweep t in MLflow"):
        run_list(uri=uri, experiment=None, sweep="t", limit=20)


def test_one_run_by_id_name_and_directory(store):
    folder, uri = store
    text = run_show(uri=uri, run="lr 2e-3 · bs 96")
    run_id = text.split()[5]
    assert text == run_show(uri=uri, run=run_id[:10]) == run_show(uri=uri, run=str(folder / "1"))
    assert (
        "**lfw/accuracy 0.1**" in text and "failed: boom" in text and "optimizer.lr" in text and "system/x" not in text
    )
    assert (
        f"runs/{run_id}" in text and "viewStateShareKey=by-lfw_accuracy" in text and "best/lfw/accuracy  0.1000" in text
    )


def test_a_store_that_is_only_to_be_read_shows_its_runs(store, tmp_path):
    folder, _ = store
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        for change in ("INSERT", "UPDATE"):
            refused = "SELECT RAISE(ABORT, 'readonly')"
            database.execute(f"CREATE TRIGGER no_{change} BEFORE {change} ON experiment_tags BEGIN {refused}; END")
    text = run_show(uri=f"sqlite:///{tmp_path}/mlflow.db", run="lr 2e-3 · bs 96")
    assert "best/lfw/accuracy  0.1000" in text and "the run  http" in text and "beside others" not in text


def test_a_run_that_is_none_or_several(store, tmp_path):
    _, uri = store
    with pytest.raises(UserError, match="twice: 2 runs, the newest .*; see facenet-runs list"):
        run_show(uri=uri, run="twice")
    with pytest.raises(UserError, match="nothing: no such run in MLflow; see facenet-runs list"):
        run_show(uri=uri, run="nothing")
    with pytest.raises(UserError, match="has no metrics.jsonl of a run"):
        run_show(uri=uri, run=str(tmp_path))
