"""Do the tests notice when the code is wrong? Sixty small faults, drawn once, and which tests find them.

    python .ci/mutants.py draw --seed 13 > .ci/mutants.json
    python .ci/mutants.py run --coverage DATA --notes notes.jsonl --results FILE
        of a checkout whose facenet is installed as editable: its files are changed and put back, so take a worktree of its own.
        DATA is what coverage.py combined from a run with -p contexts, notes what -p spent wrote. Goes on where it was stopped.
    python .ci/mutants.py table FILE [FILE]                     what was found, one column a file

A fault: a comparison flipped, a statement left out, two arguments swapped. For each, only the tests run that reach its line, cheapest first, until
one fails; slow tests run where the others found nothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOMS = {
    "losses": ["facenet/losses"],
    "evaluation": ["facenet/evaluation"],
    "data": ["facenet/data"],
    "engine": ["facenet/engine"],
    "tracking": ["facenet/tracking"],
    "launch": [
        "facenet/launch/local.py",
        "facenet/tasks/worker.py",
        "facenet/commands/torchrun.py",
        "facenet/launch/signals.py",
        "facenet/launch/failure.py",
    ],
}
PER_ROOM = 10
FLIPPED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "is": "is not", "in": "not in"}
FLIPPED |= {value: key for key, value in FLIPPED.items() if " " in value}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
SIGNS |= {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
LEAST_S, TIMES = (
    120,
    10,
)  # a test run may take so many times what its tests took before; a fault that hangs is found by that


def draw(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    drawn = []
    for room, places in ROOMS.items():
        files = [
            file
            for place in places
            for file in sorted(Path(place).rglob("*.py") if Path(place).is_dir() else [Path(place)])
        ]
        kinds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for file in files:
            for fault in faults(file):
                kinds[fault["kind"]].append({"room": room, "file": str(file), **fault})
        for number in range(PER_ROOM):
            kind = sorted(kinds)[number % len(kinds)]
            drawn.append(kinds[kind].pop(chance.randrange(len(kinds[kind]))))
    return [{"id": number, **fault} for number, fault in enumerate(drawn)]


def faults(file: Path) -> Iterator[dict[str, Any]]:
    """Every fault of a file: the text to replace, where it begins (line and column, both from 0) and what replaces it."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)

    def fault(kind: str, first: tuple[int, int], last: tuple[int, int], after: str) -> dict[str, Any]:
        before = cut(lines, first, last)
        return {
            "kind": kind,
            "line": first[0],
            "column": first[1],
            "text": lines[first[0]].strip(),
            "before": before,
            "after": after,
        }

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            first, last = end_of(node.left), start_of(node.comparators[0])
            between = cut(lines, first, last)
            sign = SIGNS[type(node.ops[0])]
            if between.count(sign) == 1:
                yield fault("flipped comparison", first, last, between.replace(sign, FLIPPED[sign]))
        if (
            isinstance(node, ast.Call)
            and len(node.args) >= 2
            and not any(isinstance(each, ast.Starred) for each in node.args[:2])
        ):
            one, other = (cut(lines, start_of(each), end_of(each)) for each in node.args[:2])
            between = cut(lines, end_of(node.args[0]), start_of(node.args[1]))
            if one != other:
                yield fault("swapped arguments", start_of(node.args[0]), end_of(node.args[1]), other + between + one)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)) and not said(node) and node.col_offset:
            yield fault("dropped statement", start_of(node), end_of(node), "pass")


