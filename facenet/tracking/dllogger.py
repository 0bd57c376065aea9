"""The vendor's log: lines `TCAPPDLL {json}` in one file per process, with that process's own loss and images per second.

Written so that the vendor's tools read it (json, then ast.literal_eval of `data`), and read in every form that their tools and NVIDIA's write.
"""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from facenet.errors import UserError
from facenet.files.atomic import own
from facenet.files.reading import decoded, regular

METRICS = {
    "train.loss": {"unit": "", "format": ":.6f", "GOAL": "MINIMIZE", "STAGE": "TRAIN"},
    "train.ips": {"unit": "imgs/s", "format": ":.3f", "GOAL": "MAXIMIZE", "STAGE": "TRAIN"},
    "train.lr": {"unit": "", "format": ":.3e", "STAGE": "TRAIN"},  # neither high nor low is a goal
    "val.loss": {"unit": "", "format": ":.6f", "GOAL": "MINIMIZE", "STAGE": "VALID"},
    "val.ips": {"unit": "imgs/s", "format": ":.3f", "GOAL": "MAXIMIZE", "STAGE": "VALID"},
}
FILE_LINE = re.compile(r"(?:TCAPPDLL|DLLL) (\{.*)")  # a launcher's or logger's own prefix may come before
CONSOLE_LINE = re.compile(r"(?:TCAPPDLL|DLL) .* - (?:Epoch: (\d+) Iteration: |[(\[](\d+), )(\d+)(.*)")
# Not from inside a word: a long one would take a time quadratic in its length.
CONSOLE_VALUE = re.compile(r"(?<![\w.])([\w.]+) ?: ?(\S+)")
CONSOLE_START = re.compile(r"(?:TCAPPDLL|DLL) ")
LONGEST_LINE = 100_000  # characters; a damaged file without line breaks is no log


class VendorLog:
    """Appends, so that an earlier run of the directory keeps its lines. Epochs count from 0 as the vendor's, iterations are optimizer steps
    done since the start of the run; `ips` is images per second of this process."""

    def __init__(self, path: Path, rank: int) -> None:
        self.rank = rank
        self.last: dict[str, float] = {}
        self.opened = datetime.now()
        # Each line at once: a killed run keeps them.
        self.file = open(path, "a", encoding="utf-8", buffering=1, opener=own)  # noqa: SIM115
        for metric, metadata in METRICS.items():
            self.write({"type": "METADATA", "metric": metric, "metadata": metadata})

    def train(self, epoch: int, iteration: int, *, loss: float, ips: float, lr: float) -> None:
        self.log([epoch, iteration], {"train.loss": loss, "train.ips": ips, "train.lr": lr})

    def val(self, epoch: int, iteration: int, num_batches: int, *, loss: float, ips: float) -> None:
        self.log([epoch, iteration, num_batches], {"val.loss": loss, "val.ips": ips})

    def close(self) -> None:
        """Adds the last value of each metric under names of their own: the vendor's tools count every line with `train.loss`."""
        if self.last:
            self.log("summary", {f"summary.{name}": value for name, value in self.last.items()})
        self.file.close()

    def log(self, step: list[int] | str, values: dict[str, float]) -> None:
        self.last.update(values)
        texts = {"rank": str(self.rank), **{name: str(float(value)) for name, value in values.items()}}
        self.write({"type": "LOG", "step": step, "data": str(texts)})

    def write(self, fields: dict[str, Any]) -> None:
        now = datetime.now()
        times = {
            "timestamp": str(now.timestamp()),
            "elapsedtime": str((now - self.opened).total_seconds()),
            "datetime": str(now),
        }
        self.file.write(f"TCAPPDLL {json.dumps({**times, **fields})}\n")


class Entry(NamedTuple):
    """One log line of an iteration."""

    epoch: int
    iteration: int
    data: dict[str, Any]


def read_metric(path: Path, metric: str) -> list[tuple[int, int, float]]:
    """(epoch, iteration, value) per line with the metric, in the file's order and of the first rank in it.

    Raises UserError for a file that cannot be read, is no such log or lacks the metric, and for a broken line, by its number."""
    try:
        with open(path, "rb", opener=regular) as file:
            lines = decoded(file.read(), "replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    points: list[tuple[int, int, float]] = []
    names: dict[str, None] = {}
    rank = None
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse(line)
            if entry is None:
                continue
            names.update(dict.fromkeys(entry.data))
            if metric in entry.data:
                rank = entry.data.get("rank") if rank is None else rank
                if entry.data.get("rank", rank) == rank:
                    points.append((entry.epoch, entry.iteration, float(entry.data[metric])))
        except (ValueError, TypeError, KeyError, SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
            raise UserError(f"{path}:{number}: not a whole log line ({error}); repair or delete it") from None
    if not names:
        raise UserError(f"{path}: no TCAPPDLL or DLLL line of an iteration in it")
    if not points:
        raise UserError(f"{path}: no metric {metric} in it; it has {', '.join(map(str, names))}")
    return points


def parse(line: str) -> Entry | None:
    """None for other text, metadata, and what is logged once per epoch or run. Raises one of several errors for a damaged line."""
    if len(line) > LONGEST_LINE:
        if CONSOLE_START.search(line) or "DLLL " in line:
            raise ValueError(f"{len(line):,} characters")
        return None
    if found := FILE_LINE.search(line):
        fields = json.loads(found[1])
        step = fields.get("step")
        if fields["type"] != "LOG" or not isinstance(step, list) or len(step) < 2:
            return None
        data = ast.literal_eval(fields["data"]) if isinstance(fields["data"], str) else fields["data"]
        if not isinstance(data, dict):
            raise ValueError("data is no dict")
        return Entry(int(step[0]), int(step[1]), data)
    if found := console_line(line):
        return Entry(int(found[1] or found[2]), int(found[3]), dict(CONSOLE_VALUE.findall(found[4])))
    return None


def console_line(line: str) -> re.Match[str] | None:
    """Tried at the first mark only: from each of many, the search would take a time quadratic in the line's length."""
    start = CONSOLE_START.search(line)
    return CONSOLE_LINE.match(line, start.start()) if start else None
