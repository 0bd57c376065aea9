"""The launcher's side of a job: what it lets others see."""

from __future__ import annotations

from facenet import config as configs
from facenet.privacy import addresses
from facenet.tasks.origin import origin


def test_a_password_of_the_store_is_in_nothing_that_a_run_writes(compose, monkeypatch):
    uri = "postgresql://user:hunter2@127.0.0.1:5432/mlflow"
    monkeypatch.setenv(addresses.VARIABLE, "[]")  # and nothing is left in it
    config = compose("tracking=mlflow", f"tracking.uri={uri}")
    assert config["tracking"]["uri"] == "postgresql://***@127.0.0.1:5432/mlflow"
    assert configs.build(config["tracking"]).where() == uri, "the launcher still needs it"
    assert "hunter2" not in str(origin("facenet-train", [f"tracking.uri={uri}"], config))
    plain = compose("tracking=mlflow", "tracking.uri=sqlite:////data/mlflow.db")
    assert plain["tracking"]["uri"] == "sqlite:////data/mlflow.db"
