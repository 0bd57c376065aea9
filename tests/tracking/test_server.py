"""A real `mlflow server` on loopback that goes away and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from facenet.tools.runs import run_sync
from facenet.tracking import journal, sender
from facenet.tracking.choice import MlflowTracking

pytestmark = pytest.mark.slow


class Server:
    """Starts, is killed with all its processes, and starts again on the same port and database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        command = [
            str(Path(sys.executable).parent / "mlflow"),
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        until(self.answers, 300)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(reached, limit_s=300.0):
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def test_a_server_that_is_killed_in_mid_run_loses_nothing(server, facts, tmp_path, monkeypatch, caplog):
    """Away and back while it trains, away again at the end, and a password in its address."""
    from mlflow import MlflowClient

    monkeypatch.setattr(sender, "PAUSE_S", 0.1)
    monkeypatch.setattr(sender, "RETRY_S", 0.5)
    uri = f"http://me:hunter2@127.0.0.1:{server.port}"
    mlflow, path = MlflowTracking(uri=uri, system_metrics=False), tmp_path / "metrics.jsonl"
    slowest = 0.0

    def train(steps):
        nonlocal slowest
        for step in steps:
            began = time.thread_time()
            tracker.metrics({"train/loss": 1 / step, "samples_seen": 30.0 * step}, step=step)
            slowest = max(slowest, time.thread_time() - began)

    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        train(range(1, 101))
        until(lambda: journal.sent(path) == journal.whole(path))
        server.kill()
        train(range(101, 201))
        (tmp_path / "roc.png").write_bytes(b"png")
        tracker.artifact(tmp_path / "roc.png", "curves")
        tracker.tag("note", "seen")
        until(lambda: "is away (it does not answer)" in caplog.text)
        server.start()
        until(lambda: "is back and has all records until now" in caplog.text)
        train(range(201, 301))
        until(lambda: journal.sent(path) == journal.whole(path))
        server.kill()
        train(range(301, 401))
        tracker.close()
        ending = time.monotonic()
    assert time.monotonic() - ending < 40
    assert caplog.text.count("is away (") == caplog.text.count("is back") == 1  # the second time within QUIET_S
    assert f"facenet-runs sync {tmp_path}" in caplog.text
    assert slowest < 0.01, "the step never waits for MLflow"
    assert mlflow.view(run_id).endswith("which does not answer now")

    server.start()
    assert run_sync([str(tmp_path)], uri).endswith("ended FINISHED")
    assert run_sync([str(tmp_path)], uri) == "MLflow has all of 1 runs"
    client = MlflowClient(tracking_uri=uri)
    assert points(client, run_id) == of_the_journal(path)
    assert [step for step, *_ in points(client, run_id)["train/loss"]] == list(range(1, 401))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.tags["note"] == "seen"
    assert [item.path for item in client.list_artifacts(run_id, "curves")] == ["curves/roc.png"]
    told = [file for folder in (tmp_path, server.folder) for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in told if b"hunter2" in file.read_bytes()] and "hunter2" not in caplog.text
    assert "hunter2" not in mlflow.view(run_id)


def test_a_password_on_the_command_line_is_shown_and_kept_nowhere(server, tmp_path):
    job = ["data.num_identities=12", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"]
    job += ["trainer.max_steps=2", "benchmark=none", "accelerator=cpu", "data.num_workers=1"]
    job.append("backbone.trunk.width=0.25")
    store = f"tracking.uri=http://me:hunter2@127.0.0.1:{server.port}"
    command = [
        str(Path(sys.executable).parent / "facenet-train"),
        "-m",
        *job,
        store,
        "seed=1,2",
        "hydra.sweep.dir=sweep",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{server.port}/#/compare-runs" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    told = [file for folder in (tmp_path, server.folder) for file in folder.rglob("*") if file.is_file()]
    assert tmp_path / "sweep" / "multirun.yaml" in told and tmp_path / "sweep" / "sweep.json" in told
    assert not [file for file in told if b"hunter2" in file.read_bytes()]


def points(client, run_id):
    names = client.get_run(run_id).data.metrics
    return {name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, name)] for name in names}


def of_the_journal(path):
    found = {}
    for record, _ in journal.read(path):
        for name, value in record.get("metrics", {}).items():
            found.setdefault(name, []).append((record["step"], value, record["time"]))
    return found
