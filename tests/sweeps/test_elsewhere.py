"""Sweeps under the launchers of other packages, each run as its user runs it. They skip where the extra is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TINY = (
    "data.num_identities=12",
    "data.images_per_identity=8",
    "data.image_size=32",
    "backbone.trunk.width=0.25",
    "data.batch_size=12",
    "data.val_images=0.1",
    "data.val_identities=0.34",
    "data.num_workers=1",
    "benchmark.num_pairs=60",
    "benchmark.num_folds=3",
    "accelerator=cpu",
    "trainer.epochs=1",
)
pytestmark = pytest.mark.slow


def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.{package}") is not None
    except ModuleNotFoundError:
        return False


def needs(extra: str) -> pytest.MarkDecorator:
    found = installed(f"hydra_{extra}_launcher")
    return pytest.mark.skipif(not found, reason=f"pip install 'facenet[{extra}]'")


def start(directory: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [str(BIN / "facenet-train"), "-m", *TINY, f"hydra.sweep.dir={directory / 'sweep'}", *overrides]
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sweep(directory: Path, *overrides: str) -> tuple[int, str, str]:
    process = start(directory, *overrides)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def runs(directory: Path) -> dict[str, str]:
    """Job number -> state in MLflow; one run a job."""
    from facenet.tracking import reading

    found = reading.runs_of_sweep(f"sqlite:///{directory / 'mlflow.db'}", "sweep")
    assert len({run.tags["job_num"] for run in found}) == len(found)
    return {run.tags["job_num"]: run.status for run in found}


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs("joblib"), id="joblib"),
        pytest.param(("hydra/launcher=submitit_local",), marks=needs("submitit"), id="submitit_local"),
        pytest.param(("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"), marks=needs("ray"), id="ray"),
    ],
)
def test_two_jobs_are_planned_run_and_tracked(launcher, tmp_path):
    code, out, err = sweep(tmp_path, *launcher, "seed=1,2")
    assert code == 0, err[-3000:]
    table = [line.split() for line in out.splitlines() if line.split()[:1] in (["job"], ["0"], ["1"])][:3]
    assert table[0][:4] == ["job", "at", "start", "seed"]
    assert [row[:3] for row in table[1:]] == [["0", "new", "1"], ["1", "new", "2"]]
    assert runs(tmp_path) == {"0": "FINISHED", "1": "FINISHED"}
    assert "sweep sweep: 1 setting of 2 jobs" in out and "(2 seeds)" in out and "compare the runs: mlflow server" in out
    results = [json.loads((tmp_path / "sweep" / num / "result.json").read_text()) for num in "01"]
    assert all(result["objective"] == result["metrics"]["heldout/accuracy"] for result in results)
    code, out, err = sweep(tmp_path, *launcher, "seed=1,2", "sweep.dry_run=true")
    assert code == 0, err[-3000:]
    assert out.count("finished, skipped") == 2 and runs(tmp_path) == {"0": "FINISHED", "1": "FINISHED"}


@needs("submitit")
def test_a_failing_job_of_submitit_is_told_with_its_reason_and_the_others_run(tmp_path):
    code, out, err = sweep(tmp_path, "hydra/launcher=submitit_local", "backbone.dropout=-1,0")
    assert "  job 0 (-1) failed: config: backbone: " in out
    assert code == 2
    assert "dropout probability" in err.splitlines()[-2] + err.splitlines()[-1], err[-3000:]
    assert runs(tmp_path) == {"0": "FAILED", "1": "FINISHED"}


@needs("submitit")
def test_a_preempted_job_saves_is_requeued_and_goes_on_in_the_same_run(tmp_path):
    process = start(tmp_path, "hydra/launcher=submitit_local", "seed=1", "trainer.epochs=12", "trainer.log_every=1")
    journal = tmp_path / "sweep" / "0" / "metrics.jsonl"
    while not (journal.is_file() and '"train/loss"' in journal.read_text()):
        assert process.poll() is None, (process.communicate(), said_in(tmp_path / "sweep" / ".submitit"))
        time.sleep(0.2)
    os.kill(submitted(tmp_path), signal.SIGUSR2)  # as a batch system does before the limit, or to make room
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    (log,) = (tmp_path / "sweep" / ".submitit").glob("*/*_log.out")
    assert "Requeued job" in log.read_text()
    assert "goes on at step" in (tmp_path / "sweep" / "0" / "train.log").read_text()
    from facenet.tracking import reading

    (run,) = reading.runs_of_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "sweep")
    assert (run.status, run.tags["resumed"]) == ("FINISHED", "1")
    steps = [step for step, _ in reading.history(f"sqlite:///{tmp_path / 'mlflow.db'}", run.id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1)) and run.metrics["epoch"] == 12, "every step once"


def said_in(folder: Path) -> dict[str, str]:
    """What submitit's jobs wrote, by file."""
    return {str(path): path.read_text()[-3000:] for path in sorted(folder.rglob("*_log.*"))}


def submitted(directory: Path) -> int:
    """The process in which submitit runs the job."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and any(str(directory) in word for word in words):
            return int(path.parent.name)
    raise AssertionError("no process of submitit")


@needs("submitit")
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("hydra.launcher.tasks_per_node=2", "would run each whole job 2 times in one directory"),
        ("sweep.skip_duplicates=true", "sweep.skip_duplicates: only facenet's own launcher does this"),
    ],
)
def test_what_would_go_wrong_or_be_ignored_is_refused(setting, told, tmp_path):
    code, _, err = sweep(tmp_path, "hydra/launcher=submitit_local", "seed=1,2", setting)
    assert code == 2 and told in err and len(err.splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("choice", "extra", "package"),
    [
        ("hydra/launcher=joblib", "joblib", "hydra_joblib_launcher"),
        ("hydra/launcher=slurm", "submitit", "hydra_submitit_launcher"),
        ("hydra/launcher=ray_cluster", "ray", "hydra_ray_launcher"),
        ("sweep=optuna_lr", "optuna", "hydra_optuna_sweeper"),
    ],
)
def test_without_its_extra_a_choice_says_what_to_install(choice, extra, package, tmp_path):
    if installed(package):
        pytest.skip(f"{extra} is installed")
    code, _, err = sweep(tmp_path, choice, "seed=1,2")
    assert code == 2 and f"pip install 'facenet[{extra}]'" in err and len(err.splitlines()) == 1


@needs("ray")
def test_a_relative_directory_is_refused_on_a_ray_cluster(tmp_path):
    code, _, err = sweep(tmp_path, "hydra/launcher=ray_cluster", "seed=1,2", "hydra.sweep.dir=relative")
    assert code == 2 and "hydra.sweep.dir=relative: on a Ray cluster it must begin with /" in err
