import hashlib
import http.server
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facenet.engine import tracking
from facenet.engine.tracking import MlflowTracking, NoTracking, RunFacts, flatten, masked, safe_name, shortened
from facenet.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for the tests that do not need a fresh one: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def mlflow(store):
    return MlflowTracking(uri=f"sqlite:///{store}/mlflow.db", experiment="study one")


@pytest.fixture
def client(mlflow):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow.uri)


def facts(**changes):
    known = {
        "name": "lr 0.1",
        "config": {"optimizer": {"lr": 0.1}, "loss": {"terms": [{"w": 1}, {"w": 2.5}]}, "weights": None},
        "config_yaml": "optimizer: {lr: 0.1}\n",
        "plan": {"total_steps": 8, "device": "cpu"},
        "tags": {"host": "here"},
        "datasets": {"train": ("people", "/data/people", "0123456789abcdef"), "test": ("lfw", "/data/lfw", "f" * 40)},
    }
    return RunFacts(**{**known, **changes})


def test_a_run_that_ends_is_finished_and_described(mlflow, client, store, tmp_path):
    with mlflow.run(facts()) as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "lr 0.1" and run.data.tags["host"] == "here"
    assert client.get_experiment(run.info.experiment_id).name == "study one"
    assert run.data.params == {
        "optimizer.lr": "0.1",
        "loss.terms.0.w": "1",
        "loss.terms.1.w": "2.5",
        "weights": "None",
        "plan.total_steps": "8",
        "plan.device": "cpu",
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
    assert (folder / "config" / "plan.json").is_file()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom on rank 1"), "FAILED"),
        (UserError("data.root: empty"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_how_a_run_ended_shows(mlflow, client, tmp_path, error, status):
    with pytest.raises(type(error)), mlflow.run(facts()) as run_id:
        raise error
    run = client.get_run(run_id)
    assert run.info.status == status and run.info.end_time
    assert run.data.tags.get("error") == (str(error) if status == "FAILED" else None)


def test_long_values_are_hashed_and_odd_names_replaced(mlflow, client, tmp_path):
    value = "x" * 6001
    config = {"short": "y" * 6000, "long": value, "tar@far": 1, "k" * 400: 2}
    with mlflow.run(facts(config=config)) as run_id:
        pass
    params = client.get_run(run_id).data.params
    assert params["short"] == "y" * 6000
    assert hashlib.sha256(value.encode()).hexdigest() in params["long"] and len(params["long"]) < 400
    assert params["tar_far"] == "1" and params["k" * 250] == "2"


def test_many_params_go_in_several_batches(mlflow, client, tmp_path):
    with mlflow.run(facts(config={f"p{number}": number for number in range(250)}, plan={})) as run_id:
        pass
    assert client.get_run(run_id).data.params == {f"p{number}": str(number) for number in range(250)}


def test_metrics_artifacts_and_tags_of_rank_0(mlflow, client, tmp_path):
    picture = tmp_path / "roc.png"
    picture.write_bytes(b"png")
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id)
        for step in (20, 40):
            tracker.metrics({"train/loss": 1 / step, "tar@far=0.001": step}, step=step)
        tracker.metrics({f"m{number}": number for number in range(1001)}, step=40)
        tracker.metrics({"train/nan": float("nan")}, step=40)
        tracker.artifact(picture, "curves")
        tracker.tag("note", "seen")
        tracker.close()
    losses = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(20, 0.05), (40, 0.025)]
    run = client.get_run(run_id)
    assert run.data.metrics["tar_far_0.001"] == 40 and run.data.metrics["m1000"] == 1000
    assert math.isnan(run.data.metrics["train/nan"]) and run.data.tags["note"] == "seen"
    assert [item.path for item in client.list_artifacts(run_id, "curves")] == ["curves/roc.png"]


def test_a_store_that_fails_in_mid_run_costs_its_records_and_not_the_run(mlflow, tmp_path, caplog):
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id)
        tracker.artifact(tmp_path / "absent.png")
        tracker.metrics({"a": 1.0}, step=1)
        tracker.close()
    assert f"MLflow did not take a record of run {run_id}" in caplog.text


def test_a_store_that_is_gone_at_the_end_costs_the_state_and_not_the_run(mlflow, store, tmp_path, caplog):
    mlflow.connect()
    shutil.copy(store / "mlflow.db", tmp_path)
    copy = MlflowTracking(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment=mlflow.experiment)
    with copy.run(facts()) as run_id:
        (tmp_path / "mlflow.db").write_bytes(b"overwritten " * 1000)
    assert f"MLflow did not take the end (FINISHED) of run {run_id}: " in caplog.text
    assert copy.view(run_id) == f"run {run_id} at {copy.uri}, which does not answer now"
    with pytest.raises(ValueError, match="the cause"), mlflow.run(facts()):
        raise ValueError("the cause")


def test_experiment_names_stay_as_given_and_their_folders_are_safe(store, client):
    from mlflow import MlflowClient

    named = MlflowTracking(uri=f"sqlite:///{store}/mlflow.db", experiment="a/b: 50 %")
    _, experiment_id = named.connect()
    experiment = MlflowClient(tracking_uri=named.uri).get_experiment(experiment_id)
    assert experiment.name == "a/b: 50 %" and experiment.artifact_location.endswith("/mlartifacts/a_b__50__")


