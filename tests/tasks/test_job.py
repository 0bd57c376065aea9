"""The launcher's side of a job: what it lets others see."""

from __future__ import annotations

from facenet.tasks import job


def test_a_password_of_the_store_is_in_nothing_that_a_run_writes(compose):
    uri = "postgresql://user:hunter2@127.0.0.1:5432/mlflow"
    config = compose("tracking=mlflow", f"tracking.uri={uri}")
    assert job.without_secrets(config)["tracking"]["uri"] is None
    assert config["tracking"]["uri"] == uri, "the launcher still needs it"
    assert "hunter2" not in str(job.origin([f"tracking.uri={uri}"]))
    plain = compose("tracking=mlflow", "tracking.uri=sqlite:////data/mlflow.db")
    assert job.without_secrets(plain) is plain
