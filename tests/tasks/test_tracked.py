"""What MLflow has of a run that was killed and went on, against one that was left alone."""

from __future__ import annotations

import json
import math
import os
import signal
import time

import pytest

# The whole network: its steps last long enough to be hit by a signal.
LONG = ("trainer.epochs=6", "trainer.log_every=1", "tracking=mlflow", "backbone.trunk.width=1.0")
MEASURED = ("train/images_per_s", "system/")  # of the machine, not of the training


def curves(uri, run_dir):
    """name -> [(step, value)] of the run of a directory, and the run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.run_dir = '{run_dir}'")
    return {
        name: points(client, run.info.run_id, name) for name in run.data.metrics if not name.startswith("system/")
    }, run


def points(client, run_id, name):
    """None for the place that the selected metric holds at step 0: NaN, which equals nothing."""
    return [
        (point.step, None if math.isnan(point.value) else point.value)
        for point in client.get_metric_history(run_id, name)
    ]


@pytest.mark.slow
def test_a_killed_run_that_goes_on_leaves_the_curves_of_one_that_was_left_alone(started, finished, tiny, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    job = [*tiny, *LONG, f"tracking.uri={uri}"]
    whole = finished(started("facenet-train", tmp_path / "whole", *job), tmp_path / "whole")
    assert whole.code == 0, whole.err
    run_dir = tmp_path / "killed"
    process = started("facenet-train", run_dir, *job)
    deadline = time.monotonic() + 600
    while last_step(run_dir) < 14:  # in the fourth epoch of four steps
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = finished(started("facenet-train", run_dir, *job, "resume=auto"), run_dir)
    assert again.code == 0, again.err
    expected, before = curves(uri, tmp_path / "whole")
    found, after = curves(uri, run_dir)
    assert after.info.status == before.info.status == "FINISHED" and after.data.tags["resumed"] == "1"
    assert [step for step, _ in found["train/loss"]] == list(range(1, 25)), "once each, and no gap"
    assert {name: [step for step, _ in values] for name, values in found.items()} == {
        name: [step for step, _ in values] for name, values in expected.items()
    }
    assert {name: values for name, values in found.items() if not name.startswith(MEASURED)} == {
        name: values for name, values in expected.items() if not name.startswith(MEASURED)
    }
    resumed = {name: value for name, value in after.data.params.items() if before.data.params.get(name) != value}
    assert resumed == {}, "params are those of the start"
    assert "resume" not in after.data.tags["command"] and "resume=auto" in after.data.tags["command.resumed"]


def last_step(run_dir):
    try:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    steps = [json.loads(line) for line in lines[1:-1]]
    return max((record["step"] for record in steps if "train/loss" in record.get("metrics", {})), default=0)


@pytest.mark.slow
def test_the_best_network_of_a_finished_run_is_registered(started, finished, tiny, tmp_path):
    from mlflow import MlflowClient

    uri, run_dir = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    job = [*tiny, "trainer.max_steps=2", f"tracking.uri={uri}", "tracking.register=faces"]
    done = finished(started("facenet-train", run_dir, *job), run_dir)
    assert done.code == 0, done.err
    client = MlflowClient(tracking_uri=uri)
    version = client.get_model_version_by_alias("faces", "candidate")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["run_dir"] == str(run_dir)
    assert "registered as models:/faces/1, alias candidate" in done.out + done.err
