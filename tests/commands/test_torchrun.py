"""facenet-train under real torchrun: one machine, two agents on loopback, and what ends early."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facenet import config
from facenet.commands import torchrun
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.files import trusted
from facenet.launch.failure import Failure
from facenet.tasks import train, worker

BIN = Path(sys.executable).parent
JOB = [
    *("data.num_identities=8", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"),
    *("data.num_workers=1", "data.val_images=0.0", "benchmark=none", "accelerator=cpu", "trainer.log_every=1"),
    "backbone.trunk.width=0.25",
    *("trainer.max_steps=3", "hydra.run.dir=run"),
]
TWO = ["--nproc-per-node=2", "--max-restarts=0"]
# Each process imports this at its start: rank 1 runs FACENET_TEST_FAULT before the third step.
SITE = """
import os
if os.environ.get("RANK") == "1":
    from facenet.engine.trainer import Trainer
    step = Trainer.step

    def faulty(self, batch, progress):
        if progress.step == 2:
            exec(os.environ["FACENET_TEST_FAULT"])
        step(self, batch, progress)

    Trainer.step = faulty
"""


def start(directory: Path, *arguments: str, said: str = "said", **environment: str) -> subprocess.Popen[bytes]:
    """torchrun with these arguments; all that its processes say goes to the file `said`. It leaves a folder among the temporary ones."""
    temporary = directory.with_name(f"{directory.name}-temporary")
    temporary.mkdir(exist_ok=True)
    with (directory / said).open("wb") as output:
        return subprocess.Popen(
            [str(BIN / "torchrun"), *arguments],
            cwd=directory,
            env={**os.environ, "TMPDIR": str(temporary), **environment},
            stdout=output,
            stderr=output,
        )


def ended(directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and output."""
    code = start(directory, *arguments, **environment).wait(timeout=600)
    return code, (directory / "said").read_text()


def status(directory: Path) -> list[tuple[str]]:
    with sqlite3.connect(directory / "mlflow.db") as database:
        return database.execute("select status from runs").fetchall()


def wait_for(process: subprocess.Popen[bytes], path: Path, text: str) -> None:
    end = time.monotonic() + 600
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end and process.poll() is None, "waited in vain"
        time.sleep(0.1)


