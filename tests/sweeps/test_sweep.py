"""Sweeps on this machine, as their user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from facenet.tracking import reading
from facenet.tracking.facts import planned
from facenet.tracking.store import open_client

COMMAND = (
    str(Path(sys.executable).parent / "facenet-train"),
    "-m",
    "data.num_identities=12",
    "data.images_per_identity=8",
    "data.image_size=32",
    "backbone.trunk.width=0.25",
    "data.batch_size=12",
    "data.num_workers=1",
    "benchmark=none",
    "trainer.epochs=1",
    "trainer.log_every=1",
    "accelerator=cpu",
    "hydra.sweep.dir=sweep",
)
pytestmark = pytest.mark.slow


def sweep(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *overrides], cwd=directory, capture_output=True, text=True, timeout=900)


def states(directory: Path) -> dict[str, str]:
    """Job number -> state of its one run."""
    found = reading.runs_of_sweep(f"sqlite:///{directory / 'mlflow.db'}", "sweep")
    assert len({run.tags["job_num"] for run in found}) == len(found)
    return {run.tags["job_num"]: run.status for run in found}


def best_of(directory: Path) -> reading.RunRecord:
    """The run of least loss."""
    found = reading.runs_of_sweep(f"sqlite:///{directory / 'mlflow.db'}", "sweep")
    return min(
        (run for run in found if run.status == "FINISHED"),
        key=lambda run: run.metrics[f"best/{run.params['plan.select']}"],
    )


def models(directory: Path) -> list[Any]:
    client = open_client(f"sqlite:///{directory / 'mlflow.db'}")
    return list(client.search_logged_models([each.experiment_id for each in client.search_experiments()]))


def table(out: str) -> list[list[str]]:
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("job  at start"))
    return [line.split() for line in lines[start : lines.index("", start)]]


def test_a_failing_job_is_told_the_others_run_and_the_same_command_tries_it_alone_again(tmp_path):
    axes = ("optimizer.lr=1e-3,2e-3", "backbone.dropout=0,-1", "sweep.jobs_per_node=2", "tracking.model=true")
    done = sweep(tmp_path, *axes)
    assert done.returncode == 2
    assert [row[:4] for row in table(done.stdout)[1:]] == [
        ["0", "new", "0.001", "0"],
        ["1", "new", "0.001", "-1"],
        ["2", "new", "0.002", "0"],
        ["3", "new", "0.002", "-1"],
    ]
    told = done.stderr.splitlines()
    assert [line.split(" (")[0] for line in told] == ["job 1", "job 3"]
    assert all(
        "FAILED: config: backbone: " in line and "; its output is in " in line for line in told
    )  # by torch, in the rank
    assert states(tmp_path) == {"0": "FINISHED", "1": "FAILED", "2": "FINISHED", "3": "FAILED"}
    assert "sweep sweep: 2 settings of 4 jobs" in done.stdout and "compare the runs: " in done.stdout
    assert (tmp_path / "sweep" / "plan.csv").read_text().count("\n") == 5
    left = (tmp_path / "sweep" / "plan.txt").read_text()  # and it ended otherwise
    assert [row.split()[:3] for row in left.splitlines()][:2] == [["job", "at", "start"], ["0", "new", "0.001"]]
    kept = models(tmp_path)
    assert [each.source_run_id for each in kept] == [best_of(tmp_path).id]
    assert f"the best network is in its run: models:/{kept[0].model_id}, " in done.stdout

    again = sweep(tmp_path, *axes, "sweep.dry_run=true")
    assert again.returncode == 0
    assert again.stdout.count("finished, skipped") == again.stdout.count("failed, tried again") == 2


def test_a_stop_signal_saves_ends_the_sweep_and_the_sweep_goes_on_from_there(tmp_path):
    axes = ("seed=1,2", "trainer.epochs=20")
    process = subprocess.Popen(
        [*COMMAND, *axes], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "sweep" / "0" / "metrics.jsonl"
    while not (journal.is_file() and '"train/loss":' in journal.read_text()):  # a step, not the head, which names it
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert "job 0: stopped by a signal; took " in out and "FAILED" not in out
    assert out.splitlines()[-1] == f"go on with what is left: facenet-train sweep.resume={tmp_path / 'sweep'}"
    assert process.returncode == 130 and states(tmp_path) == {"0": "KILLED"}
    assert not (tmp_path / "sweep" / "1").exists()

    (elsewhere := tmp_path / "elsewhere").mkdir()
    resumed = [COMMAND[0], "sweep.resume=../sweep", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    done = subprocess.run(resumed, cwd=elsewhere, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert states(tmp_path) == {"0": "FINISHED", "1": "FINISHED"}
    results = [json.loads((tmp_path / "sweep" / num / "result.json").read_text()) for num in "01"]
    assert all(result["pruned"] is None for result in results)
    (first, _) = reading.runs_of_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "sweep")
    assert first.tags["resumed"] == "1" and first.metrics["epoch"] == 20


def test_duplicates_are_shown_and_skipped_on_request_and_a_failure_can_end_the_sweep(tmp_path):
    clipped = ("schedule=reference_cosine", "optimizer.lr=1e-3,1.5e-3")  # both become the lower limit of its batch rule
    done = sweep(tmp_path, *clipped, "sweep.skip_duplicates=true", "tracking=none")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same as job 0" in done.stdout and "duplicate, skipped" in done.stdout
    assert (tmp_path / "sweep" / "0" / "result.json").is_file() and not (tmp_path / "sweep" / "1").exists()

    done = sweep(
        tmp_path, "backbone.dropout=-1,0", "sweep.stop_on_failure=true", "tracking=none", "hydra.sweep.dir=other"
    )
    assert done.returncode == 2 and not (tmp_path / "other" / "1").exists()


def test_jobs_of_several_processes_run_at_a_time_on_devices_of_their_own_and_seeds_are_averaged(tmp_path, standin):
    """On the stand-in's four devices."""
    axes = ("optimizer.lr=1e-3,2e-3", "seed=1,2", "accelerator=sdaa", "distributed=ddp", "distributed.num_processes=2")
    command = [*COMMAND, *axes, "sweep.jobs_per_node=3", "tracking.experiment=study"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | standin
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen: dict[str, tuple[str, ...]] = {}
    while process.poll() is None:
        seen |= surroundings(tmp_path, "SDAA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        assert len(running(tmp_path)) <= 2, "four devices hold two jobs of two processes"
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    assert [row[-3:-1] for row in [line.split() for line in out.splitlines() if line[:3] == "  3"]] == [["x", "sdaa"]]
    assert {devices for devices, _ in seen.values()} == {"0,1", "2,3"} and sorted(seen) == ["0", "1", "2", "3"]
    assert {threads for _, threads in seen.values()} == {"1"}
    assert states(tmp_path) == dict.fromkeys("0123", "FINISHED")
    assert "sweep sweep: 2 settings of 4 jobs" in out and out.count("(2 seeds)") >= 2
    (run, *_) = reading.runs_of_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "sweep")
    assert (run.name, run.params["plan.device"], run.params["plan.num_processes"]) == (
        "lr 1e-3 · seed 1",
        "sdaa",
        "2",
    )
    assert float(run.params["optimizer.lr"]) == 1e-3
    assert (
        run.metrics["samples_seen"] and run.metrics["samples_seen"] % int(planned(run.params, "images_per_step")) == 0
    )
    assert f"best/{run.params['plan.select']}" in run.metrics


def running(directory: Path) -> dict[str, Path]:
    """Job number -> its process's entry in /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "facenet.sweeps.job" in words and str(directory) in words[4]:
            found[Path(words[4]).name] = path
    return found


def surroundings(directory: Path, *names: str) -> dict[str, tuple[str, ...]]:
    """Job number -> values of variables in the environment of its process."""
    found = {}
    for number, path in running(directory).items():
        try:
            lines = (path / "environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if names[0] in environment:
            found[number] = tuple(environment.get(name, "") for name in names)
    return found
