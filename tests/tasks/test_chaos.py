"""Kill anything, anywhere: real runs are hit at random moments, and go on as if nothing had happened.

FACENET_NIGHTLY=1 pytest -s tests/tasks/test_chaos.py -m nightly
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from jobs import unequal

from facenet.engine import checkpoint
from facenet.tasks import resume
from facenet.tools.runs import run_reap
from facenet.tracking.store import open_experiment

HERE = Path(__file__).parent
SEED = int(os.environ.get("FACENET_CHAOS_SEED", "0"))
PHASES = ("compose", "start-up", "step", "evaluation", "checkpoint", "mlflow", "exit")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
LASTS_S = {
    "step": 0.3,
    "evaluation": 0.4,
    "checkpoint": 0.6,
    "mlflow": 0.3,
    "exit": 1.0,
}  # how long a moment is aimed at
JOB = (
    *("data.num_identities=8", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"),
    *("data.num_workers=1", "data.val_images=0.1", "data.val_identities=0.3", "accelerator=cpu"),
    "backbone.trunk.width=0.25",
    *("benchmark.num_pairs=30", "benchmark.num_folds=3", "backbone.trunk.init=kaiming", "trainer.ema_decay=0.5"),
    *("trainer.epochs=3", "trainer.log_every=1", "tracking.system_metrics=false", "resume=auto"),
)


@dataclass(frozen=True)
class Hit:
    """What is to happen to a run: `at` is the share of the phase that has passed, `rank` who is hit (-1: the launcher)."""

    number: int
    phase: str
    signal: signal.Signals
    processes: int
    rank: int
    nth: int
    at: float
    reaped_first: bool

    @classmethod
    def draw(cls, number: int) -> Hit:
        chance = random.Random(f"{SEED} {number}")
        processes = chance.choice((1, 2))
        return cls(
            number=number,
            phase=PHASES[number % len(PHASES)],  # 7 and 4 have no common divisor: every pair comes up
            signal=SIGNALS[number % len(SIGNALS)],
            processes=processes,
            rank=chance.choice((-1, chance.randrange(processes))),
            nth=chance.randrange(1, 4),
            at=chance.random(),
            reaped_first=chance.random() < 0.5,
        )

    def __str__(self) -> str:
        who = "the launcher" if self.rank < 0 else f"rank {self.rank}"
        return f"{self.number}: {self.signal.name} to {who} of {self.processes} in {self.phase} {self.nth}, at {self.at:.2f}"


class Run:
    """A directory with a store of its own, in which the same command is given until it ends well."""

    def __init__(self, folder: Path, processes: int, database: Path) -> None:
        self.folder, self.dir, self.mark = folder, folder / "run", f"FACENET_CHAOS_RUN={folder}"
        self.said = folder / "said"
        self.uri = f"sqlite:///{folder}/mlflow.db"
        many = ("distributed=ddp", f"distributed.num_processes={processes}") if processes > 1 else ()
        self.command = [str(Path(sys.executable).parent / "facenet-train"), *JOB, *many]
        self.command += [f"tracking.uri={self.uri}", f"hydra.run.dir={self.dir}"]
        self.site = folder / "site"  # of its own: a path with anything called mlflow on it starts no warm process
        self.site.mkdir(parents=True)
        shutil.copy(database, folder / "mlflow.db")
        shutil.copy(HERE / "chaos_site.py", self.site / "sitecustomize.py")

    def start(self, phase: str = "", nth: int = 1) -> subprocess.Popen[bytes]:
        places = os.pathsep.join([str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": places, "FACENET_CHAOS_PHASE": phase, "FACENET_CHAOS_NTH": str(nth)}
        own |= {"FACENET_CHAOS_SAYS": str(self.said), "FACENET_CHAOS_RUN": str(self.folder)}
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                self.command, cwd=self.folder, env={**os.environ, **own}, stdout=output, stderr=output
            )

    def processes(self) -> dict[int, int]:
        """Rank (-1: a launcher) -> number of the processes that carry the run's mark."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = path.read_bytes().decode(errors="replace").split("\0")
                if self.mark in variables:
                    ranks = [each.removeprefix("RANK=") for each in variables if each.startswith("RANK=")]
                    found[int(ranks[0]) if ranks else -1] = int(path.parent.name)
        return found

    def states(self) -> dict[str, str]:
        with sqlite3.connect(self.folder / "mlflow.db", timeout=60) as database:
            return dict(database.execute("select run_uuid, status from runs").fetchall())

    def points(self, run_id: str) -> list[tuple[str, int, float]]:
        with sqlite3.connect(self.folder / "mlflow.db", timeout=60) as database:
            rows = database.execute("select key, step, value from metrics where run_uuid = ?", [run_id]).fetchall()
        return sorted(row for row in rows if row[0] != "train/images_per_s" and not row[0].startswith("system/"))

    def last(self) -> dict[str, object]:
        return checkpoint.load(self.dir / "checkpoints" / "last.pt")

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")[-3000:]


@dataclass
class Reference:
    """An undisturbed run, and how long its command took to the first file and from there to the first step."""

    run: Run
    compose_s: float
    start_up_s: float


def wait_until(reached, limit_s: float = 600.0) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def undisturbed(run: Run) -> Reference:
    process, began = run.start(phase="step"), time.monotonic()
    wait_until((run.dir / "resolved.yaml").exists)
    composed = time.monotonic()
    wait_until(run.said.exists)
    stepped = time.monotonic()
    assert process.wait(timeout=600) == 0, run.output()
    return Reference(run, composed - began, stepped - composed)