def processes_in(directory: Path) -> list[int]:
    """Other processes whose working directory this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.resolve() == directory:
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, str]]:
    """(directory, exit code, output) of a job in two processes."""
    directory = tmp_path_factory.mktemp("torchrun")
    yield directory, *ended(directory, *TWO, "-m", "facenet", *JOB)


def test_two_processes_are_one_job_with_one_directory_and_one_run(job: tuple[Path, int, str]):
    directory, code, said = job
    assert code == 0, said
    assert said.count("checkpoint  ") == said.count("2 process(es)") == 1
    assert {path.name for path in directory.iterdir()} == {
        "said",
        "run",
        "mlflow.db",
        "mlflow.db.lock",
        "mlartifacts",
    } & {path.name for path in directory.iterdir()}
    assert config.read(directory / "run" / "resolved.yaml")["distributed"]["num_processes"] == 2
    assert (directory / "run" / "train.log").read_text().count("process 0 of 2") == 1
    assert status(directory) == [("FINISHED",)]
    with sqlite3.connect(directory / "mlflow.db") as database:
        points = database.execute("select step from metrics where key = 'train/loss' order by step").fetchall()
        assert points == [(1,), (2,), (3,)]  # one process logs
        ((command,),) = database.execute("select value from tags where key = 'command'").fetchall()
        assert command.startswith("facenet-train data.num_identities=8 ")


@pytest.mark.slow
def test_the_result_is_that_of_processes_started_by_facenet_train(job: tuple[Path, int, str], tmp_path: Path):
    command = [str(BIN / "facenet-train"), *JOB, "tracking=none", "distributed=ddp", "distributed.num_processes=2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    here, there = (checkpoint.load(path / "run" / "checkpoints" / "last.pt") for path in (tmp_path, job[0]))
    assert here["embedder"].keys() == there["embedder"].keys()
    assert all(torch.equal(value, there["embedder"][name]) for name, value in here["embedder"].items())


def test_what_starts_no_job_leaves_at_once(tmp_path: Path):
    code, said = ended(tmp_path, *TWO, "-m", "facenet", "--cfg", "job", "seed=7")
    assert code == 0 and said.count("seed: 7\n") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sed=1"], "config: 1 problem\n  sed: this command has no parameter 'sed'; write seed=1\n"),
        (["data.batch_size=7", "benchmark=none"], "data.batch_size=7: must be a multiple of 6 (2 process(es) x "),
        (["-m", "seed=1,2"], torchrun.NO_SWEEP + "\n"),
        (["hydra.mode=MULTIRUN", "seed=1,2"], torchrun.NO_SWEEP + "\n"),
        (["data.root=/x(1)"], "data.root=/x(1): a value with such characters is quoted"),
    ],
    ids=["typo", "refused plan", "sweep", "sweep by config", "grammar"],
)
def test_a_users_mistake_is_told_once_and_nobody_waits(tmp_path: Path, arguments: list[str], message: str):
    begun = time.monotonic()
    code, said = ended(tmp_path, *TWO, "--no-python", str(BIN / "facenet-train"), *arguments)
    assert code == 1 and said.count(message) == 1, said  # torchrun's own code
    # torchrun ends a process that is slower to leave than the first by its own signal.
    own, signalled = said.count("exitcode  : 2 "), said.count("exitcode  : -15 ")
    assert own >= 1 and own + signalled == 2 and "facenet/commands/composed.py" not in said
    assert time.monotonic() - begun < 300


@pytest.mark.slow
def test_help_ends_at_once_under_the_older_command(tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.launch", *TWO, "-m", "facenet", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("Examples\n") == 1, done.stderr


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


AGENTS = {
    "c10d": "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=job --local-addr=127.0.0.1",
    "static": "--master-addr=127.0.0.1 --master-port={port} --node-rank={node}",
}


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", AGENTS)
def test_two_agents_are_one_job(tmp_path: Path, rendezvous: str):
    port, agents = free_port(), []
    for node in range(2):
        (tmp_path / f"node{node}").mkdir()
        arguments = AGENTS[rendezvous].format(port=port, node=node).split()
        agents.append(
            start(tmp_path / f"node{node}", "--nnodes=2", "--nproc-per-node=1", *arguments, "-m", "facenet", *JOB)
        )
    codes = [agent.wait(timeout=600) for agent in agents]
    said = [(tmp_path / f"node{node}" / "said").read_text() for node in range(2)]
    assert codes == [0, 0], said
    (leader,) = (node for node in range(2) if "checkpoint  " in said[node])
    follower = tmp_path / f"node{1 - leader}"
    assert [path.name for path in follower.iterdir()] == ["said"]  # its machine need not see the run directory
    assert "2 process(es)" in said[leader] and status(tmp_path / f"node{leader}") == [("FINISHED",)]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["sed=1"], ["--help"]], ids=["typo", "help"])
def test_two_agents_end_together_when_there_is_no_job(tmp_path: Path, arguments: list[str]):
    port, begun = free_port(), time.monotonic()
    where = AGENTS["c10d"].format(port=port).split()
    agents = [
        start(tmp_path, "--nnodes=2", "--nproc-per-node=1", *where, "-m", "facenet", *arguments, said=f"said{node}")
        for node in range(2)
    ]
    assert [agent.wait(timeout=600) for agent in agents] == ([1, 1] if "sed=1" in arguments else [0, 0])
    assert time.monotonic() - begun < 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise ValueError('boom')", "rank 1:\nTraceback (most recent call last):"),
        ("import time; time.sleep(600)", "rank 0:\nTraceback (most recent call last):"),
        (
            "import os; os._exit(7)",
            "rank 0:\nTraceback (most recent call last):",
        ),  # rank 1 said nothing; torchrun names it
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "rank 0:\nTraceback (most recent call last):"),
    ],
    ids=["raises", "hangs", "leaves", "is killed"],
)
def test_a_rank_that_fails_ends_all_and_the_run_is_failed(tmp_path: Path, fault: str, reason: str):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    environment = {"PYTHONPATH": str(tmp_path), "FACENET_TEST_FAULT": fault}
    # The group must form within it, too: on a busy machine four seconds do not do.
    waits = ["distributed.timeout_s=15"] if "sleep" in fault else []
    code, said = ended(tmp_path, *TWO, "-m", "facenet", *JOB, *waits, **environment)
    assert code == 1 and status(tmp_path) == [("FAILED",)], said
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        ((error,),) = database.execute("select value from tags where key = 'error'").fetchall()
    assert error.startswith(reason) and error in said
    if "sleep" in fault:
        assert "rank 1 is ended because another failed, at\n" in said and "sitecustomize.py" in said
    if "boom" in fault:
        assert error.endswith("ValueError: boom")
        assert (
            said.count('"message": "ValueError: boom"') + said.count("traceback : Traceback") >= 1
        )  # torchrun's report
    assert processes_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_and_marks_the_run_killed(tmp_path: Path, number: signal.Signals):
    process = start(tmp_path, *TWO, "-m", "facenet", *JOB, "trainer.max_steps=null", "trainer.epochs=100000")
    wait_for(process, tmp_path / "run" / "train.log", "step 2 of")
    process.send_signal(number)
    assert process.wait(timeout=300) != 0
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["step"] >= 2
    assert status(tmp_path) == [("KILLED",)] and processes_in(tmp_path) == []
    said = (tmp_path / "said").read_text()
    assert "stopped at step" in said and "facenet/launch/local.py" not in said


@pytest.mark.slow
def test_no_process_outlives_a_torchrun_that_is_killed(tmp_path: Path):
    process = start(
        tmp_path, *TWO, "-m", "facenet", *JOB, "tracking=none", "trainer.max_steps=null", "trainer.epochs=100000"
    )
    wait_for(process, tmp_path / "run" / "train.log", "step 2 of")
    assert len(processes_in(tmp_path)) == 4  # torchrun, its two, and the one that trains as rank 0
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while processes_in(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_two_jobs_at_once_do_not_meet(tmp_path: Path):
    first, second = (
        start(
            tmp_path,
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "facenet",
            *JOB[:-1],
            f"hydra.run.dir=run{n}",
            said=f"said{n}",
        )
        for n in (1, 2)
    )
    assert first.wait(timeout=600) == second.wait(timeout=600) == 0
    weights = [checkpoint.load(tmp_path / f"run{n}" / "checkpoints" / "last.pt")["embedder"] for n in (1, 2)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert status(tmp_path) == [("FINISHED",), ("FINISHED",)]


def test_a_rank_left_in_the_environment_is_no_torchrun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not torchrun.active()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert torchrun.active()
    monkeypatch.delenv("RANK")
    assert not torchrun.active()


def test_torchruns_number_of_processes_is_the_configs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert torchrun.of_this_size({"seed": 1, "distributed": {"num_processes": 1, "grace_s": 2.0}}) == {
        "seed": 1,
        "distributed": {"num_processes": 3, "grace_s": 2.0},
    }
    assert torchrun.of_this_size({"distributed": "typo"}) == {"distributed": "typo"}


class Shared(dict[str, bytes]):
    """torch's store as far as it is used, in this process."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def add(self, key: str, by: int) -> int:
        self[key] = str(int(self.get(key, b"0")) + by).encode()
        return int(self[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


@pytest.mark.parametrize(("error", "code"), [(UserError("no image can be read"), 2), (ValueError("a fault"), None)])
def test_another_rank_tells_the_first_why_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int | None
):
    def fails(run: object) -> None:
        raise error

    group, job = Shared(), {"config": {"distributed": {"grace_s": 1.0}}, "run_dir": str(tmp_path), "run_id": None}
    group.set("job", json.dumps({**job, "secrets": None, "trusted": trusted.told()}))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torchrun, "store", lambda: group)
    monkeypatch.setattr(torchrun, "StopFlag", lambda *given, **named: SimpleNamespace(signal=None))
    monkeypatch.setattr(torchrun, "end_with_others", lambda store: None)
    monkeypatch.setattr(worker, "start_logging", lambda run_dir, rank: None)
    monkeypatch.setattr(train, "run", fails)
    if code is None:
        with pytest.raises(ValueError, match="a fault"):
            torchrun.follow()
    else:
        assert torchrun.follow() == code  # the first rank tells it, so that no traceback does
    torchrun.report(Failure.of(2, error))
    told = torchrun.failures(group)
    assert [(each.rank, each.user) for each in told] == [(1, code == 2), (2, code == 2)]
    assert all(str(error) in each.text for each in told)
