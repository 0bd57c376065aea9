"""Which network of a sweep goes to MLflow."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from facenet.reports.study import Job, Study
from facenet.sweeps.session import Session, compare
from facenet.sweeps.settings import Sweep
from facenet.sweeps.winner import keep_winner
from facenet.tracking.choice import MlflowTracking


def job(number, value, lr, seed, **more):
    told = {"status": "FINISHED", "name": str(number), "axes": {"optimizer.lr": lr, "seed": seed}, **more}
    return Job(number=number, run_id=f"{number}" * 32, value=value, **told)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """kept(jobs, lower=): run and checkpoint of what a sweep of these jobs keeps."""
    found = []
    monkeypatch.setattr(
        "facenet.tasks.registration.keep_model",
        lambda tracking, run_id, checkpoint, rivals: found.append(
            (tracking.uri, run_id[0], checkpoint.relative_to(tmp_path), {each[0] for each in rivals})
        ),
    )

    def keep(jobs, *, lower):
        for each in jobs:
            (folder := tmp_path / "sweep" / str(each.number) / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "best.pt").touch()
            (folder.parent / "tracking.json").write_text(json.dumps({"uri": "x", "run_id": each.run_id}))
        study = Study(sweep_id="sweep", metric="lfw/accuracy", jobs=tuple(jobs), lower=lower)
        keep_winner(MlflowTracking(), "sqlite:////here/mlflow.db", study, tmp_path / "sweep")
        return [(uri, number, str(path), rivals) for uri, number, path, rivals in found]

    return keep


@pytest.mark.parametrize(("lower", "best"), [(False, "3"), (True, "0")])
def test_it_is_the_best_job_of_the_best_setting(kept, lower, best):
    """Not the best of all, which may have been lucky."""
    jobs = [job(0, 0.70, "1", "1"), job(1, 0.91, "1", "2"), job(2, 0.84, "2", "1"), job(3, 0.86, "2", "2")]
    others = {"0", "1", "2", "3"} - {best}
    assert kept(jobs, lower=lower) == [("sqlite:////here/mlflow.db", best, f"sweep/{best}/checkpoints/best.pt", others)]


def test_a_pruned_or_failed_job_wins_nothing_and_one_that_is_elsewhere_costs_nothing(kept, tmp_path):
    jobs = [job(0, 0.9, "1", "1", pruned="hopeless"), job(1, 0.8, "2", "1", status="FAILED")]
    assert kept(jobs, lower=False) == []
    study = Study(sweep_id="sweep", metric="lfw/accuracy", jobs=(job(5, 0.9, "1", "1"),), lower=False)
    keep_winner(MlflowTracking(), "x", study, tmp_path / "sweep")


def test_the_model_of_a_sweep_that_lies_below_this_one_stays(kept, tmp_path):
    below = tmp_path / "sweep" / "earlier" / "0"
    below.mkdir(parents=True)
    (below / "tracking.json").write_text(json.dumps({"uri": "x", "run_id": "7" * 32}))
    assert kept([job(0, 0.7, "1", "1"), job(1, 0.6, "2", "1")], lower=False)[0][3] == {"1"}


def test_what_of_a_sweeps_end_cannot_be_is_told(tmp_path, capsys):
    compare(MlflowTracking(), f"sqlite:///{tmp_path / 'gone.db'}", tmp_path / "sweep")
    said = capsys.readouterr().out
    assert said.startswith(f"the sweep cannot be compared: no MLflow database {tmp_path / 'gone.db'}; set --uri")


def test_a_stop_at_the_end_of_a_sweep_says_how_to_have_it(tmp_path, monkeypatch, capsys):
    """All jobs were done, and the ranking was lost without a word."""

    def stopped(*_):
        raise KeyboardInterrupt

    session = Session(Sweep(), tmp_path / "sweep", ["-m", "seed=1,2"])
    monkeypatch.setattr("facenet.sweeps.session.where_of", lambda job: "sqlite:////x.db")
    monkeypatch.setattr("facenet.sweeps.session.compare", stopped)
    session.jobs = [SimpleNamespace(config={"tracking": {"_target_": "facenet.tracking.MlflowTracking"}}, num=0)]
    with contextlib.closing(session.lock), pytest.raises(KeyboardInterrupt):
        session.close()
    assert capsys.readouterr().out == f"go on with what is left: facenet-train sweep.resume={tmp_path / 'sweep'}\n"
