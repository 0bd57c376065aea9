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
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from facenet import config
from facenet.commands import composed as cli
from facenet.distributed.choice import Distributed
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.launch.failure import Failure, RankFailed, cause, note_failure, noted_failures
from facenet.launch.local import launch, run_ranks, silent_end
from facenet.launch.order import Order
from facenet.launch.signals import STOP_SIGNALS, StopFlag, postpone, stop_signals_raise
from facenet.sweeps.settings import split

JOB = [
    *("data.num_identities=8", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"),
    *("data.num_workers=1", "data.val_images=0.0", "benchmark=none", "accelerator=cpu", "trainer.log_every=1"),
    "backbone.trunk.width=0.25",
]
# Each rank imports this at its start: it runs FACENET_TEST_FAULT before the third step, and keeps its parameters after each.
SITE = """
import os
if "RANK" in os.environ and "FACENET_TEST_FAULT" in os.environ:
    import signal, sys, time, torch
    from facenet.engine.trainer import Trainer
    from facenet.errors import UserError
    step, rank = Trainer.step, os.environ["RANK"]

    def faulty(self, batch, progress):
        if progress.step == 2:
            open(os.environ["FACENET_TEST_OUT"] + "/at_fault", "a").close()
            exec(os.environ["FACENET_TEST_FAULT"])
        step(self, batch, progress)
        torch.save(dict(self.step_module.named_parameters()), os.environ["FACENET_TEST_OUT"] + f"/rank{rank}.pt")

    Trainer.step = faulty
"""


def resolved(*overrides):
    from hydra import compose, initialize_config_module

    assert cli.own_experiments  # its import registers a resolver of the config
    with initialize_config_module("facenet.conf", version_base="1.3"):
        return split(config.resolve(compose("train", overrides=[*JOB, "tracking=none", *overrides])))[0]


@pytest.fixture
def launched(tmp_path):
    """launched(fault, num_processes): what `launch` returns or raises for a job of four steps."""
    (tmp_path / "sitecustomize.py").write_text(SITE)

    def run(fault="pass", *, num_processes=1, grace_s=20.0, timeout_s=300.0, overrides=("trainer.max_steps=4",)):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        config.write(resolved(f"distributed.timeout_s={timeout_s}", *overrides), run_dir / "resolved.yaml")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path))
            patch.setenv("FACENET_TEST_FAULT", fault)
            patch.setenv("FACENET_TEST_OUT", str(tmp_path))
            return launch(run_dir, Distributed(num_processes=num_processes, grace_s=grace_s), Order())

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


def test_a_rank_that_raises_is_named_with_its_own_traceback(launched, tmp_path):
    with pytest.raises(RankFailed) as raised:
        launched("if rank == '1': raise ValueError(f'boom at step {progress.step}')", num_processes=2)
    text = str(raised.value)
    assert text.startswith("rank 1:\nTraceback (most recent call last):") and "boom at step 2" in text
    assert text.count("Traceback") == 1 and "rank 0" not in text  # not what the failure did to the others
    assert text.endswith(f"\nlog of rank 1: {tmp_path}/run/ranks/1.log")
    assert str(pickle.loads(pickle.dumps(raised.value))) == text  # parallel sweep launchers send it on


