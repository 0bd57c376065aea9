"""Real processes: a rank that fails, a signal that stops, two ranks that agree."""

import contextlib
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from facenet import cli, config
from facenet.distributed import Distributed
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.launch import RankFailed, StopFlag, failure_of, launch, note_failure, saved_signal_handlers

JOB = [
    *("data.num_identities=8", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"),
    *("data.num_workers=1", "data.val_images=0.0", "benchmark=none", "accelerator=cpu", "trainer.log_every=1"),
]
# Each rank imports this at its start: it runs FACENET_TEST_FAULT before the third step, and keeps its parameters after each.
SITE = """
import os
if "RANK" in os.environ and "FACENET_TEST_FAULT" in os.environ:
    import signal, sys, time, torch
    from facenet.engine.trainer import Trainer
    from facenet.errors import UserError
    update, rank = Trainer.update, os.environ["RANK"]

    def faulty(self, progress):
        if progress.step == 2:
            exec(os.environ["FACENET_TEST_FAULT"])
        update(self, progress)
        torch.save(dict(self.step_module.named_parameters()), os.environ["FACENET_TEST_OUT"] + f"/rank{rank}.pt")

    Trainer.update = faulty
"""


def resolved(*overrides):
    from hydra import compose, initialize_config_module

    assert cli.own_experiments  # its import registers a resolver of the config
    with initialize_config_module("facenet.conf", version_base="1.3"):
        return config.resolve(compose("train", overrides=[*JOB, "tracking=none", *overrides]))


@pytest.fixture
def launched(tmp_path):
    """launched(fault, num_processes): what `launch` returns or raises for a job of four steps."""
    (tmp_path / "sitecustomize.py").write_text(SITE)

    def run(fault="pass", *, num_processes=1, grace_s=20.0, overrides=("trainer.max_steps=4",)):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        config.write(resolved(f"distributed.grace_s={grace_s}", *overrides), run_dir / "resolved.yaml")
        hooks = {
            "PYTHONPATH": str(tmp_path),
            "FACENET_TEST_FAULT": fault,
            "FACENET_TEST_OUT": str(tmp_path),
        }
        return launch(run_dir, Distributed(num_processes=num_processes, grace_s=grace_s), hooks)

    return run


def test_what_rank_0_returned_comes_back_and_nothing_else_changes(launched, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "an outer job")
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    (tmp_path / "run").mkdir()
    note_failure(tmp_path / "run", 0, ValueError("of an earlier attempt"))
    result = launched()
    assert result["checkpoint"] == str(tmp_path / "run" / "checkpoints" / "best.pt")
    assert result["objective"] == result["metrics"]["train/loss"] > 0
    assert checkpoint.load(result["checkpoint"])["step"] == 4
    assert dict(os.environ) == environment and signal.getsignal(signal.SIGTERM) is handler
    assert not list((tmp_path / "run").glob("failure-*"))


def test_a_rank_that_raises_is_named_with_its_own_traceback(launched):
    with pytest.raises(RankFailed) as raised:
        launched("if rank == '1': raise ValueError(f'boom at step {progress.step}')", num_processes=2)
    text = str(raised.value)
    assert text.startswith("rank 1:\nTraceback (most recent call last):") and "boom at step 2" in text
    assert text.count("Traceback") == 1 and "rank 0" not in text  # not what the failure did to the others
    assert str(pickle.loads(pickle.dumps(raised.value))) == text  # parallel sweep launchers send it on


def test_a_mistake_of_the_user_that_a_rank_finds_stays_one(launched):
    with pytest.raises(UserError) as raised:
        launched("raise UserError('data: 3 of 9 images cannot be read')")
    assert str(raised.value) == "data: 3 of 9 images cannot be read" and raised.value.__suppress_context__


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [("sys.exit(3)", "SystemExit: 3"), ("os.kill(os.getpid(), signal.SIGKILL)", "rank 0: Signal 9 .SIGKILL.")],
)
def test_a_rank_that_ends_by_itself(launched, fault, said):
    with pytest.raises(RankFailed, match=said):
        launched(fault)


@pytest.mark.slow
def test_a_rank_that_hangs_while_another_fails_is_ended_after_the_grace_time(launched):
    started = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1:\n(.*\n)*.*boom"):
        launched("if rank == '1': raise ValueError('boom')\ntime.sleep(600)", num_processes=2, grace_s=2.0)
    assert time.monotonic() - started < 60


