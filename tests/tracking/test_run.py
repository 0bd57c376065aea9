import hashlib
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.tracking import journal
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.run import times
from facenet.tracking.tracker import NullTracker


def test_a_run_that_ends_is_finished_and_described(mlflow, client, store, facts):
    with mlflow.run(facts()) as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "lr 0.1"
    assert run.data.tags["sweep_id"] == "s1" and run.data.tags["pid"] == str(os.getpid())
    assert client.get_experiment(run.info.experiment_id).name == "study one"
    assert run.data.params == {
        "optimizer.lr": "0.1",
        "loss.terms.0.w": "1",
        "loss.terms.1.w": "2.5",
        "weights": "None",
        "plan.total_steps": "8",
        "plan.device": "here",
        "plan.lr": "0.01",
    }
    inputs = {
        each.tags[0].value: (each.dataset.name, each.dataset.digest, each.dataset.source)
        for each in run.inputs.dataset_inputs
    }
    assert inputs["train"][:2] == ("people", "0123456789abcdef") and "/data/people" in inputs["train"][2]
    assert inputs["test"][:2] == ("lfw", "f" * 36)  # MLflow's longest digest
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(store / "mlartifacts" / "study_one")
    assert (folder / "config" / "resolved.yaml").read_text() == "optimizer: {lr: 0.1}\n"
    assert (folder / "config" / "everything.json").is_file()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom on rank 1 at http://a:hunter2@b"), "FAILED"),
        (UserError("data.root: empty"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_how_a_run_ended_shows(mlflow, client, facts, error, status):
    with pytest.raises(type(error)), mlflow.run(facts()) as run_id:
        raise error
    run = client.get_run(run_id)
    assert run.info.status == status and run.info.end_time
    assert run.data.tags.get("error") == (str(error).replace("a:hunter2", "***") if status == "FAILED" else None)


def test_many_and_long_params_and_tags(mlflow, client, facts):
    config = {**{f"p{number}": number for number in range(250)}, "long": "x" * 6001}
    with mlflow.run(facts(config=config, plan={}, tags={"command": "y" * 8001, "short": "z" * 8000})) as run_id:
        pass
    data = client.get_run(run_id).data
    digest = hashlib.sha256(b"x" * 6001).hexdigest()
    assert {name: value for name, value in data.params.items() if name != "long"} == {
        f"p{number}": str(number) for number in range(250)
    }
    assert digest in data.params["long"]
    assert hashlib.sha256(b"y" * 8001).hexdigest() in data.tags["command"] and data.tags["short"] == "z" * 8000


def test_a_run_is_taken_up_again_as_if_it_had_never_stopped(mlflow, client, facts, tmp_path):
    with pytest.raises(ValueError, match="boom"), mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        for step in (1, 2, 3):
            tracker.metrics({"train/loss": 1 / step, "speed": 100.0}, step=step)
        tracker.close()
        raise ValueError("boom")
    with mlflow.run(facts(config={"other": 1}, name="other"), run_id) as again:
        assert again == run_id and client.get_run(run_id).info.status == "RUNNING"
        assert not {"error", "reaped"} & client.get_run(run_id).data.tags.keys()
        tracker = mlflow.tracker(run_id, tmp_path)
        for step in (2, 3, 4):  # from the checkpoint of step 1
            tracker.metrics({"train/loss": 1 / step, "speed": 90.0}, step=step)
        tracker.metrics({"val/loss": 7.0}, step=4)
        tracker.close()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "lr 0.1" and run.data.tags["resumed"] == "1"
    assert run.data.params["optimizer.lr"] == "0.1" and "other" not in run.data.params
    histories = {name: client.get_metric_history(run_id, name) for name in ("train/loss", "speed", "val/loss")}
    points = {name: [(point.step, point.value) for point in found] for name, found in histories.items()}
    assert points == {
        "train/loss": [(step, 1 / step) for step in (1, 2, 3, 4)],
        "speed": [(1, 100.0), (2, 100.0), (3, 100.0), (4, 90.0)],
        "val/loss": [(4, 7.0)],
    }
    with mlflow.run(facts(), run_id):
        pass
    assert client.get_run(run_id).data.tags["resumed"] == "2"


def test_a_run_of_another_store_is_told(mlflow, facts):
    with pytest.raises(UserError, match=f"resume: run {'0' * 32} is not in MLflow at sqlite:.*; set tracking.uri to"):
        mlflow.run(facts(), "0" * 32).__enter__()


def test_how_to_look_at_a_run(mlflow, client, facts):
    with mlflow.run(facts()) as run_id:
        pass
    experiment_id = client.get_run(run_id).info.experiment_id
    command, page = mlflow.view(run_id).splitlines()
    assert command.startswith(f"mlflow server --backend-store-uri {shlex.quote(mlflow.uri)} ")
    assert (
        page.endswith(f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning")
        and "http://127.0.0.1:50" in page
    )
    assert MlflowTracking().view(None) is None


@pytest.mark.cold
def test_without_tracking_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys, pathlib; from facenet.tracking.choice import NoTracking\n"
        "from facenet.tasks import job, train, evaluate\n"
        "from types import SimpleNamespace\n"
        "tracking, here = NoTracking(), pathlib.Path()\n"
        "with tracking.run(SimpleNamespace(run_dir=here, select=None)) as run_id:\n"
        "    tracker = tracking.tracker(run_id, here)\n"
        "    tracker.metrics({'a': 1.0}, step=1); tracker.tag('a', 'b'); tracker.close()\n"
        "assert run_id is None and tracking.view(run_id) is None\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'matplotlib', 'albumentations')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]" and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.cold
def test_the_process_that_trains_knows_no_mlflow(tmp_path):
    journal.begin(tmp_path, "a" * 32, None)
    code = (
        "import sys, pathlib; from facenet.tracking.choice import MlflowTracking\n"
        "tracker = MlflowTracking(uri='http://nowhere').tracker('a' * 32, pathlib.Path(sys.argv[1]))\n"
        "tracker.metrics({'a': 1.0}, step=1); tracker.close()\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'requests', 'sqlalchemy', 'torch')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[]"
    assert [record.get("metrics") for record, _ in journal.read(tmp_path / "metrics.jsonl")] == [None, {"a": 1.0}]


def test_a_run_that_is_not_tracked_writes_nothing(tmp_path):
    assert isinstance(MlflowTracking().tracker(None, tmp_path), NullTracker)
    assert isinstance(NoTracking().tracker("whatever", tmp_path), NullTracker)


KILLED = """
import pathlib, sys, time
from facenet.launch.local import stop_signals_raise
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts
mlflow = MlflowTracking(uri=f"sqlite:///{sys.argv[1]}/mlflow.db")
with stop_signals_raise(), mlflow.run(RunFacts("killed", pathlib.Path(sys.argv[2]), {}, "", {}, {}, {})):
    print("running", flush=True)
    time.sleep(60)
"""


def test_a_stop_signal_leaves_no_run_that_seems_to_run(store, tmp_path):
    arguments = [sys.executable, "-c", KILLED, str(store), str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute("select status from runs where name = 'killed'").fetchall() == [("KILLED",)]


def test_how_often_a_run_was_resumed_is_a_count_whatever_its_tag_says():
    assert [times(text) for text in ("2", "", "x", "-1", "9" * 400)] == [2, 0, 0, 0, 0]
