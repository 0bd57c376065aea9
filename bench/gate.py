"""What CI asks: three quarters of a goal's ratio of CPU times, and counters exactly. Absolute times are nobody's to promise on a shared machine.

A noisy table claims no ratio and fails nothing; peers that are absent are skipped and said so. Without peers it takes under three minutes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from bench.context import Context, Outcome
from bench.peers import Peers

# Subject -> numbers of its goals that are ratios of CPU times and were met when this list was made.
GATED = {"startup": ("8.1", "8.2"), "eval": ("6.2", "6.4")}
COUNTERS = {
    "forwards per unique image": 1,
    "heavy modules imported by --help": 0,
    "heavy modules imported by --cfg job": 0,
}


def gate(peers: Peers) -> int:
    """0, or 1 with a line for each failure."""
    failures, seen = [], set()
    for subject, numbers in GATED.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            outcome = importlib.import_module(f"bench.{subject}_subject").run(
                Context(peers, Path(scratch), 3, quick=True)
            )
        failures += failed(outcome, numbers)
        seen |= outcome.counters.keys()
    failures += [f"{name} was not counted" for name in COUNTERS.keys() - seen]
    for what in peers.skipped:
        print(f"skipped {what}")
    for failure in failures:
        print(f"gate: {failure}", file=sys.stderr)
    print("gate: failed" if failures else "gate: passed")
    return 1 if failures else 0


def failed(outcome: Outcome, numbers: tuple[str, ...]) -> list[str]:
    """One line for each counter that is not exact and each named goal that is not met to three quarters."""
    lines = [
        f"{name}: {value:g}, expected {COUNTERS[name]}"
        for name, value in outcome.counters.items()
        if name in COUNTERS and value != COUNTERS[name]
    ]
    for goal in outcome.goals:
        if goal.number in numbers and goal.relaxed() is False:
            sign = "at most" if goal.at_most else "at least"
            lines.append(f"{goal.number} {goal.text}: {goal.measured:.3g}, goal {sign} {goal.wanted:g}")
    return lines
