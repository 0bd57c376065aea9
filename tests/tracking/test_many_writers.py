"""Jobs that start at the same instant, as those of a sweep do, each in a process of its own."""

import sqlite3
import subprocess
import sys
import time

import pytest

from facenet.tools.runs import run_sync
from facenet.tracking import journal

JOB = """
import pathlib, sys, time
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts
folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
run_dir = folder / number
run_dir.mkdir()
(run_dir / "ready").touch()
while not (folder / "start").exists():
    time.sleep(0.01)
mlflow = MlflowTracking(uri=f"sqlite:///{folder}/mlflow.db", system_metrics=False)
facts = RunFacts(number, run_dir, {"number": number}, "", {}, {}, {"train": ("a", "b", "c")})
with mlflow.run(facts) as run_id:
    tracker = mlflow.tracker(run_id, run_dir)
    for step in range(200):
        tracker.metrics({"train/loss": step / 7, "train/lr": 0.1, "samples_seen": step}, step=step)
    tracker.artifact(run_dir / "metrics.jsonl")
    tracker.close()
"""


@pytest.mark.slow
def test_sixteen_jobs_on_a_fresh_database_all_succeed_and_lose_nothing(tmp_path):
    jobs = [
        subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(16)
    ]
    end = time.monotonic() + 600
    while len(list(tmp_path.glob("*/ready"))) < len(jobs):  # all have imported what they need
        assert time.monotonic() < end and all(job.poll() is None for job in jobs)
        time.sleep(0.05)
    (tmp_path / "start").touch()
    errors = [job.communicate(timeout=600)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 16, errors
    assert run_sync([str(tmp_path)], None).endswith(("MLflow has all of 16 runs", "ended FINISHED"))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute("select name, status from runs").fetchall()
        assert sorted(runs) == sorted((str(number), "FINISHED") for number in range(16))
        counts = database.execute(
            "select name, key, count(*), sum(value) from metrics join runs using (run_uuid) group by name, key"
        ).fetchall()
        (experiments,) = database.execute("select count(*) from experiments where name = 'facenet'").fetchone()
    assert experiments == 1
    sums = {"train/loss": sum(range(200)) / 7, "train/lr": 20.0, "samples_seen": float(sum(range(200)))}
    assert {(name, key): count for name, key, count, _ in counts} == {
        (str(number), key): 200 for number in range(16) for key in sums
    }
    assert all(total == pytest.approx(sums[key]) for _, key, _, total in counts)
    assert len(list(tmp_path.glob("mlartifacts/facenet/*/artifacts/metrics.jsonl"))) == 16
    assert not any("away" in error or "later" in error for error in errors)
    assert all(
        journal.sent(path) == journal.whole(path)
        for path in journal.journals(tmp_path)
        if path.parent.parent == tmp_path
    )
