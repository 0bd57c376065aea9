"""Runs jobs as commands of their own, some at a time, each on devices of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from facenet.devices.cores import available_cores
from facenet.devices.table import only_devices, visible_devices
from facenet.errors import FAILURE, USER
from facenet.files import trusted
from facenet.files.atomic import own
from facenet.files.run_dir import RunDir
from facenet.launch.failure import one_line
from facenet.launch.local import Stopped, module_command, safe_path
from facenet.launch.signals import held_back, stop_signals
from facenet.sweeps.plans import Job

POLL_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code, objective, reason of a failure in one line, and seconds. One that a stop signal ended has no reason."""

    code: int
    objective: float | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def how(self) -> str:
        if self.code == 0:
            return "finished"
        return f"FAILED: {self.reason}" if self.reason else "stopped by a signal"


@dataclass
class Devices:
    """The devices of this machine that no job has, by kind. A kind that all share is never short."""

    free: dict[str, list[str]] = field(default_factory=dict)

    def take(self, name: str, count: int) -> list[str] | None:
        """None where fewer are free."""
        free = self.free.setdefault(name, visible_devices(name))
        if not visible_devices(name):
            return []
        if len(free) < count:
            return None
        taken, self.free[name] = free[:count], free[count:]
        return taken

    def give(self, name: str, devices: list[str]) -> None:
        self.free[name] = sorted([*self.free[name], *devices], key=visible_devices(name).index)


@dataclass
class Running:
    job: Job
    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    devices: list[str]
    started: float = field(default_factory=time.monotonic)

    def outcome(self) -> Outcome:
        """Returns the outcome of the process that ended."""
        code, seconds = self.process.returncode, time.monotonic() - self.started
        self.answer.seek(0)
        with self.answer as file, contextlib.suppress(ValueError):
            said = json.loads(file.read())
            return Outcome(code, said.get("objective"), one_line(said.get("failure", "")), seconds)
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(code if code > 0 else FAILURE, None, f"{reason}, without a word", seconds)


class Pool:
    """`num_jobs` at a time. `began` and `ended` are told of each job; `ended` returns whether the next may start.

    A job that runs alone has the terminal; the output of several goes to `output.log` of their directories.
    """

    def __init__(
        self,
        num_jobs: int,
        *,
        order: Callable[[Job], dict[str, Any]],
        began: Callable[[Job], None],
        ended: Callable[[Job, Outcome], bool],
    ) -> None:
        self.num_jobs, self.order, self.began, self.ended = num_jobs, order, began, ended
        self.devices = Devices()
        self.running: list[Running] = []
        self.told = False

    def run(self, jobs: Sequence[Job]) -> None:
        """Runs jobs until all have ended, or none may start any more. Raises KeyboardInterrupt or Stopped for a stop signal, once the running jobs
        have saved and ended."""
        waiting = list(jobs)
        with stop_signals() as received:
            try:
                while (waiting and not received) or self.running:
                    if not received:
                        self.fill(waiting)
                    for each in self.just_ended():
                        if not self.ended(each.job, each.outcome()) and not received:
                            waiting.clear()
                    self.pass_on(received)
                    time.sleep(POLL_S)
            finally:
                for each in self.running:
                    each.process.kill()
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else Stopped(128 + received[0])

    def fill(self, waiting: list[Job]) -> None:
        """Starts those for which there is room, in order."""
        for job in list(waiting):
            if len(self.running) >= self.num_jobs:
                return
            assert job.plan is not None
            devices = self.devices.take(job.plan.machine.device, job.plan.machine.num_processes)
            if devices is not None:
                waiting.remove(job)
                self.began(job)
                self.running.append(self.start(job, devices))

    def start(self, job: Job, devices: list[str]) -> Running:
        assert job.plan is not None
        environment = {**os.environ, **only_devices(job.plan.machine.device, devices), **safe_path()}
        if self.num_jobs > 1:
            threads = available_cores() // (self.num_jobs * job.plan.machine.num_processes)
            environment.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
        answer, order = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  read after the process has ended
        order.write(json.dumps({**self.order(job), "trusted": trusted.told()}).encode())
        order.seek(0)
        own = [str(job.directory), str(answer.fileno()), str(os.getpid())]
        command = [*module_command("facenet.sweeps.job"), *own]
        with order, self.output(job) as output, held_back():
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=order,
                stdout=output,
                stderr=output,
                pass_fds=[answer.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C reaches the sweep alone, which passes it on once
            )
        return Running(job, process, answer, devices)

    @contextlib.contextmanager
    def output(self, job: Job) -> Iterator[IO[bytes] | None]:
        if self.num_jobs == 1:
            yield None
            return
        job.directory.mkdir(parents=True, exist_ok=True)
        with open(RunDir(job.directory).output, "ab", opener=own) as file:
            yield file

    def just_ended(self) -> list[Running]:
        ended = [each for each in self.running if each.process.poll() is not None]
        for each in ended:
            self.running.remove(each)
            assert each.job.plan is not None
            self.devices.give(each.job.plan.machine.device, each.devices)
        return ended

    def pass_on(self, received: list[int]) -> None:
        """The first stop signal, once, to the jobs that run."""
        if received and not self.told:
            self.told = True
            for each in self.running:
                each.process.send_signal(signal.SIGINT if received[0] == signal.SIGINT else signal.SIGTERM)


def most_at_a_time(jobs: Sequence[Job]) -> int:
    """How many of them the devices of this machine hold together; those of a kind that all share are never short."""
    most = len(jobs)
    for job in jobs:
        assert job.plan is not None
        if devices := visible_devices(job.plan.machine.device):
            most = min(most, max(1, len(devices) // job.plan.machine.num_processes))
    return most


def worst(outcomes: Sequence[Outcome]) -> int:
    """The exit code of a sweep: that of a user's mistake only where all failures are one."""
    codes = {outcome.code for outcome in outcomes if outcome.code}
    return 0 if not codes else USER if codes == {USER} else FAILURE
