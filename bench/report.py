"""From a run to JSON lines, to the terminal and to docs/performance.md, in which no number is typed by hand."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.context import Context, Outcome
from bench.rounds import num_cores

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "albumentations",
    "pytorch-metric-learning",
    "webdataset",
    "hydra-core",
    "mlflow",
)


def record(subject: str, outcome: Outcome, context: Context) -> dict[str, Any]:
    """One JSON line."""
    return {
        "subject": subject,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "quick": context.quick,
        "machine": machine(),
        "calibration": context.limits,
        "skipped": context.peers.skipped,
        "counters": outcome.counters,
        "goals": [{**dataclasses.asdict(goal), "met": goal.met} for goal in outcome.goals],
        "tables": [{**dataclasses.asdict(table), "noisy": table.noisy} for table in outcome.tables],
    }


def machine() -> dict[str, Any]:
    import torch

    found = {"cores": num_cores(), "load": round(os.getloadavg()[0], 2), "threads": torch.get_num_threads()}
    found |= {"python": platform.python_version(), "cpu": cpu_name(), "steal": steal()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def steal() -> float:
    """Share of all CPU time since boot that the host kept for others."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return round(ticks[7] / sum(ticks), 4)


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def append(line: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def newest(path: Path) -> list[dict[str, Any]]:
    """The full records, each with what no later one measured anew: its tables by title, its goals by number. One machine cannot measure all."""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    full = [line for line in lines if not line["quick"]]
    measured = {goal["number"] for line in full for goal in line["goals"] if goal["measured"] is not None}
    seen: set[str] = set()

    def first(key: str) -> bool:
        known = key in seen
        seen.add(key)
        return not known

    for line in reversed(full):
        line["tables"] = [table for table in line["tables"] if first(table["title"])]
        line["goals"] = [
            goal
            for goal in line["goals"]
            if (goal["measured"] is not None or goal["number"] not in measured) and first(goal["number"])
        ]
    return full


def shown(line: dict[str, Any]) -> str:
    """For a terminal."""
    out = []
    for table in line["tables"]:
        control = (
            "" if table["control"] is None else f", A/A {table['control']:.3f}{' NOISY' if table['noisy'] else ''}"
        )
        out.append(f"\n{table['title']} (per {table['unit']}, {table['rounds']} rounds{control})")
        for row in table["rows"]:
            out.append(
                f"  {row['name']:<44} cpu {microseconds(row['cpu_s']):>12}  wall {microseconds(row['wall_s']):>12}  "
                f"x {number(row['ratio']):>7}  wall x {number(row['wall_ratio']):>7}  of limit {percent(row['of_limit'])}"
            )
        out.extend(f"  {note}" for note in table["notes"])
    out.extend(goal_line(goal) for goal in line["goals"])
    out.extend(f"counter {name}: {value:g}" for name, value in line["counters"].items())
    out.extend(f"skipped {what}" for what in line["skipped"])
    return "\n".join(out)


def goal_line(goal: dict[str, Any]) -> str:
    verdict = {True: "met", False: "MISSED", None: "not measured"}[goal["met"]]
    sign = "<=" if goal["at_most"] else ">="
    return (
        f"goal {goal['number']} {goal['text']}: {number(goal['measured'])} (wanted {sign} {goal['wanted']:g}) {verdict}"
    )


def markdown(lines: list[dict[str, Any]]) -> str:
    """The tables that `newest` left, under each record's machine."""
    out = []
    for line in sorted((line for line in lines if line["tables"]), key=lambda line: str(line["subject"])):
        machine = line["machine"]
        for table in line["tables"]:
            control = (
                "no control"
                if table["control"] is None
                else f"A/A {table['control']:.3f}" + (": noisy, no ratio claimed" if table["noisy"] else "")
            )
            out += [f"**{table['title']}**, per {table['unit']} ({table['rounds']} rounds, {control})", ""]
            out += ["| candidate | CPU | wall | times cheaper (CPU, 95 % interval) | of the limit |"]
            out += ["| --- | --- | --- | --- | --- |"]
            for row in table["rows"]:
                interval = f" ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})" if row["ratio"] is not None else ""
                out.append(
                    f"| {row['name']} | {microseconds(row['cpu_s'])} | {microseconds(row['wall_s'])} | "
                    f"{number(row['ratio'])}{interval} | {percent(row['of_limit'])} |"
                )
            out.append("")
        out += [
            f"_{line['subject']}: {line['time'][:10]}, commit {line['commit']}, {machine['cpu']}, {machine['cores']} cores, "
            f"load {machine['load']}, torch {machine['torch']}._",
            "",
        ]
    return "\n".join(out).rstrip()


def goals_table(lines: list[dict[str, Any]]) -> str:
    rows = ["| goal | wanted | measured | verdict | what limits it |", "| --- | --- | --- | --- | --- |"]
    for goal in sorted((goal for line in lines for goal in line["goals"]), key=lambda goal: float(goal["number"])):
        verdict = {True: "met", False: "**missed**", None: "not measured"}[goal["met"]]
        sign = "<=" if goal["at_most"] else ">="
        rows.append(
            f"| {goal['number']} {goal['text']} | {sign} {goal['wanted']:g} | {number(goal['measured'])} | {verdict} | "
            f"{goal['limit']} |"
        )
    return "\n".join(rows)


def render(text: str, block: str, mark: str) -> str:
    """The text with the block between <!-- mark --> and <!-- /mark -->. ValueError where there are none."""
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, start, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not start or not end:
        raise ValueError(f"no {opening} ... {closing} in the file")
    return f"{before}{opening}\n{block}\n{closing}{after}"


def microseconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
