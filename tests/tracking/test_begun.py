"""A run that was killed before its first checkpoint is no second run when the same command goes on."""

from __future__ import annotations

import json

import pytest

from facenet import config as configs
from facenet.reports.study import study_of
from facenet.tasks import run_store
from facenet.tracking.reading import RunRecord


@pytest.fixture
def killed(mlflow, client, facts):
    """A run of which the process is gone."""
    with pytest.raises(KeyboardInterrupt), mlflow.run(facts(tags={})) as run_id:
        raise KeyboardInterrupt
    client.set_tag(run_id, "pid_started", "another boot")
    return run_id


def test_the_same_training_takes_up_its_run(mlflow, client, facts, killed):
    with mlflow.run(facts(tags={}), begun=killed) as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    assert run_id == killed and client.get_run(run_id).info.status == "FINISHED"
    with mlflow.run(facts(tags={}), begun=killed) as again:  # which has finished since
        pass
    assert again != killed


@pytest.mark.parametrize("change", ["params", "deleted", "unknown"])
def test_another_training_is_another_run(mlflow, client, facts, killed, change):
    plan = {"total_steps": 9, "device": "here", "lr": 0.01} if change == "params" else facts().plan
    if change == "deleted":
        client.delete_run(killed)
    begun = "0" * 32 if change == "unknown" else killed
    with mlflow.run(facts(tags={}, plan=plan), begun=begun) as run_id:
        pass
    assert run_id != killed


def test_a_directory_knows_the_run_that_was_begun_in_it(tmp_path):
    config = {"seed": 1, "tracking": {"uri": None}, "resume": None}
    assert run_store.find_begun(tmp_path, config) is None
    configs.write(config, tmp_path / "resolved.yaml")
    (tmp_path / "tracking.json").write_text(json.dumps({"uri": "sqlite:////x", "run_id": "abc"}))
    assert run_store.find_begun(tmp_path, {**config, "resume": "auto"}) == "abc"
    assert run_store.find_begun(tmp_path, {**config, "seed": 2}) is None
    (tmp_path / "tracking.json").write_text("[]")
    assert run_store.find_begun(tmp_path, config) is None


def job(number, **tags):
    place = {"run_dir": f"/runs/sw/{number}", "sweep_id": "sw", "job_num": str(number)}
    numbers = {"start": number, "last_sign": number, "end": None, "metrics": {}, "params": {"plan.select": "val/loss"}}
    return RunRecord(id=str(number), name="", experiment_id="1", status="FINISHED", tags={**place, **tags}, **numbers)


def test_a_sweep_says_which_jobs_have_no_run():
    study = study_of("sw", [job(0, **{"sweep.jobs": "4"}), job(2)])
    assert study.missing == (1, 3)
    assert study.incomplete == (
        "2 of 4 jobs have no run yet, or never will (1, 3); go on with: facenet-train sweep.resume=/runs/sw"
    )
    whole = study_of("sw", [job(0, **{"sweep.jobs": "2"}), job(1)])
    assert whole.missing == () and whole.incomplete == study_of("sw", [job(5)]).incomplete == ""
