"""python -m bench run SUBJECT | render | gate"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.context import Context, Mismatch
from bench.peers import Peers

SUBJECTS = (
    "data",
    "step",
    "recipe",
    "eval",
    "mining",
    "startup",
    "first_step",
    "logging",
    "index",
    "head",
    "watch",
    "checkpoint",
)
RESULTS = Path(__file__).parent / "results" / "performance.jsonl"
HERE = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure one subject, or all")
    run.add_argument("subject", choices=(*SUBJECTS, "all"))
    run.add_argument("--against", nargs="*", default=[], metavar="NAME=PATH", help="reference=PATH arcface=PATH")
    run.add_argument(
        "--json", type=Path, metavar="OUT", help="append the results to this file, one JSON line a subject"
    )
    run.add_argument("--rounds", type=int, help="default 7, of steps 5")
    run.add_argument("--quick", action="store_true", help="small sizes and 3 rounds: a try, not a result")
    run.add_argument("--data", type=Path, help="a folder <identity>/<image>.jpg in place of the drawn faces")
    drawn = commands.add_parser("render", help="write the newest results into docs/performance.md: goals and tables")
    drawn.add_argument("--json", type=Path, default=RESULTS)
    gate = commands.add_parser("gate", help="fail where about 75 %% of a goal is not met")
    gate.add_argument("--against", nargs="*", default=[], metavar="NAME=PATH")
    given = parser.parse_args()
    if given.command == "render":
        return rendered(given.json)
    if given.command == "gate":
        from bench.gate import gate as passed

        return passed(Peers(given.against))
    return every_subject() if given.subject == "all" else one_subject(given)


def one_subject(given: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        rounds = given.rounds or (3 if given.quick else 5 if given.subject == "step" else 7)
        context = Context(Peers(given.against), Path(scratch), rounds, given.quick, given.data)
        try:
            outcome = importlib.import_module(f"bench.{given.subject}_subject").run(context)
        except Mismatch as error:
            print(f"{given.subject}: {error}; nothing was timed", file=sys.stderr)
            return 1
        line = json.loads(json.dumps(report.record(given.subject, outcome, context)))
        print(report.shown(line))
        if given.json is not None:
            report.append(line, given.json)
    return 0


def every_subject() -> int:
    """Each in a process of its own, so that none meets another's threads and caches."""
    place = sys.argv.index("all")
    failed = [
        subject
        for subject in SUBJECTS
        if subprocess.run(
            [sys.executable, "-m", "bench", *sys.argv[1:place], subject, *sys.argv[place + 1 :]]
        ).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def rendered(path: Path) -> int:
    lines = report.newest(path)
    page = HERE / "docs/performance.md"
    text = page.read_text(encoding="utf-8")
    for mark, block in (("goals", report.goals_table(lines)), ("performance", report.markdown(lines))):
        text = report.render(text, block, mark)
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
