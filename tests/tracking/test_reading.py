import time

import pytest

from facenet.errors import UserError
from facenet.evaluation.contract import Outcome
from facenet.evaluation.report import tags
from facenet.tracking import reading
from facenet.tracking.process import this_process


@pytest.fixture(scope="module")
def sweep(store):
    """uri and ids of the three jobs of sweep s-9, written as a run writes them but at once, and of a run of nobody's."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{store}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.create_experiment("reading", artifact_location=(store / "reading").as_uri())
    ids = []
    for job, state in ((10, "FINISHED"), (2, "KILLED"), (1, None)):
        tags = {**this_process(), "sweep_id": "s-9", "job_num": str(job)}
        run_id = client.create_run(experiment_id, run_name=f"job {job}", tags=tags).info.run_id
        ids.append(run_id)
        client.log_param(run_id, "optimizer.lr", job / 10)
        for step, value in ((2, 0.5), (4, 0.75)):
            client.log_metric(run_id, "lfw/accuracy", value + job / 100, step=step, timestamp=step)
        if state:
            client.set_terminated(run_id, state)
    client.create_run(experiment_id)
    return uri, ids


def test_the_runs_of_a_sweep_by_job_number(sweep):
    uri, (ten, two, one) = sweep
    found = reading.runs_of_sweep(uri, "s-9")
    assert [run.id for run in found] == [one, two, ten]
    run = found[2]
    assert (run.name, run.status, run.params, run.metrics) == (
        "job 10",
        "FINISHED",
        {"optimizer.lr": "1.0"},
        {"lfw/accuracy": 0.85},
    )
    assert run.start <= run.end <= time.time() and run.last_sign == run.start, "metrics of 1970 are no later sign"
    assert found[0].end is None and run.tags["job_num"] == "10"
    assert reading.runs_of_sweep(uri, "s-9", "reading") == found
    with pytest.raises(UserError, match="^s-8: no run of this sweep in MLflow at sqlite.*; set --uri or"):
        reading.runs_of_sweep(uri, "s-8")
    with pytest.raises(UserError, match="^s-9: no run of this sweep"):
        reading.runs_of_sweep(uri, "s-9", "study one")
    with pytest.raises(UserError, match="^other: no experiment of this name"):
        reading.runs_of_sweep(uri, "s-9", "other")
    with pytest.raises(UserError, match="no run of this sweep"):
        reading.runs_of_sweep(uri, "' or 1=1")


def test_a_sweep_with_both_quotation_marks_in_its_name_is_found(sweep):
    from mlflow import MlflowClient

    uri, _ = sweep
    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.create_experiment("quoted")
    names = ('it\'s "q"', 'it_s "q"', "it's")
    runs = {name: client.create_run(experiment_id, tags={"sweep_id": name}).info.run_id for name in names}
    assert {name: [run.id for run in reading.runs_of_sweep(uri, name)] for name in names} == {
        name: [run_id] for name, run_id in runs.items()
    }


def test_runs_that_run(sweep):
    uri, (_, _, one) = sweep
    mine = [run for run in reading.running(uri, "reading") if "sweep_id" in run.tags]
    assert [run.id for run in mine] == [one]
    assert len(reading.running(uri, "reading")) == 2


def test_more_runs_than_a_page_has(sweep, monkeypatch):
    from mlflow import MlflowClient

    uri, _ = sweep
    whole = reading.search(uri, "", "reading")
    original = MlflowClient.search_runs
    monkeypatch.setattr(
        MlflowClient, "search_runs", lambda self, *a, **k: original(self, *a, **{**k, "max_results": 1})
    )
    assert reading.search(uri, "", "reading") == whole and len(whole) == 4


def test_the_history_of_a_metric(sweep):
    uri, (ten, *_) = sweep
    assert reading.history(uri, ten, "lfw/accuracy") == [(2, 0.6), (4, 0.85)]
    with pytest.raises(UserError, match=f"run {ten}: no metric loss in it; it has lfw/accuracy"):
        reading.history(uri, ten, "loss")
    with pytest.raises(UserError, match=f"cannot be read .Run with id={'0' * 32} not found"):
        reading.history(uri, "0" * 32, "loss")
    with pytest.raises(UserError, match="no MLflow database /nowhere/mlflow.db; set --uri"):
        reading.history("sqlite:////nowhere/mlflow.db", ten, "loss")


def test_fold_accuracies_are_those_of_the_best_epoch(mlflow, facts, tmp_path):
    first, best = (
        Outcome(
            metrics={"accuracy": 0.5}, folds=tuple(n / most for n in range(12)), files={"lfw.json": {"num_pairs": 40}}
        )
        for most in (20, 12)
    )
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        for step, result in ((10, first), (20, best)):
            for name, value in tags("lfw", result).items():
                tracker.tag(name, value)
            tracker.metrics({f"folds/my/pairs/{step}": 0.5}, step=step)  # as earlier versions had them
        tracker.close()
    found = reading.folds(reading.run(mlflow.uri, run_id))
    assert reading.run(mlflow.uri, run_id).tags["interval.lfw"] == "0.3520 – 0.6480"
    assert found == {"lfw": pytest.approx([n / 12 for n in range(12)], abs=1e-6), "my/pairs": [0.5, 0.5]}


def test_files_and_tags_can_be_added_after_the_end(sweep, client, tmp_path):
    uri, (ten, *_) = sweep
    (tmp_path / "plan.txt").write_text("plan")
    reading.attach(uri, ten, tmp_path / "plan.txt", "sweep")
    reading.tag(uri, ten, {"pruned": "median"})
    run = reading.run(uri, ten)
    assert run.tags["pruned"] == "median" and run.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(ten, "sweep")] == ["sweep/plan.txt"]