def strike(run: Run, hit: Hit, reference: Reference) -> tuple[int, bool]:
    """Exit code of the command, and whether the signal came before its end."""
    process = run.start(hit.phase, hit.nth)
    if hit.phase == "compose":
        time.sleep(hit.at * reference.compose_s)
    elif hit.phase == "start-up":
        wait_until(lambda: (run.dir / "resolved.yaml").exists() or process.poll() is not None)
        time.sleep(hit.at * reference.start_up_s)
    else:
        says = run.dir / "result.json" if hit.phase == "exit" else run.said
        wait_until(lambda: says.exists() or process.poll() is not None)
        time.sleep(hit.at * LASTS_S[hit.phase])
    victim = run.processes().get(hit.rank, process.pid)
    before = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, hit.signal)
    code = process.wait(timeout=600)
    return code, before


def check_what_is_left(run: Run, hit: Hit, code: int) -> None:
    wait_until(lambda: not run.processes(), limit_s=60)
    for path in run.dir.rglob("*"):
        if path.suffix == ".json" and not path.name.startswith("."):
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".png" and not path.name.startswith("."):
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path
    left = sorted((run.dir / "checkpoints").glob("[!.]*.pt"))
    assert all(checkpoint.load(path)["step"] >= 0 for path in left)  # 0: a stop signal came before the first step
    found = resume.find("auto", run.dir)
    assert (found is not None) == bool(left)
    if found is not None:
        assert found.content["step"] == max(checkpoint.load(path)["step"] for path in left)
    states = list(run.states().values())
    if hit.signal != signal.SIGKILL:
        assert "RUNNING" not in states, states
    if code == 0:
        assert states == ["FINISHED"], states
    elif "RUNNING" not in states and states:
        killed = code in (130, *(128 + number for number in SIGNALS)) or code < 0
        finished = (run.dir / "result.json").exists()
        assert states == ["KILLED" if killed else "FAILED"] or (finished and states == ["FINISHED"]), (code, states)


def check_it_is_the_reference(run: Run, reference: Reference) -> None:
    expected, found = reference.run.last(), run.last()
    ids = [content.pop("run_id") for content in (expected, found)]
    assert all(content.pop("own") for content in (expected, found))  # marks over configs that differ in their addresses
    for content in (expected, found):
        content["config"] |= {"resume": None, "tracking": None}
    assert unequal(expected, found) == []
    assert reference.run.points(ids[0]) == run.points(ids[1])  # no metric twice, no gap
    states = run.states()
    assert states.pop(ids[1]) == "FINISHED" and "RUNNING" not in states.values(), states
    assert not list(run.dir.rglob(".*-partial"))


def trial(hit: Hit, folder: Path, reference: Reference, database: Path) -> tuple[Hit, str, str]:
    """The hit, how the command ended, and what is wrong."""
    run, ended = Run(folder / str(hit.number), hit.processes, database), "?"
    try:
        code, before = strike(run, hit, reference)
        ended = f"exit {code}" if before else "too late"
        check_what_is_left(run, hit, code)
        if hit.reaped_first:
            run_reap(uri=run.uri, experiment=None, dry_run=False, all_hosts=False, older_than=24)
            assert "RUNNING" not in run.states().values()
        if code != 0:
            assert run.start().wait(timeout=600) == 0, "resuming failed"
        if not hit.reaped_first:
            run_reap(uri=run.uri, experiment=None, dry_run=False, all_hosts=False, older_than=24)
        check_it_is_the_reference(run, reference)
    except Exception:
        print(f"{hit}: {ended}, WRONG", flush=True)
        return hit, ended, f"{hit}\n{traceback.format_exc()}\n{run.output()}"
    print(f"{hit}: {ended}", flush=True)
    shutil.rmtree(run.folder)
    return hit, ended, ""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """mlflow.db, made: that takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    open_experiment(f"sqlite:///{folder}/mlflow.db", "facenet")
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def references(tmp_path_factory, database):
    """By number of processes."""
    folder = tmp_path_factory.mktemp("references")
    return {processes: undisturbed(Run(folder / str(processes), processes, database)) for processes in (1, 2)}


@pytest.fixture
def signals_as_in_a_terminal():
    """A shell's background job ignores SIGINT, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.timeout(10800)
@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(len(PHASES), marks=pytest.mark.slow),  # each phase once
        pytest.param(
            int(os.environ.get("FACENET_CHAOS_COUNT", "200")),
            marks=pytest.mark.nightly,
            id="nightly",
        ),
    ],
)
def test_a_run_that_is_hit_goes_on_as_if_nothing_had_happened(count, tmp_path, references, database):
    hits = [Hit.draw(number) for number in range(count)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda hit: trial(hit, tmp_path, references[hit.processes], database), hits))
    with contextlib.suppress(
        ChildProcessError
    ):  # ranks of a killed launcher come to this process where it starts another at that moment
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for (phase, name, ended), number in sorted(Counter((h.phase, h.signal.name, e) for h, e, _ in results).items()):
        print(f"{phase:<11} {name:<8} {ended:<9} {number}")
    wrong = [text for *_, text in results if text]
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong)
    assert sum(ended != "too late" for _, ended, _ in results) > 0.8 * count
