"""MLflow's own server as docs/mlflow.md sets it up: accounts, a prefix in the path, a certificate of its own, a place of its own for files."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("flask_wtf", reason="MLflow's accounts need Flask-WTF: pip install 'mlflow[auth]'")
BIN = Path(sys.executable).parent
PASSWORD = "correct-horse-battery"
JOB = ["data.num_identities=12", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12", "seed=7"]
JOB += [
    "trainer.max_steps=2",
    "data.val_identities=0.34",
    "benchmark.num_pairs=60",
    "benchmark.num_folds=3",
    "accelerator=cpu",
    "data.num_workers=1",
    "backbone.trunk.width=0.25",
]


@pytest.fixture  # of one test: a server may start processes of its own at any time
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its address, and the folder of all that is its: database, files, certificate, log."""
    folder = tmp_path_factory.mktemp("server")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    certificate += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(certificate, cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(BIN / "mlflow"),
        "server",
        "--app-name",
        "basic-auth",
        "--static-prefix",
        "/mlflow",
        "--workers",
        "1",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "files")]
    command += ["--uvicorn-opts", f"--ssl-keyfile {folder}/key.pem --ssl-certfile {folder}/cert.pem"]
    env = {**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=env)
    address = f"https://127.0.0.1:{port}/mlflow"
    trusted = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    try:
        for _ in range(3000):
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5, context=trusted)
                break
            except urllib.error.HTTPError:
                break  # it answers: who are you
            except OSError:
                time.sleep(0.1)
        yield address, folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def train(server: tuple[str, Path], here: Path, *said: str, **variables: str) -> subprocess.CompletedProcess[str]:
    address, folder = server
    env = {**os.environ, "MLFLOW_TRACKING_URI": address, "REQUESTS_CA_BUNDLE": str(folder / "cert.pem"), **variables}
    return subprocess.run(
        [BIN / "facenet-train", *JOB, "hydra.run.dir=run", *said],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_run_arrives_with_its_model_or_is_told_why_not_and_the_password_is_kept_nowhere(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    account = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    done = train(server, tmp_path, "tracking.model=true", "tracking.register=faces", **account)
    assert done.returncode == 0, done.stdout + done.stderr
    for key, value in {**account, "REQUESTS_CA_BUNDLE": str(folder / "cert.pem")}.items():
        monkeypatch.setenv(key, value)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    (experiment,) = client.search_experiments(filter_string="name = 'facenet'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "7"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [2]
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert client.get_model_version_by_alias("faces", "candidate").run_id == run.info.run_id
    assert (folder / "files").is_dir() and any((folder / "files").rglob("resolved.yaml"))
    assert f"{address}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}" in done.stdout
    told = [file for place in (tmp_path, folder / "files") for file in place.rglob("*") if file.is_file()]
    assert PASSWORD not in done.stdout + done.stderr + (folder / "server.log").read_text()
    assert not [file for file in told if PASSWORD.encode() in file.read_bytes()]

    unknown = "/etc/ssl/certs/ca-certificates.crt"
    for variables, said in (
        ({**account, "MLFLOW_TRACKING_PASSWORD": "wrong-one"}, "MLFLOW_TRACKING_PASSWORD"),
        ({**account, "REQUESTS_CA_BUNDLE": unknown}, "REQUESTS_CA_BUNDLE"),
    ):
        done = train(server, tmp_path, "hydra.run.dir=refused", **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = [line for line in done.stderr.splitlines() if said in line]
        assert address in line and "Traceback" not in done.stderr
        assert "wrong-one" not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