def test_a_signal_while_a_failure_is_read_does_not_take_its_place(tmp_path):
    """torchrun's, for the rank that took this one down: the run was KILLED then, without a reason."""

    def elsewhere():
        if noted_failures(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
        return []

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with stop_signals_raise():
            failure, stop = run_ranks(tmp_path, "train", [{"RANK": "0"}], Order(), grace_s=20, elsewhere=elsewhere)
    finally:  # later ones are ignored, as the command is about to end
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(failure, (RankFailed, UserError)) and "resolved.yaml" in str(failure)
    assert isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM


def test_a_mistake_of_the_user_that_a_rank_finds_stays_one(launched):
    with pytest.raises(UserError) as raised:
        launched("raise UserError('data: 3 of 9 images cannot be read')")
    assert str(raised.value) == "data: 3 of 9 images cannot be read" and raised.value.__context__ is None


# Of two processes rank 1 ends or hangs; rank 0 breaks in its next collective. What is said begins, goes on, and does not hold.
ENDS = {
    "raises": (
        "raise RuntimeError('boom')",
        "rank 1:\nTraceback (most recent call last):",
        "RuntimeError: boom",
        "rank 0",
    ),
    "exits": ("sys.exit(3)", "rank 1:\nTraceback (most recent call last):", "SystemExit: 3", "rank 0"),
    "is killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "rank 1:\nkilled by SIGKILL, as the kernel",
        "1.log",
        "rank 0",
    ),
    "crashes": (
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "rank 1:\nkilled by SIGSEGV, without a traceback\nFatal Python error: Segmentation fault",
        "sitecustomize.py",
        "rank 0",
    ),
    "leaves": ("os._exit(7)", "rank 1:\nended with exit code 7, without a traceback", "1.log", "rank 0"),
    "hangs": (
        "time.sleep(600)",
        "rank 0:\nTraceback (most recent call last):",
        "\nrank 1 did not end by itself and was at\nStack (most recent call first):\n"
        '  File "<string>", line 1 in <module>\n  File "{tmp_path}/sitecustomize.py", line 12 in faulty\n',
        "rank 2",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_how_a_rank_ends_is_told_within_seconds(launched, tmp_path, end):
    fault, begins, holds, without = ENDS[end]
    with pytest.raises(RankFailed) as raised:
        launched(f"if rank == '1': {fault}", num_processes=2, timeout_s=15.0)  # within which the group must form, too
    took, text = time.time() - (tmp_path / "at_fault").stat().st_mtime, str(raised.value)
    assert text.startswith(begins) and holds.format(tmp_path=tmp_path) in text and without not in text
    assert took < 60, took
    assert processes_of(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, 9])
def test_rank_0_ends_without_a_result(launched, end):
    with pytest.raises(
        RankFailed, match=f"rank 0:\nended with exit code {end}, without a traceback\nlog of rank 0: .*train.log"
    ):
        launched(f"os._exit({end})")


@pytest.mark.slow
def test_a_rank_that_is_busy_while_another_fails_does_not_keep_the_job(launched, tmp_path):
    with pytest.raises(RankFailed, match="rank 1:\n(.*\n)*.*boom"):
        launched("if rank == '1': raise ValueError('boom')\ntime.sleep(600)", num_processes=2, grace_s=300.0)
    assert time.time() - (tmp_path / "at_fault").stat().st_mtime < 100


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
    assert [path.name for path in (tmp_path / "run" / "ranks").iterdir()] == ["1.log"]  # rank 0 has the terminal


def failed(rank, time, *, induced):
    return Failure(rank=rank, time=time, user=False, induced=induced, text="")


def test_the_cause_is_the_first_failure_that_no_other_explains():
    peer_gone = failed(0, 1.0, induced=True)
    assert cause([peer_gone, failed(1, 2.0, induced=False), failed(2, 3.0, induced=False)]).rank == 1
    assert cause([failed(2, 2.0, induced=True), peer_gone]).rank == 0


def test_what_a_rank_notes_is_read_again(tmp_path):
    note_failure(tmp_path, 3, RuntimeError("connection closed by peer"))
    note_failure(tmp_path, 1, UserError("data: 3 of 9"))
    first, second = noted_failures(tmp_path)
    assert (first.rank, first.user, first.induced, first.text) == (1, True, False, "data: 3 of 9")
    assert (second.rank, second.user, second.induced) == (3, False, True)
    assert second.text == "RuntimeError: connection closed by peer" and first.time > second.time > time.time() - 60


def test_the_stop_flag():
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    with contextlib.closing(StopFlag(grace_s=1.0)) as stop:
        assert not stop and stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.signal == signal.SIGTERM  # the first one counts
    time.sleep(1.3)  # closed in time: this process goes on
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_a_stop_flag_outside_the_main_thread_gets_no_signals_and_breaks_nothing():
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(StopFlag, 1.0).result()
        assert not stop
        pool.submit(stop.close).result()
    assert signal.set_wakeup_fd(-1) == -1


# A mutex that its own thread holds: no signal interrupts the wait, so Python's handlers never run.
STUCK = """
import ctypes, os, signal, threading
from facenet.launch.signals import StopFlag
StopFlag(0.3)
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
mutex = ctypes.create_string_buffer(64)
def stuck(): [ctypes.CDLL(None).pthread_mutex_lock(mutex) for _ in range(2)]
stuck()
"""


def test_a_process_stuck_outside_python_is_ended_after_the_grace_time():
    done = subprocess.run([sys.executable, "-c", STUCK], timeout=120, capture_output=True, text=True)
    assert done.returncode == 143
    assert (
        done.stderr.startswith("no end of a step within 0.3 s of signal 15; ended at\n") and "in stuck" in done.stderr
    )


def test_the_second_sigterm_does_not_break_into_what_the_first_one_ends():
    code = (
        "import os, signal\nfrom facenet.launch.signals import stop_signals\n"
        "with stop_signals() as received: os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print(*received)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "15\n")


def test_a_signal_before_the_ranks_run_ends_the_command():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised, stop_signals_raise():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_every_stop_signal_ends_a_command_whose_ranks_do_not_run_yet(number):
    with pytest.raises(SystemExit) as raised, stop_signals_raise():
        os.kill(os.getpid(), number)
    assert raised.value.code == 128 + number and signal.getsignal(number) is signal.SIG_DFL


def test_a_batch_launchers_own_handler_stays():
    requeued = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: requeued.append(number))
    try:
        with stop_signals_raise():
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert requeued == [signal.SIGUSR2]


def test_a_signal_takes_effect_after_what_must_not_be_broken_into():
    done = []
    with pytest.raises(SystemExit) as raised, stop_signals_raise(), postpone():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("whole")
    assert done == ["whole"] and raised.value.code == 143
    with pytest.raises(KeyboardInterrupt), postpone():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("whole")
    assert len(done) == 2 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


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


def wait_for(condition, process=None, limit_s=300):
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
        assert process.wait(timeout=300) == 143
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


def test_the_notice_of_a_batch_system_saves_and_exits(tmp_path):
    with running(tmp_path, "tracking=none") as (process, run_dir):
        process.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=300) == 128 + signal.SIGUSR2
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["step"] >= 2 and processes_of(run_dir) == []