def said(node: ast.stmt) -> bool:
    """Docstrings, `...` and messages to a log: nothing that a value shows."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) or (value is not None and ast.unparse(value).startswith("log."))


def start_of(node: Any) -> tuple[int, int]:
    return node.lineno - 1, node.col_offset


def end_of(node: Any) -> tuple[int, int]:
    return node.end_lineno - 1, node.end_col_offset


def cut(lines: list[str], first: tuple[int, int], last: tuple[int, int]) -> str:
    """Columns are those of ast: bytes."""
    joined = [line.encode() for line in lines[first[0] : last[0] + 1]]
    joined[-1] = joined[-1][: last[1]]
    joined[0] = joined[0][first[1] :]
    return b"".join(joined).decode()


def place(text: str, fault: dict[str, Any]) -> tuple[int, int]:
    """Line and column, both from 0, of the fault in a file that may have changed since: the nearest line of the same text. Raises ValueError where
    there is none, or where what follows is another."""
    lines = text.splitlines(keepends=True)
    alike = [number for number, line in enumerate(lines) if line.strip() == fault["text"]]
    for number in sorted(alike, key=lambda number: abs(number - fault["line"])):
        whole, first = lines[number].encode(), fault["before"].split("\n")[0].encode()
        columns = [match.start() for match in re.finditer(re.escape(first), whole)]
        column = min(columns, key=lambda column: abs(column - fault["column"]))
        if "".join(lines[number:]).encode()[column:].startswith(fault["before"].encode()):
            return number, column
    raise ValueError(f"{fault['file']}: `{fault['text']}` is there no more")


def today(fault: dict[str, Any]) -> dict[str, Any]:
    """The fault as it was drawn, or, where its line was rewritten since, the same one in the line that took its place: what `now` holds of it."""
    try:
        place(Path(fault["file"]).read_text(encoding="utf-8"), fault)
    except ValueError:
        return {**fault, **fault.get("now", {})}
    return fault


def broken(text: str, fault: dict[str, Any], line: int, column: int) -> str:
    """The file with the fault in it."""
    lines = [each.encode() for each in text.splitlines(keepends=True)]
    offset = sum(map(len, lines[:line])) + column
    whole, before = b"".join(lines), fault["before"].encode()
    return (whole[:offset] + fault["after"].encode() + whole[offset + len(before) :]).decode()


# --- which tests reach a line


class Reach:
    def __init__(self, data: Path) -> None:
        self.database = sqlite3.connect(data)
        self.files = {
            Path(path).as_posix(): number for number, path in self.database.execute("select id, path from file")
        }
        self.contexts = dict(self.database.execute("select id, context from context"))

    def tests(self, file: str, lines: range) -> set[str]:
        """Tests that run any of these lines (from 1); where only an import does, all that run the file."""
        (number,) = [number for path, number in self.files.items() if path.endswith("/" + file)]
        arcs = self.database.execute("select context_id, fromno, tono from arc where file_id = ?", (number,)).fetchall()
        for wanted in (lambda a, b: a in lines or b in lines, lambda a, b: True):
            names = {name_of(self.contexts[context]) for context, a, b in arcs if wanted(a, b)} - {""}
            if names:
                return names
        return set()


def name_of(context: str) -> str:
    return context.rsplit("|", 1)[-1]


def run(data: Path, notes: Path, results: Path) -> None:
    reach, spent = Reach(data), read(notes)
    seconds = {note["test"]: sum(note.get(phase, 0.0) for phase in ("setup", "call", "teardown")) for note in spent}
    done = {each["id"] for each in read(results)}
    for fault in json.loads(Path(__file__).with_name("mutants.json").read_text(encoding="utf-8")):
        if fault["id"] in done:
            continue
        fault = today(fault)
        file, begun = Path(fault["file"]), time.monotonic()
        text = file.read_text(encoding="utf-8")
        try:
            line, column = place(text, fault)
        except ValueError as gone:
            write(results, {"id": fault["id"], "tests": 0, "found": None, "gone": str(gone)})
            continue
        first = line + 1
        names = reach.tests(fault["file"], range(first, first + fault["before"].count("\n") + 1))
        found, part = None, ""
        try:
            file.write_text(broken(text, fault, line, column), encoding="utf-8")
            for part in ("not slow", "slow"):
                found = found or first_failure(sorted(names, key=lambda name: seconds.get(name, 1.0)), part, seconds)
        finally:
            file.write_text(text, encoding="utf-8")
        result = {"id": fault["id"], "tests": len(names), "found": found, "seconds": round(time.monotonic() - begun, 1)}
        print(fault["room"], fault["kind"], f"{fault['file']}:{first}", result, flush=True)
        write(results, result)


def write(results: Path, result: dict[str, Any]) -> None:
    with results.open("a", encoding="utf-8") as out:
        out.write(json.dumps(result) + "\n")


def first_failure(names: list[str], mark: str, seconds: dict[str, float]) -> str | None:
    """The first of the tests that fails, or None. `mark` chooses among them."""
    if not names:
        return None
    expected = sum(seconds.get(name, 1.0) for name in names)
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "tests"
        listed.write_text("\n".join(names), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "-m",
            mark,
            f"@{listed}",
        ]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        try:
            out, _ = process.communicate(timeout=max(LEAST_S, TIMES * expected))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "no end"
    if process.returncode in (0, 5):  # 5: none of this mark
        return None
    failed = [line for line in out.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split(" ")[1] if failed else f"exit code {process.returncode}: {out[-300:]}"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(paths: list[Path]) -> Iterator[str]:
    listed = json.loads(Path(__file__).with_name("mutants.json").read_text(encoding="utf-8"))
    columns = [{each["id"]: each for each in read(path)} for path in paths]
    yield (
        "| room | " + " | ".join(f"found in {path.stem}" for path in paths) + " |\n|---" * 1 + "|---" * len(paths) + "|"
    )
    for room in [*ROOMS, "all"]:
        numbers = [fault["id"] for fault in listed if room in (fault["room"], "all")]
        counts = [
            Counter(bool(column[n]["found"]) for n in numbers if n in column and "gone" not in column[n])
            for column in columns
        ]
        yield f"| {room} | " + " | ".join(f"{count[True]} of {count.total()}" for count in counts) + " |"
    yield "\nNot found:\n"
    for fault in listed:
        missed = [column[fault["id"]] for column in columns if not column.get(fault["id"], {"found": True})["found"]]
        if missed:
            gone = "; its line is there no more" if any("gone" in each for each in missed) else ""
            yield f"- {fault['id']}: {fault['file']}:{fault['line'] + 1}, {fault['kind']}: `{fault['before']}` -> `{fault['after']}`{gone}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("draw").add_argument("--seed", type=int, required=True)
    of_run = verbs.add_parser("run")
    for flag in ("--coverage", "--notes", "--results"):
        of_run.add_argument(flag, type=Path, required=True)
    verbs.add_parser("table").add_argument("results", type=Path, nargs="+")
    given = parser.parse_args()
    if given.verb == "draw":
        print(json.dumps(draw(given.seed), indent=1))
    elif given.verb == "run":
        run(given.coverage, given.notes, given.results)
    else:
        print("\n".join(table(given.results)))
