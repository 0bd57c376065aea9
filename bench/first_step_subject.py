"""Seconds from the command to the end of its first step, and what they are made of, seen from outside: the default job, as a newcomer runs
it. Goal 8.4.

Warm: the database is there, and what is read lies in memory. Cold: the kernel's cache of files is dropped before, where one may, and not for
a try. The first database is a row of its own.
"""

from __future__ import annotations

import itertools
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import CONTROL, Candidate, Table, children_cpu_s, tabulate, timed
from bench.startup_subject import OURS, command

IMPORT, WARM, COLD, NEW = (
    "import torch",
    "first step, warm",
    "first step, files not in memory",
    "first step, the first database",
)
# What is seen of the command, in order: a line of its output, or a file in its run directory that is there before its processes start.
MARKS = {
    "of warm: imports, config, data, plan": "plan",
    "of warm: the run in MLflow": "tracking.json",
    "of warm: a process, and its imports": "INFO device ",
    "of warm: data, network, the step": "INFO step 1 ",
}
ARGUMENTS = ["trainer.log_every=1", "data.feed=files"]
LIMIT_S = 300.0
Seen = dict[str, list[tuple[float, float]]]


def run(context: Context) -> Outcome:
    seen: Seen = {}
    bare = Candidate(IMPORT, command(["-c", "import torch"], context.scratch), 1)
    warm = context.scratch / "warm"
    started(warm)
    cold = not context.quick and may_drop()
    for _ in range(context.rounds):
        for name in (IMPORT, CONTROL):
            seen.setdefault(name, []).append(timed(bare))
        marks = started(warm)
        note(seen, WARM, marks[-1], marks[0])
        for name, (before, after) in zip(MARKS, itertools.pairwise(marks), strict=True):
            note(seen, name, after, before)
        with tempfile.TemporaryDirectory(dir=context.scratch) as place:
            marks = started(Path(place))
            note(seen, NEW, marks[-1], marks[0])
        if cold:
            drop()
            marks = started(warm)
            note(seen, COLD, marks[-1], marks[0])
    table = as_table(seen, [] if cold else ["files not in memory: the kernel's cache was not dropped"])
    beyond = table.row(WARM).wall_s - table.row(IMPORT).wall_s
    text = "from the command to the end of the first step, beyond import torch, wall s"
    limit = "two processes import torch, one after the other; MLflow's imports beside the second"
    return Outcome([table], [Goal("8.4", text, 3.0, beyond, at_most=True, limit=limit)])


def as_table(seen: Seen, notes: list[str]) -> Table:
    runners = [Candidate(name, lambda: None, 1) for name in seen]
    return tabulate("first_step", "From the command to the first step", "command", runners, seen, notes)


def note(seen: Seen, name: str, after: tuple[float, float], before: tuple[float, float]) -> None:
    seen.setdefault(name, []).append((after[0] - before[0], after[1] - before[1]))


def started(place: Path) -> list[tuple[float, float]]:
    """(wall, CPU) seconds at the start of the command and at each of MARKS. The command is stopped then."""
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as run_dir:
        arguments = [sys.executable, "-c", OURS, *ARGUMENTS, f"hydra.run.dir={run_dir}/run"]
        found = [now()]
        process = subprocess.Popen(arguments, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        reader = threading.Thread(target=read, args=[process, said.put])
        reader.start()
        lines: list[str] = []
        try:
            for mark in MARKS.values():
                await_mark(mark, Path(run_dir) / "run", said, lines, process)
                found.append(now())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)
            reader.join()
    return found


def read(process: subprocess.Popen[str], put: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as out:
        for line in out:
            put(line)


def await_mark(
    mark: str, run_dir: Path, said: queue.SimpleQueue[str], lines: list[str], process: subprocess.Popen[str]
) -> None:
    end = time.monotonic() + LIMIT_S
    while not (run_dir / mark).is_file():
        with suppress(queue.Empty):
            lines.append(said.get(timeout=0.005))
            if mark in lines[-1]:
                return
        alive = process.poll() is None and time.monotonic() < end
        require(alive or not said.empty(), f"no {mark!r} from the command: {''.join(lines)[-2000:]}")


def now() -> tuple[float, float]:
    return time.perf_counter(), children_cpu_s()


def may_drop() -> bool:
    try:
        drop()
    except OSError:
        return False
    return True


def drop() -> None:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
