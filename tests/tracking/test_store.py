import http.server
import socket
import threading
import time

import pytest

from facenet.errors import UserError
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.store import cause, open_experiment, slug, where
from facenet.tracking.views import View


def test_the_address_is_the_one_given_then_the_environments_then_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowTracking().where() == where() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://one:5000")
    assert MlflowTracking().where() == "http://one:5000"
    assert MlflowTracking(uri="http://two:5000").where() == "http://two:5000"


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlite://", "sqlite:///:memory:"])
def test_a_database_that_is_no_file_keeps_nothing_and_is_refused(uri):
    with pytest.raises(UserError, match="^tracking.uri: .* names no file, .*; write sqlite:////PATH/mlflow.db$"):
        MlflowTracking(uri=uri).where()


def test_a_name_that_the_registry_does_not_take_is_refused_at_the_start():
    assert MlflowTracking(register="faces v2").register == "faces v2"
    for name in ("a/b", "a:b", "", ".", ".."):
        with pytest.raises(UserError, match="^tracking.register: a name without / and : is expected"):
            MlflowTracking(register=name)


def test_a_certificate_that_is_not_known_is_told_with_the_way():
    text = "API request to https://h/api failed with exception HTTPSConnectionPool(host='h'): [SSL: CERTIFICATE_VERIFY_FAILED] self-signed"
    assert "REQUESTS_CA_BUNDLE=FILE" in cause(RuntimeError(text), "https://h")
    assert cause(RuntimeError(text.replace("CERTIFICATE", "X")), "https://h") == "it does not answer"


def test_experiment_names_stay_as_given_and_their_folders_are_safe(store):
    client, experiment_id = open_experiment(f"sqlite:///{store}/mlflow.db", "a/b: 50 %")
    experiment = client.get_experiment(experiment_id)
    assert experiment.name == "a/b: 50 %" and experiment.artifact_location.endswith("/mlartifacts/a_b__50__")


def test_a_long_name_is_one_of_a_file_and_two_are_two():
    long = "x" * 300
    assert slug("lr-and_batch.2") == "lr-and_batch.2" and slug("it's") == "it_s"
    assert len(slug(long)) < 150 and slug(long) != slug(f"{long}y") and slug(long).startswith("xxx")
    assert {slug(name).strip(".") == slug(name) for name in ("..", ".", "", "." * 200)} == {True}
    assert View(name=f"sweep-{long}", condition="", select="x").key == slug(f"sweep-{long}")


@pytest.mark.parametrize("credentials", ["", "me:secret@"])
def test_a_server_that_does_not_answer_is_told_within_seconds(facts, credentials):
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


@pytest.mark.parametrize(
    ("file", "uri", "message"),
    [
        ("file", "sqlite:///{0}/file/mlflow.db", "tracking: MLflow at sqlite:.* cannot be used .*tracking=none"),
        ("mlflow.db", "sqlite:///{0}/mlflow.db", "cannot be used .*not a database.*tracking=none"),
        ("file", "gopher://host", "tracking: MLflow at gopher://host cannot be used .*gopher.*set tracking.uri"),
    ],
)
def test_what_is_no_store_is_told_in_one_line(facts, tmp_path, file, uri, message):
    (tmp_path / file).write_bytes(b"no database " * 1000)
    with pytest.raises(UserError, match=message) as raised, MlflowTracking(uri=uri.format(tmp_path)).run(facts()):
        raise AssertionError("the run must not start")
    assert "\n" not in str(raised.value)


def test_a_server_that_is_no_mlflow(facts):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(UserError, match="cannot be used .*501.*tracking=none") as raised:
        MlflowTracking(uri=uri).run(facts()).__enter__()
    server.shutdown()
    server.server_close()
    assert "\n" not in str(raised.value)