def test_two_processes_train_together_and_agree(launched, tmp_path):
    result = launched(num_processes=2, overrides=["distributed=ddp", "trainer.max_steps=4"])
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == ranks[1].keys() and len(ranks[0]) > 50
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    saved = checkpoint.load(result["checkpoint"])
    name = "embedder.Bottleneck.weight"
    assert torch.equal(saved["embedder"]["Bottleneck.weight"], ranks[0][f"module.{name}"])
    torch.manual_seed(0)
    start = config.build(resolved()["backbone"]).state_dict()["Bottleneck.weight"]
    assert not torch.equal(start, saved["embedder"]["Bottleneck.weight"])
    logs = list((tmp_path / "run" / "ranks").rglob("stderr.log"))
    assert [path.parent.name for path in logs] == ["1"]  # rank 0 has the terminal


def test_the_first_failure_is_told(tmp_path):
    note_failure(tmp_path, 1, ValueError("the cause"))
    time.sleep(0.01)
    note_failure(tmp_path, 0, RuntimeError("connection closed by peer"))
    assert "the cause" in str(failure_of(tmp_path, "otherwise")) and "peer" not in str(failure_of(tmp_path, ""))
    assert str(failure_of(tmp_path / "empty", "rank 1: exit code 9")) == "rank 1: exit code 9"


def test_the_stop_flag():
    with saved_signal_handlers():
        stop = StopFlag(grace_s=600)
        assert not stop and stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.signal == signal.SIGTERM  # the first one counts


def test_a_process_that_reaches_no_step_is_ended_after_the_grace_time():
    code = "import os, signal, time; from facenet.launch import StopFlag; StopFlag(0.2)\n"
    code += "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 143


# Signals to the command itself, as a terminal, a batch system or the kernel send them.


@contextlib.contextmanager
def running(tmp_path, *overrides):
    """(process, run directory) of a training that has made a step and would go on for hours."""
    run_dir = tmp_path / "run"
    command = [str(Path(sys.executable).parent / "facenet-train"), *JOB, "trainer.epochs=100000"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, *overrides, f"hydra.run.dir={run_dir}"], cwd=tmp_path, stdout=said, stderr=said
        )
        try:
            wait_for(lambda: "step 2 of" in read(run_dir / "train.log"), process)
            yield process, run_dir
        finally:
            process.kill()
            process.wait()


def read(path):
    return path.read_text() if path.exists() else ""


def wait_for(condition, process=None, limit_s=120):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "ended by itself"
        time.sleep(0.1)


def processes_of(run_dir):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(run_dir).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def test_sigterm_saves_closes_the_run_as_killed_and_exits_143(tmp_path):
    with running(tmp_path, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db") as (process, run_dir):
        process.terminate()
        assert process.wait(timeout=60) == 143
    content = checkpoint.load(run_dir / "checkpoints" / "last.pt")
    assert content["step"] >= 2 and content["training"]["optimizer"]["state"]
    assert content["metrics"] == {}  # within an epoch nothing is known of it
    assert f"stopped at step {content['step']}; the state is in {run_dir}/checkpoints/last.pt" in read(
        tmp_path / "said"
    )
    assert "Traceback" not in read(tmp_path / "said") and not (run_dir / "result.json").exists()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select run_uuid, status from runs").fetchall() == [(content["run_id"], "KILLED")]
        (points,) = database.execute("select count(*) from metrics where key = 'train/loss'").fetchone()
        assert points == content["step"]  # what was logged is flushed
    assert processes_of(run_dir) == []


def test_ctrl_c_saves_and_exits_130(tmp_path):
    with running(tmp_path, "tracking=none") as (process, run_dir):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["step"] >= 2
    assert read(tmp_path / "said").rstrip().endswith("interrupted") and "Traceback" not in read(tmp_path / "said")


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    with running(tmp_path, "tracking=none") as (process, run_dir):
        assert len(processes_of(run_dir)) >= 2
        process.kill()
        process.wait()
        wait_for(lambda: not processes_of(run_dir), limit_s=10)


@pytest.mark.slow
def test_sigterm_stops_two_processes_at_the_same_step(tmp_path):
    with running(tmp_path, "tracking=none", "distributed=ddp") as (process, run_dir):
        process.terminate()
        assert process.wait(timeout=90) == 143
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["step"] >= 2
    assert not json.loads(read(run_dir / "result.json") or "null") and processes_of(run_dir) == []
