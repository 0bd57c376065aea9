"""Where the time of the tests goes: a pytest plugin that notes it test by test, and the tables made of its notes.

    PYTHONPATH=.ci pytest -p spent --spent notes.jsonl ...      may be given to several runs, also under xdist
    python .ci/spent.py notes.jsonl...                          tables in Markdown
    python .ci/spent.py --imports notes.jsonl                   with what a fresh process spends on imports, timed now
    python .ci/spent.py --slowest 20 notes.jsonl                the tests that took longest

A test's notes: seconds of setup, call and teardown; processor seconds of its own process and of the children that ended; seconds slept; and for
each process that it started itself, what kind it was and how long it lived.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = (  # the first that a command line holds
    ("facenet-train", "facenet-train"),
    ("facenet-evaluate", "facenet-evaluate"),
    ("facenet-", "other commands of facenet"),
    ("torchrun", "torchrun"),
    ("mlflow", "MLflow server"),
    ("chrom", "browser"),
    ("playwright", "browser"),
    ("c++", "compiler"),
    ("import torch_sdaa", "compiler"),
    ("pip", "pip"),
    ("pytest", "pytest"),
    ("python", "python with a script"),
)
# Modules whose import is most of a fresh process's start, timed once each in a process of its own.
HEAVY = ("torch", "mlflow", "hydra")


class Notes:
    """What the test that runs now has spent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[dict[str, Any]] = []
        self.slept = 0.0
        self.phases: dict[str, float] = {}
        self.cpu = os.times()

    def begin(self) -> None:
        self.processes, self.slept, self.phases, self.cpu = [], 0.0, {}, os.times()

    def end(self, name: str) -> None:
        now, before = os.times(), self.cpu
        note = {
            "test": name,
            **{phase: round(seconds, 3) for phase, seconds in self.phases.items()},
            "cpu_self": round(now.user + now.system - before.user - before.system, 3),
            "cpu_children": round(
                now.children_user + now.children_system - before.children_user - before.children_system, 3
            ),
            "slept": round(self.slept, 3),
            "processes": [
                {"kind": each["kind"], "lived": round((each["ended"] or time.monotonic()) - each["started"], 3)}
                for each in self.processes
            ],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


def kind_of(command: Any) -> str:
    line = command if isinstance(command, str) else " ".join(map(str, command))
    first = Path(line.split(" ", 1)[0]).name if line else ""
    for mark, kind in KINDS:
        if mark in first or (mark in line and first.startswith(("python", "bash", "sh"))):
            return kind
    return "other"


def watch_processes(notes: Notes) -> None:
    start, wait, sleep = subprocess.Popen.__init__, subprocess.Popen._wait, time.sleep  # type: ignore[attr-defined]

    def init(self: Any, args: Any, *rest: Any, **named: Any) -> None:
        start(self, args, *rest, **named)
        self._spent = {"kind": kind_of(args), "started": time.monotonic(), "ended": None}
        notes.processes.append(self._spent)

    def waited(self: Any, *rest: Any, **named: Any) -> Any:
        code = wait(self, *rest, **named)
        if hasattr(self, "_spent") and self._spent["ended"] is None:
            self._spent["ended"] = time.monotonic()
        return code

    def slept(seconds: float) -> None:
        begun = time.monotonic()
        sleep(seconds)
        notes.slept += time.monotonic() - begun

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]
    subprocess.Popen._wait = waited  # type: ignore[attr-defined]
    time.sleep = slept


# --- the plugin


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--spent", metavar="FILE", help="append what each test spent to this file, as JSON lines")


def pytest_configure(config: Any) -> None:
    path = config.getoption("--spent")
    if path is not None:
        notes = Notes(Path(path).absolute())
        watch_processes(notes)
        config.pluginmanager.register(Watcher(notes), "spent-watcher")


class Watcher:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def pytest_runtest_logstart(self) -> None:
        self.notes.begin()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not hasattr(report, "node"):  # under xdist the controller is told too
            self.notes.phases[report.when] = report.duration

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if self.notes.phases:
            self.notes.end(nodeid)


# --- the tables


def tables(notes: list[dict[str, Any]]) -> Iterator[str]:
    files: defaultdict[str, Counter[str]] = defaultdict(Counter)
    kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for note in notes:
        row = files[note["test"].split("::")[0]]
        row["tests"] += 1
        for phase in ("setup", "call", "teardown"):
            row["wall"] += note.get(phase, 0.0)
        row["fixtures"] += note.get("setup", 0.0) + note.get("teardown", 0.0)
        row["cpu"] += note["cpu_self"] + note["cpu_children"]
        row["children"] += note["cpu_children"]
        row["slept"] += note["slept"]
        row["processes"] += len(note["processes"])
        for process in note["processes"]:
            kinds[process["kind"]]["processes"] += 1
            kinds[process["kind"]]["lived"] += process["lived"]
    total: Counter[str] = Counter()
    for row in files.values():
        total.update(row)
    yield "| file | tests | wall s | of it fixtures | processor s | of it children | slept | processes |\n|---|---|---|---|---|---|---|---|"
    for name, row in [*sorted(files.items(), key=lambda item: -item[1]["wall"]), ("all", total)]:
        yield (
            f"| {name.removeprefix('tests/')} | {row['tests']} | {row['wall']:.1f} | {row['fixtures']:.1f} | {row['cpu']:.1f} | "
            f"{row['children']:.1f} | {row['slept']:.1f} | {row['processes']} |"
        )
    yield "\n| waited for | processes | lived, s in all |\n|---|---|---|"
    for name, row in sorted(kinds.items(), key=lambda item: -item[1]["lived"]):
        yield f"| {name} | {row['processes']} | {row['lived']:.1f} |"
    yield f"| sleeping in tests | | {total['slept']:.1f} |"


def imports() -> Iterator[str]:
    yield "\n| import in a fresh process | s |\n|---|---|"
    for name in HEAVY:
        yield f"| {name} | {min(import_seconds(name) for _ in range(3)):.2f} |"


def import_seconds(name: str) -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
    return time.monotonic() - begun


def slowest(notes: list[dict[str, Any]], count: int) -> Iterator[str]:
    def took(note: dict[str, Any]) -> float:
        return float(sum(note.get(phase, 0.0) for phase in ("setup", "call", "teardown")))

    for note in sorted(notes, key=took, reverse=True)[:count]:
        yield f"{took(note):7.1f} s  {note['test']}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slowest", type=int, metavar="N")
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("notes", type=Path, nargs="+")
    given = parser.parse_args()
    if missing := [str(path) for path in given.notes if not path.is_file()]:
        parser.error(f"no file {', '.join(missing)}")
    lines = [json.loads(line) for path in given.notes for line in path.read_text(encoding="utf-8").splitlines()]
    print("\n".join(tables(lines) if given.slowest is None else slowest(lines, given.slowest)))
    if given.imports:
        print("\n".join(imports()))
