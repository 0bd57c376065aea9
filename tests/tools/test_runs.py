import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.tools.runs import run_reap, run_sync
from facenet.tracking import journal, known, reading
from facenet.tracking.store import open_experiment

REAP = {"experiment": None, "dry_run": False, "all_hosts": False, "older_than": 24.0}
COMMAND = str(Path(sys.executable).parent / "facenet-runs")

# One process that dies as by a power cut, with as many runs as it has directories.
DIES = """
import contextlib, os, pathlib, sys
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts
mlflow = MlflowTracking(uri=sys.argv[1], system_metrics=False)
with contextlib.ExitStack() as opened:
    for run_dir in map(pathlib.Path, sys.argv[2:]):
        run_dir.mkdir()
        run_id = opened.enter_context(mlflow.run(RunFacts(run_dir.name, run_dir, {}, "", {}, {}, {})))
        tracker = mlflow.tracker(run_id, run_dir)
        tracker.metrics({"loss": 0.5}, step=1)
        tracker.metrics({"loss": 0.25}, step=2)
    os._exit(9)
"""


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """A folder with mlflow.db and the runs finished, failed, killed and moved of a process that is no more."""
    folder = tmp_path_factory.mktemp("dead")
    uri, names = f"sqlite:///{folder}/mlflow.db", ("finished", "failed", "killed", "moved")
    done = subprocess.run([sys.executable, "-c", DIES, uri, *[str(folder / name) for name in names]], timeout=300)
    assert done.returncode == 9
    (folder / "finished" / "result.json").write_text(json.dumps({"objective": 1.0}))
    failure = {"rank": 1, "time": 1.0, "user": False, "induced": False, "text": "ValueError: boom"}
    (folder / "failed" / "failure-1.json").write_text(json.dumps(failure))
    (folder / "moved").rename(folder / "elsewhere")
    shutil.copy(folder / "mlflow.db", folder / "died.db")
    return folder


@pytest.fixture
def stored(dead, tmp_path):
    """uri of a copy of that database, as it was when the process died; a test may have sent to it since."""
    shutil.copy(dead / "died.db", dead / "mlflow.db")
    shutil.copy(dead / "died.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for path in journal.journals(dead):
        journal.mark_path(path).unlink(missing_ok=True)
        whole = [line for line in path.read_text().splitlines(keepends=True) if '"end"' not in line]
        path.write_text("".join(whole))
    return uri


def states(uri):
    return {run.name: (run.status, run.metrics.get("loss")) for run in reading.search(uri)}


def test_reap_closes_the_runs_of_dead_processes_as_their_directories_say(stored, dead):
    alive = dict.fromkeys(("finished", "failed", "killed", "moved"), ("RUNNING", None))
    assert states(stored) == alive
    told = run_reap(uri=stored, **{**REAP, "dry_run": True})
    for name, state in (("finished", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED"), ("moved", "KILLED")):
        assert f" {name}: would be closed as {state}" in told
    assert states(stored) == alive, "a dry run changes nothing"
    told = run_reap(uri=stored, **REAP)
    assert " failed: closed as FAILED" in told and len(told.splitlines()) == 4
    assert states(stored) == {
        "finished": ("FINISHED", 0.25),
        "failed": ("FAILED", 0.25),
        "killed": ("KILLED", 0.25),
        "moved": ("KILLED", None),
    }
    found = {run.name: run for run in reading.search(stored)}
    assert found["failed"].tags["error"] == "ValueError: boom" and "error" not in found["killed"].tags
    assert all(run.tags["reaped"].startswith("20") for run in found.values())
    assert all(run.start <= run.end < time.time() for run in found.values())
    assert run_reap(uri=stored, **REAP) == "no run is marked as running"


def test_reap_leaves_what_lives_and_what_it_cannot_know(stored, monkeypatch):
    client, experiment_id = open_experiment(stored, "others")
    from facenet.tracking.process import this_process

    hour = 3_600_000
    started = {"mine": 0, "other": 0, "silent": 30 * hour, "active": 30 * hour, "foreign": 0}
    ids = {}
    now = int(time.time() * 1000)
    for name, ago in started.items():
        tags = {"foreign": {}, "mine": this_process()}.get(name, {"host": "node7", "pid": "1", "pid_started": "x/1"})
        run = client.create_run(experiment_id, start_time=now - ago, run_name=name, tags=tags)
        ids[name] = run.info.run_id
    client.log_metric(ids["active"], "loss", 1.0, timestamp=now - hour, step=1)
    told = run_reap(uri=stored, **{**REAP, "experiment": "others"})
    said = {line.split(" ", 1)[1].split(":")[0]: line.split(": ", 1)[1] for line in told.splitlines()}
    assert said["mine"].startswith("left: process ") and said["foreign"] == "left: not started by facenet"
    assert said["silent"].startswith("left: runs on host node7, last sign 30.0 h ago; --all-hosts closes it after 24 h")
    assert all(state == "RUNNING" for name, (state, _) in states(stored).items() if name in started)
    told = run_reap(uri=stored, **{**REAP, "experiment": "others", "all_hosts": True})
    assert " silent: closed as KILLED" in told and " active: left: gave a sign on host node7 1.0 h ago" in told
    found = states(stored)
    assert {name: found[name][0] for name in started} == {**dict.fromkeys(started, "RUNNING"), "silent": "KILLED"}


def test_sync_sends_what_a_dead_process_left_and_ends_its_runs(stored, dead):
    told = run_sync([str(dead)], stored)
    for folder, state in (
        ("finished", "FINISHED"),
        ("failed", "FAILED"),
        ("killed", "KILLED"),
        ("elsewhere", "KILLED"),
    ):
        assert f"{dead / folder}: sent 2 metric values, 0 files, 0 tags; ended {state}" in told.splitlines()
    assert states(stored)["moved"] == ("KILLED", 0.25), "found by the folder that was named"
    assert run_sync([str(dead / "failed"), str(dead)], stored) == "MLflow has all of 5 runs"


def test_sync_goes_on_where_one_store_is_away(stored, dead, tmp_path):
    shutil.copytree(dead / "killed", tmp_path / "killed")
    for uri in (stored, f"sqlite:///{tmp_path}/gone.db"):
        known.remember(uri)
    path = journal.begin(tmp_path, "c" * 32, f"sqlite:///{tmp_path}/gone.db")
    with contextlib.closing(journal.Journal(path)) as written:
        written.add(end="FINISHED", error="")
    with pytest.raises(UserError) as raised:
        run_sync([str(tmp_path)], None)
    assert f"{tmp_path}: no MLflow database {tmp_path}/gone.db; set --uri" in str(raised.value)
    assert f"{tmp_path / 'killed'}: sent 2 metric values" in str(raised.value)


@pytest.mark.parametrize(
    ("folders", "message"),
    [(["absent"], "/absent: no such directory; name run directories"), ([], "no outputs or multirun here; name")],
)
def test_sync_of_nothing(folders, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run_sync(folders, None)


def test_the_command(tmp_path):
    def command(*arguments):
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300)

    (tmp_path / "outputs").mkdir()
    done = command("sync")
    assert (done.returncode, done.stdout, done.stderr) == (0, "MLflow has all of 0 runs\n", "")
    done = command("reap", "--uri", "sqlite:////nowhere/mlflow.db")
    assert done.returncode == 2 and done.stderr.startswith("no MLflow database /nowhere/mlflow.db; set --uri")
    assert command("reap", "--older-than", "x").returncode == 2
    assert "--dry-run" in command("reap", "--help").stdout
