"""The run that trained a network learns what a test came to, where it is in the same store."""

from __future__ import annotations

from facenet.evaluation.contract import Outcome
from facenet.tasks.evaluate import tell_trained
from facenet.tracking.choice import NoTracking

OUTCOMES = {
    "lfw": Outcome(metrics={"accuracy": 0.75, "auc": 0.8}, files={"lfw.json": {"num_pairs": 600}}),
    "my own": Outcome(metrics={"recall": 0.5}),
}


def test_a_test_is_told_to_the_run_that_trained(mlflow, client):
    run_id = client.create_run(client.get_experiment_by_name("study one").experiment_id).info.run_id
    tell_trained(mlflow, run_id, "f" * 32, OUTCOMES)
    tags = client.get_run(run_id).data.tags
    told = tags["evaluated.lfw"]
    assert told.startswith("accuracy 0.7500, 95 % interval 0.71") and told.endswith(f", run {'f' * 32}")
    assert tags["evaluated.my own"] == f"recall 0.5000, run {'f' * 32}"
    for elsewhere in ("e" * 32, "None"):
        tell_trained(mlflow, elsewhere, run_id, OUTCOMES)
    tell_trained(NoTracking(), run_id, "", OUTCOMES)
    client.delete_run(run_id)
    tell_trained(mlflow, run_id, "0" * 32, OUTCOMES)
    assert client.get_run(run_id).data.tags == tags