def test_ctrl_c_saves_and_exits_130(tmp_path):
    with running(tmp_path, "tracking=none") as (process, run_dir):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["step"] >= 2
    assert read(tmp_path / "said").rstrip().endswith("interrupted") and "Traceback" not in read(tmp_path / "said")


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    with running(tmp_path, "tracking=none") as (process, run_dir):
        assert len(processes_of(run_dir)) >= 2
        process.kill()
        process.wait()
        wait_for(lambda: not processes_of(run_dir), limit_s=60)


def test_a_rank_that_cannot_take_the_signal_is_ended_all_the_same(tmp_path):
    """A frozen process, as one that hangs in a driver or has not come to its handlers yet."""
    with running(tmp_path, "tracking=none", "distributed.grace_s=1") as (process, run_dir):
        (rank,) = set(processes_of(run_dir)) - {process.pid}
        os.kill(rank, signal.SIGSTOP)
        process.terminate()
        assert process.wait(timeout=300) == 143
    assert processes_of(run_dir) == [] and "Traceback" not in read(tmp_path / "said")


@pytest.mark.slow
def test_sigterm_stops_two_processes_at_the_same_step(tmp_path):
    with running(tmp_path, "tracking=none", "distributed=ddp") as (process, run_dir):
        process.terminate()
        assert process.wait(timeout=300) == 143
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["step"] >= 2
    assert not json.loads(read(run_dir / "result.json") or "null") and processes_of(run_dir) == []


@pytest.mark.slow
def test_a_signal_in_the_first_moments_of_the_ranks_stops_the_job(tmp_path):
    run_dir = tmp_path / "run"
    with (tmp_path / "said").open("w") as said:
        command = [str(Path(sys.executable).parent / "facenet-train"), *JOB, "tracking=none", "distributed=ddp"]
        process = subprocess.Popen([*command, f"hydra.run.dir={run_dir}"], cwd=tmp_path, stdout=said, stderr=said)
        wait_for(lambda: (run_dir / "ranks" / "1.log").exists(), process)  # made before the rank itself
        process.terminate()
        assert process.wait(timeout=300) == 143
    assert "Traceback" not in read(tmp_path / "said") and processes_of(run_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raises", "exits", "is killed", "hangs"])
def test_a_rank_that_ends_badly_fails_the_run_on_record(tmp_path, end):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    fault, begins, holds, _ = ENDS[end]
    environment = {"PYTHONPATH": str(tmp_path), "FACENET_TEST_OUT": str(tmp_path)}
    environment["FACENET_TEST_FAULT"] = f"if rank == '1': {fault}"
    command = [str(Path(sys.executable).parent / "facenet-train"), *JOB, "distributed=ddp", "hydra.run.dir=run"]
    done = subprocess.run(
        [*command, *(["distributed.timeout_s=15"] if end == "hangs" else [])],
        cwd=tmp_path,
        env={**os.environ, **environment},
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FAILED",)]
        ((error,),) = database.execute("select value from tags where key = 'error'").fetchall()
    assert error.startswith(begins) and holds.format(tmp_path=tmp_path) in error
    assert done.stderr.endswith(f"{error}\n") and done.stderr.count("Traceback") == error.count("Traceback")
    if end == "is killed":
        assert error == (
            "rank 1:\nkilled by SIGKILL, as the kernel does when memory runs out, without a traceback\n"
            f"log of rank 1: {tmp_path}/run/ranks/1.log"
        )
    assert processes_of(tmp_path / "run") == []


def test_a_file_that_was_cut_while_it_was_mapped_is_named_as_the_cause(tmp_path):
    rank = types.SimpleNamespace(number=1, code=-signal.SIGBUS, killed=False, ended=0.0, stood=lambda: "")
    assert silent_end(tmp_path, rank).text == (
        "killed by SIGBUS, as the kernel does when a file is cut or its disk fails while it is read "
        "(a raw cache, a .rec pack): copy or make it again, without a traceback"
    )
