"""How long a stop may take, and that nothing is lost by it or left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.files import atomic
from facenet.launch import local as launch
from facenet.launch import signals as stop
from facenet.launch.signals import StopFlag

STEPS = """
import os, signal, sys, threading, time
from facenet.launch.signals import StopFlag
stop = StopFlag(0.2, longest_s=float(sys.argv[1]), tell=lambda patience_s: print(f"{patience_s:.1f}", flush=True))
for step in range(3):
    if bool(stop): sys.exit(f"stopped after step {step}")
    if step == 2: threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    for _ in range(10): time.sleep(0.06)
sys.exit(f"stopped after the last step: {bool(stop)}")
"""
FIRST = """
import os, signal, threading, time
from facenet.launch.signals import StopFlag
stop = StopFlag(0.2)
bool(stop)
os.kill(os.getpid(), signal.SIGTERM)
for _ in range(1000): time.sleep(0.02)
"""


def ran(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], timeout=60, capture_output=True, text=True)


def test_a_step_that_is_longer_than_the_grace_time_comes_to_its_end():
    done = ran(STEPS, "inf")
    assert done.stderr == "stopped after the last step: True\n" and float(done.stdout.split()[-1]) >= 1.8
    done = ran(STEPS, "0.2")  # under torchrun, which ends its processes itself
    assert done.returncode == 143 and "no end of a step within 0.2 s of signal 15" in done.stderr


def test_in_the_first_step_there_is_nothing_to_wait_for():
    done = ran(FIRST)
    assert (done.returncode, done.stderr) == (143, "ended by signal 15 in the first step, of which nothing is lost\n")


def test_patience_follows_steps_and_checkpoints(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with contextlib.closing(StopFlag(30.0, longest_s=500.0, tell=told.append)) as flag:
        for after in (1000.0, 5.0, 20.0, 2.0):  # the time before the first look, the start of a run, is no step
            now[0] += after
            assert not flag
        assert flag.patience() == 60.0 and told == [30.0, 60.0]
        flag.expect(40.0)
        assert flag.patience() == told[-1] == 100.0
        flag.expect(4000.0)
        assert flag.patience() == 500.0


LAUNCHER = """
import os, sys
from pathlib import Path
from facenet.launch.local import start_rank
from facenet.launch.order import Order
from facenet.files.atomic import alone_in
run_dir = Path(sys.argv[1])
with alone_in(run_dir, "hydra.run.dir", "trains") as lock:
    rank = start_rank(run_dir, "train", {"RANK": "0"}, Order(lock=lock), 1.0, 1.0)
    print(rank.process.pid, flush=True)
    os._exit(0) if sys.argv[2] == "gone" else os.read(0, 1)
"""
# What a rank imports first of all: it is slower than its launcher's end.
SLOW_START = (
    "import os, time\nif 'RANK' in os.environ and not os.environ.get('X'): time.sleep(float(os.environ['SLEEP_S']))\n"
)


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def launcher(tmp_path):
    """launcher(then): a launcher whose rank takes long to start, and the number of that rank."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    begun = []

    def start(then, sleep_s):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SLEEP_S": str(sleep_s)}
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(tmp_path / "run"), then],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        begun.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in begun:
        process.kill()
        process.communicate(timeout=60)


def test_a_rank_whose_launcher_is_gone_before_it_looks_ends_and_holds_the_directory_until_then(launcher, tmp_path):
    process, rank = launcher("gone", 2.0)
    process.wait(timeout=60)
    (tmp_path / "run" / "resolved.yaml").write_text("seed: 0\n")
    seen_locked = False
    end = time.monotonic() + 60
    while alive(rank):
        assert time.monotonic() < end
        try:
            with atomic.alone_in(tmp_path / "run", "hydra.run.dir", "trains"):
                assert not alive(rank)
        except UserError as error:
            seen_locked = True
            assert f"another command trains there (process {process.pid} of host " in str(error)
        time.sleep(0.05)
    assert seen_locked and not (tmp_path / "run" / "train.log").exists()
    assert not list((tmp_path / "run").glob("failure-*"))
    with atomic.alone_in(tmp_path / "run", "hydra.run.dir", "trains"):
        pass


def test_the_lock_names_its_holder_only_while_there_is_one(tmp_path, caplog):
    with atomic.alone_in(tmp_path, "hydra.run.dir", "trains"):
        assert f"process {os.getpid()} of host" in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""
    (tmp_path / ".lock").write_text("process 7 of host elsewhere\n")
    with atomic.alone_in(tmp_path, "hydra.run.dir", "trains"):
        pass
    assert "the command before (process 7 of host elsewhere) did not end by itself" in caplog.text


def test_a_file_system_without_locks_is_told_and_used(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    with atomic.alone_in(tmp_path, "hydra.run.dir", "trains"):
        pass
    assert "has no locks (No locks available): nothing keeps a second command out" in caplog.text


class SlowRank:
    """Ends `needs_s` after it is told to stop, on a clock of its own, and has said that it may take `patience`."""

    def __init__(self, clock, patience, needs_s):
        self.clock, self.patience, self.ends_at, self.needs_s = clock, patience, float("inf"), needs_s
        self.process, self.code, self.killed = self, 143, False

    def running(self):
        return self.clock[0] < self.ends_at

    def patience_s(self):
        return self.patience

    def send_signal(self, number):
        if number == signal.SIGTERM:
            self.ends_at = self.clock[0] + self.needs_s

    def kill(self):
        self.ends_at = self.clock[0]


@pytest.mark.parametrize(("needs_s", "killed"), [(90.0, False), (200.0, True)])
def test_the_launcher_waits_as_long_as_steps_take(monkeypatch, caplog, needs_s, killed):
    clock = [0.0]
    monkeypatch.setattr(launch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    rank = SlowRank(clock, 120.0, needs_s)
    launch.watch([rank], [signal.SIGTERM], list, 30.0)
    assert rank.killed is killed and abs(clock[0] - (125.0 if killed else 90.0)) < 1.0
    assert "has up to 120 s to end one and save" in caplog.text
