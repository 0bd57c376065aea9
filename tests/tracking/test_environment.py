"""MLflow's own variables, below what the command line says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from facenet.errors import UserError
from facenet.tracking.process import this_process


@pytest.fixture
def unsaid(mlflow):
    """Tracking of which the config says the store alone."""
    return replace(mlflow, experiment=None)


def recorded(client, run_id):
    run = client.get_run(run_id)
    return client.get_experiment(run.info.experiment_id).name, run.info.run_name, run.info.status


def test_experiment_and_run_are_named_by_the_environment(unsaid, client, facts, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study-7")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "mine")
    assert unsaid.said().endswith("experiment study-7 (MLFLOW_EXPERIMENT_NAME), run mine (MLFLOW_RUN_NAME)")
    with unsaid.run(facts(tags={})) as run_id:
        pass
    assert recorded(client, run_id) == ("study-7", "mine", "FINISHED")
    job = facts(tags={"sweep_id": "s"}, name="optimizer.lr=0.1")
    assert unsaid.chosen_name(job) == "mine: optimizer.lr=0.1"  # many runs of one name could not be told apart

    said = replace(unsaid, experiment="study one", run_name="other")
    with said.run(facts(tags={})) as run_id:
        pass
    assert recorded(client, run_id) == ("study one", "other", "FINISHED")
    assert "MLFLOW" not in said.said()


def test_an_experiment_by_its_id(unsaid, client, facts, monkeypatch):
    (study,) = (each for each in client.search_experiments() if each.name == "study one")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", study.experiment_id)
    with unsaid.run(facts(tags={})) as run_id:
        pass
    assert recorded(client, run_id)[0] == "study one"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    with pytest.raises(UserError, match="^MLFLOW_EXPERIMENT_ID=4711: MLflow has no experiment"), unsaid.run(facts()):
        pass


def test_a_run_begun_elsewhere_is_gone_into_and_keeps_its_name(unsaid, client, facts, monkeypatch):
    outer = client.create_run("0", run_name="outer").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    with unsaid.run(facts(tags={"command": "facenet-train"})) as run_id:
        assert run_id == outer
    assert recorded(client, outer) == ("Default", "outer", "FINISHED")
    found = client.get_run(outer).data
    assert found.params["optimizer.lr"] == "0.1" and found.tags["command"] == "facenet-train"


def test_the_jobs_of_a_sweep_stand_under_it(unsaid, client, facts, monkeypatch):
    outer = client.create_run("0", run_name="outer").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    with unsaid.run(facts(tags={"sweep_id": "s"})) as run_id:
        assert run_id != outer
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == outer
    assert client.get_run(outer).info.status == "RUNNING"


def test_a_run_that_is_none_or_taken_is_told(unsaid, client, facts, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(UserError, match=f"^MLFLOW_RUN_ID: run {'0' * 32} is not in MLflow"), unsaid.run(facts(tags={})):
        pass
    taken = client.create_run("0", tags=this_process()).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", taken)
    with (
        pytest.raises(UserError, match="^MLFLOW_RUN_ID=.*: process .* records in this run"),
        unsaid.run(facts(tags={})),
    ):
        pass


def test_a_run_with_other_params_is_left_as_it_is(unsaid, client, facts, monkeypatch):
    """MLflow's own words came after half of the description had been written, with the advice to start the store."""
    outer = client.create_run("0").info.run_id
    client.log_param(outer, "optimizer.lr", "0.5")
    client.log_param(outer, "note", "theirs")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    told = f"^MLFLOW_RUN_ID={outer}: has other values of 1 param.s., .* first optimizer.lr=0.5 and here 0.1; unset"
    with pytest.raises(UserError, match=told), unsaid.run(facts(tags={})):
        pass
    assert client.get_run(outer).data.params == {"optimizer.lr": "0.5", "note": "theirs"}


@pytest.mark.parametrize("wrong", [" ", "../x", "abc"])
def test_what_is_no_id_of_a_run_is_told(unsaid, client, facts, monkeypatch, wrong):
    monkeypatch.setenv("MLFLOW_RUN_ID", wrong)
    with pytest.raises(UserError, match="^MLFLOW_RUN_ID: run .* is not in MLflow"), unsaid.run(facts(tags={})):
        pass


def test_an_empty_variable_is_none(unsaid, client, facts, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_NAME"):
        monkeypatch.setenv(name, "")
    with unsaid.run(facts(tags={})) as run_id:
        pass
    assert recorded(client, run_id) == ("facenet", facts().name, "FINISHED")
