"""Interleaved rounds: every candidate once a round, the order rotated, so that a change of the machine's load meets all of them alike.

Ratios are paired within a round. The base runs a second time under the name A/A: where that differs by more than 5 %, the table is noisy and no
ratio is claimed.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

CONTROL = "A/A"
NOISE = 0.05


@dataclass(frozen=True)
class Candidate:
    """`work` does `units` of what the table counts. `limit_s`: CPU seconds per unit that the machine's own calibration allows at best. `before`:
    untimed, at each of its turns."""

    name: str
    work: Callable[[], Any]
    units: float
    limit_s: float | None = None
    before: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Row:
    """Seconds per unit, medians over rounds. `ratio`: how many times cheaper than the base in CPU time, with a 95 % bootstrap interval;
    None for the base and in a noisy table."""

    name: str
    wall_s: float
    cpu_s: float
    spread: float  # (largest - smallest) / median of the CPU time
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    wall_ratio: float | None = None
    of_limit: float | None = None


@dataclass
class Table:
    subject: str
    title: str
    unit: str
    rows: list[Row]
    control: float | None  # A/A ratio of the CPU time; None where there was nothing to compare
    rounds: int
    notes: list[str] = field(default_factory=list)  # what was checked first, what was skipped

    @property
    def noisy(self) -> bool:
        return self.control is not None and abs(self.control - 1) > NOISE

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def has(self, name: str) -> bool:
        return any(row.name == name for row in self.rows)


def children_cpu_s() -> float:
    """CPU seconds of this process's children, those that ended and those that run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it ended meanwhile
            continue
        alive += times.user + times.system
    return ended.ru_utime + ended.ru_stime + alive


def timed(candidate: Candidate) -> tuple[float, float]:
    """(wall, CPU) seconds per unit, of the whole process tree. Looking at children costs milliseconds of its own, which are left out."""
    candidate.before()
    children = children_cpu_s()
    wall, own = time.perf_counter(), time.process_time()
    candidate.work()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    cpu = own + children_cpu_s() - children
    return wall / candidate.units, cpu / candidate.units


def measure(
    subject: str, title: str, unit: str, candidates: Sequence[Candidate], *, rounds: int, notes: Sequence[str] = ()
) -> Table:
    """The first candidate is the base. One untimed call of each comes first."""
    runners = list(candidates)
    if len(runners) > 1:
        runners.append(dataclasses.replace(runners[0], name=CONTROL))
    for candidate in candidates:
        candidate.before()
        candidate.work()
    seen: dict[str, list[tuple[float, float]]] = {runner.name: [] for runner in runners}
    for number in range(rounds):
        shift = number % len(runners)
        for runner in runners[shift:] + runners[:shift]:
            seen[runner.name].append(timed(runner))
    return tabulate(subject, title, unit, runners, seen, notes)


def tabulate(
    subject: str,
    title: str,
    unit: str,
    runners: Sequence[Candidate],
    seen: dict[str, list[tuple[float, float]]],
    notes: Sequence[str] = (),
) -> Table:
    """The table of what each runner took per round, as (wall, CPU) seconds per unit."""
    base = seen[runners[0].name]
    control = paired([cpu for _, cpu in base], [cpu for _, cpu in seen[CONTROL]])[0] if CONTROL in seen else None
    quiet = control is not None and abs(control - 1) <= NOISE
    rows = []
    for runner in runners:
        if runner.name == CONTROL:
            continue
        wall, cpu = zip(*seen[runner.name], strict=True)
        middle = statistics.median(cpu)
        ratios: dict[str, float] = {}
        if quiet and runner is not runners[0]:
            ratio, low, high = paired([one for _, one in base], cpu)
            across = paired([one for one, _ in base], wall)[0]
            ratios = {"ratio": ratio, "ratio_low": low, "ratio_high": high, "wall_ratio": across}
        rows.append(
            Row(
                runner.name,
                statistics.median(wall),
                middle,
                (max(cpu) - min(cpu)) / middle if middle else 0.0,
                of_limit=None if runner.limit_s is None else runner.limit_s / middle,
                **ratios,
            )
        )
    return Table(subject, title, unit, rows, control, len(base), list(notes))


def paired(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median of base / other over rounds, and its 95 % interval by 1,000 bootstrap samples with a fixed seed."""
    ratios = np.asarray(base) / np.maximum(np.asarray(other), 1e-12)
    draws = np.random.default_rng(0).integers(len(ratios), size=(1000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def num_cores() -> int:
    return len(os.sched_getaffinity(0))