@pytest.mark.parametrize(
    ("node", "flat"),
    [
        ({"a": {"b": [1, {"c": None}]}}, {"a.b.0": 1, "a.b.1.c": None}),
        ({"a": {}, "b": [], "c": 0}, {"c": 0}),
        ({1: True}, {"1": True}),
    ],
)
def test_flatten(node, flat):
    assert flatten(node) == flat


def test_names_and_values():
    assert safe_name("val/tar@far=1e-3[0]") == "val/tar_far_1e-3_0_" and safe_name("a b:c.d/e-f_g") == "a b:c.d/e-f_g"
    assert shortened(0.5) == "0.5" and shortened("x" * 6000) == "x" * 6000


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql://me:p%40ss@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("no answer from https://a:b@c and https://d:e@f", "no answer from https://a:***@c and https://d:***@f"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_passwords_are_masked(uri, shown):
    assert masked(uri) == shown


def test_the_address_is_the_configs_then_the_environments_then_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowTracking().where() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://one:5000")
    assert MlflowTracking().where() == "http://one:5000"
    assert MlflowTracking(uri="http://two:5000").where() == "http://two:5000"


def test_how_to_look_at_a_run(mlflow, client, tmp_path, monkeypatch):
    with mlflow.run(facts()) as run_id:
        pass
    experiment_id = client.get_run(run_id).info.experiment_id
    command, page = mlflow.view(run_id).splitlines()
    assert command.startswith(f"mlflow server --backend-store-uri '{mlflow.uri}' ")
    assert page.endswith(f"http://127.0.0.1:5000/#/experiments/{experiment_id}/runs/{run_id}")
    assert MlflowTracking().view(None) is None


@pytest.mark.parametrize("credentials", ["", "me:secret@"])
def test_a_server_that_does_not_answer_is_told_within_seconds(tmp_path, credentials):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        uri = f"http://{credentials}127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(UserError) as raised, MlflowTracking(uri=uri).run(facts()):
            raise AssertionError("the run must not start")
    assert time.monotonic() - started < 30
    message = str(raised.value)
    assert "cannot be used (it does not answer); start it, set tracking.uri, or tracking=none" in message
    assert "secret" not in message and "\n" not in message


def test_a_database_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(UserError, match="tracking: MLflow at sqlite:.* cannot be used .*tracking=none"):
        MlflowTracking(uri=f"sqlite:///{tmp_path}/file/mlflow.db").connect()


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 1000)
    with pytest.raises(UserError, match="cannot be used .*not a database.*tracking=none") as raised:
        MlflowTracking(uri=f"sqlite:///{tmp_path}/mlflow.db").connect()
    assert "\n" not in str(raised.value)


def test_a_kind_of_store_that_mlflow_does_not_know(tmp_path):
    with pytest.raises(UserError, match="tracking: MLflow at gopher://host cannot be used .*gopher.*set tracking.uri"):
        MlflowTracking(uri="gopher://host").connect()


def test_a_server_that_is_no_mlflow(tmp_path):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match="cannot be used .*501.*tracking=none") as raised:
        MlflowTracking(uri=f"http://127.0.0.1:{server.server_port}").connect()
    server.shutdown()
    assert "\n" not in str(raised.value)


FIRST = """
import sys, pathlib
from facenet.engine.tracking import MlflowTracking, RunFacts
path = pathlib.Path(sys.argv[1])
mlflow = MlflowTracking(uri=f"sqlite:///{path}/mlflow.db")
with mlflow.run(RunFacts(sys.argv[2], {"a": 1}, "", {}, {}, {})) as run_id:
    tracker = mlflow.tracker(run_id)
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.close()
"""


@pytest.mark.slow
def test_four_processes_may_make_a_fresh_database_at_once(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST, str(tmp_path), f"run {number}"], stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, errors
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute("select name, status from runs order by name").fetchall()
        assert runs == [(f"run {number}", "FINISHED") for number in range(4)]
        assert database.execute("select count(*) from metrics where value = 1.0").fetchone() == (4,)


def test_without_tracking_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys; from facenet.engine.tracking import NoTracking, RunFacts\n"
        "from facenet.tasks import job, train, evaluate\n"
        "tracking = NoTracking()\n"
        "with tracking.run(None) as run_id:\n"
        "    tracker = tracking.tracker(run_id)\n"
        "    tracker.metrics({'a': 1.0}, step=1); tracker.artifact('x'); tracker.tag('a', 'b'); tracker.close()\n"
        "assert run_id is None and tracking.view(run_id) is None\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'matplotlib', 'albumentations')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]" and not list(tmp_path.iterdir())


def test_ranks_above_0_write_nothing():
    assert isinstance(MlflowTracking().tracker(None), tracking.NullTracker)
    assert isinstance(NoTracking().tracker("whatever"), tracking.NullTracker)


KILLED = FIRST.split("with ")[0] + (
    "import time\n"
    "from facenet.launch import stop_signals_raise\n"
    "with stop_signals_raise(), mlflow.run(RunFacts('killed', {}, '', {}, {}, {})):\n"
    "    print('running', flush=True); time.sleep(60)\n"
)


def test_a_stop_signal_leaves_no_run_that_seems_to_run(store, mlflow, client):
    arguments = [sys.executable, "-c", KILLED, str(store)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute("select status from runs where name = 'killed'").fetchall() == [("KILLED",)]
