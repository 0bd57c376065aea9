"""Disks that fail under a run: it goes on or ends cleanly, and the last good checkpoint stays."""

import json
import shutil
import sqlite3
import subprocess
import time

import pytest

from facenet.engine import checkpoint
from facenet.tasks import resume

pytestmark = pytest.mark.slow

# In rank 0: the checkpoint of the first epoch takes its time, and says when.
SLOW = """
import os, time
if os.environ.get("RANK") == "0":
    import torch
    save, said = torch.save, os.environ["FACENET_TEST_SAID"]

    def slow(content, path):
        with open(said, "a") as file: print("begins", time.time(), file=file)
        time.sleep(2)
        save(content, path)
        with open(said, "a") as file: print("ends", time.time(), file=file)

    torch.save = slow
"""


def mounted(*arguments):
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A folder to mount something on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    while subprocess.run(["umount", "-l", str(folder)], capture_output=True).returncode == 0:
        pass  # one may lie on another


@pytest.fixture
def started(started):
    """What a test leaves running is killed."""
    processes = []

    def start(*arguments):
        processes.append(started(*arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def job(tiny, tmp_path):
    return [
        *tiny,
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        "trainer.log_every=1",
        "tracking.system_metrics=false",
    ]


def until(reached, process, limit_s=600):
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end and process.poll() is None, "ended before that"
        time.sleep(0.01)


def recorded(tmp_path):
    """State and error of the only run in MLflow."""
    with sqlite3.connect(tmp_path / "mlflow.db", timeout=30) as database:
        ((state,),) = database.execute("select status from runs").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
    return state, tags.get("error", "")


def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(started, finished, job, disk, tmp_path, tiny_run):
    size = (tiny_run.run_dir / "checkpoints" / "last.pt").stat().st_size
    mounted("-t", "tmpfs", "-o", f"size={int(1.5 * size)}", "tmpfs", disk)  # for one checkpoint
    run_dir, longer = disk / "run", [*job, "trainer.epochs=4"]
    done = finished(started("facenet-train", run_dir, *longer), run_dir)
    assert done.code == 2, done.err
    last = run_dir / "checkpoints" / "last.pt"
    assert (
        f"checkpoint: {last} cannot be written (" in done.err and "MiB are free there); free space or set" in done.err
    )
    assert "training goes on, and until the next checkpoint it is tried again" in done.err
    assert "Traceback" not in done.err and "Logging error" not in done.err
    assert checkpoint.load(last)["epoch"] == 1 and resume.find("auto", run_dir).content["epoch"] == 1
    assert [path.name for path in last.parent.iterdir()] == [
        "last.pt"
    ]  # the epoch before its test: a second file finds no room
    assert checkpoint.load(last)["untested"] is not None
    state, error = recorded(tmp_path)
    assert state == "FAILED" and f"{run_dir}/" in error and "cannot be written" in error
    subprocess.run(["mount", "-o", f"remount,size={10 * size}", str(disk)], check=True)
    again = finished(started("facenet-train", tmp_path / "no", f"resume={run_dir}"), run_dir)
    assert again.code == 0, again.err
    assert checkpoint.load(last)["epoch"] == 4 and recorded(tmp_path)[0] == "FINISHED"
    assert {path.name for path in last.parent.iterdir()} == {"best.pt", "last.pt", "epoch-003.pt", "epoch-004.pt"}


def test_a_disk_without_a_byte_ends_the_run_in_one_line(started, finished, job, disk, tmp_path):
    """The journal, the log and the note of the failure find no place either."""
    mounted("-t", "tmpfs", "-o", "size=400m", "tmpfs", disk)
    run_dir = disk / "run"
    process = started("facenet-train", run_dir, *job, "trainer.epochs=1000")
    until((run_dir / "checkpoints" / "epoch-001.pt").exists, process)
    with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while filler.write(bytes(2**16)) == 2**16 or filler.write(bytes(1)):
            pass
    done = finished(process, run_dir)
    assert done.code == 2 and "free space or set hydra.run.dir" in done.err and str(run_dir) in done.err, done.err
    assert "Traceback" not in done.err and "Logging error" not in done.err, done.err
    assert resume.find("auto", run_dir).content["epoch"] >= 1
    assert recorded(tmp_path)[0] == "FAILED", done.err


@pytest.mark.cold  # a process keeps the place of temporary files that it has once looked for
def test_a_full_disk_for_temporary_files_costs_the_model_alone(started, finished, job, disk, tmp_path, monkeypatch):
    """torch's writer ended the process with SIGABRT and a page of addresses."""
    mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    monkeypatch.setenv("TMPDIR", str(disk))
    run_dir = tmp_path / "run"
    done = finished(started("facenet-train", run_dir, *job, "trainer.epochs=1", "tracking.model=true"), run_dir)
    told = f"tracking.model=true: the network was not in its run ([Errno 28] No space left on device: '{disk}')"
    words = ["facenet-train", f"resume={run_dir}", "tracking.model=true"]
    assert (done.code, recorded(tmp_path)[0]) == (0, "FINISHED"), done.err
    assert f"{told}; free space or set TMPDIR, then: {' '.join(words)}\n" in done.err + done.out
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = finished(started(words[0], tmp_path / "no", *words[1:]), run_dir)
    assert again.code == 0 and "the best network is in its run: models:/m-" in again.err + again.out, again.err


@pytest.mark.parametrize("fault", ["read-only", "vanished"])
def test_a_disk_that_is_lost_ends_the_run_and_costs_no_checkpoint(started, finished, job, disk, tmp_path, fault):
    store = tmp_path / "store"
    store.mkdir()
    mounted("--bind", store, disk)
    run_dir = disk / "run"
    process = started("facenet-train", run_dir, *job, "trainer.epochs=1000")
    until((run_dir / "checkpoints" / "epoch-001.pt").exists, process)
    if fault == "vanished":
        subprocess.run(["umount", "-l", str(disk)], check=True)
    else:
        mounted("--bind", store, disk)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    done = finished(process, run_dir)
    words = {"read-only": "Read-only file system", "vanished": "No such file or directory"}[fault]
    assert done.code == 2 and words in done.err and f"{run_dir}/" in done.err, done.err
    assert "cannot be written" in done.err and "Traceback" not in done.err, done.err
    state, error = recorded(tmp_path)
    assert state == "FAILED" and words in error
    if fault == "vanished":
        assert list(disk.iterdir()) == []  # nothing went to the disk below
    found = resume.find("auto", store / "run")
    assert found.content["epoch"] >= 1
    assert json.loads((store / "run" / "history.json").read_text())[0]["epoch"] == 1


def test_training_does_not_wait_for_a_slow_disk(started, finished, job, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FACENET_TEST_SAID", str(tmp_path / "said"))
    run_dir = tmp_path / "run"
    done = finished(started("facenet-train", run_dir, *job, "data.images_per_identity=40"), run_dir)
    assert done.code == 0, done.err
    said = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    begins, ends = ([1000 * float(at) for word, at in said if word == name] for name in ("begins", "ends"))
    writes = list(zip(begins, ends, strict=True))  # of an epoch before it is tested, when no steps are made, and after
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = [record["time"] for record in steps if "train/lr" in record.get("metrics", {})]
    assert all(end - begin >= 2000 for begin, end in writes)
    assert max(sum(begin < at < end for at in times) for begin, end in writes) > 1
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["epoch"] == 2  # the last one was waited for
