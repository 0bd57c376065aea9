"""What a run records, first of all on disk: `metrics.jsonl` in its directory, one JSON object a line, for MLflow and for anybody else.

The first line names the run, {"run": id, "store": address, "select": metric, "hidden": [metric, ...]}, or with `tracking=none` none. The others
are {"time": ms, "step": n, "metrics": {...}}, {"time", "tag", "value"}, {"time", "artifact": path, "folder"} and {"time", "end": state, "error"}.
`metrics.jsonl.sent` holds how many bytes of it MLflow has, which gets the metrics that `facts.is_shown` beside the selected one, or all
where the first line names none, and never those that it hides.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from facenet.errors import UserError, shown
from facenet.files.atomic import own
from facenet.files.reading import regular
from facenet.files.run_dir import RunDir

LONGEST = 10_000  # bytes of the first line
LONGEST_MARK = 32  # digits
LARGEST = 2**63 - 1  # whole number of a database
ENDS = ("FINISHED", "FAILED", "KILLED")
FIELDS = {"metrics": ("step", "time"), "tag": ("value",), "artifact": ("folder",), "end": ("error", "time")}
TYPES: dict[str, type] = {"metrics": dict, "step": int, "time": int}  # the others are text
Record = dict[str, Any]


class Journal:
    """Appends. A line is one write, so that the launcher and rank 0 may both do so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = own(path, os.O_WRONLY | os.O_APPEND)

    def add(self, **record: Any) -> None:
        """Raises UserError on a full disk."""
        line = json.dumps({"time": time.time_ns() // 1_000_000, **record}).encode() + b"\n"
        try:
            written = os.write(self.descriptor, line)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free space or set hydra.run.dir"
            ) from None
        if written < len(line):
            os.ftruncate(
                self.descriptor, os.fstat(self.descriptor).st_size - written
            )  # the next line begins at a line's start
            raise UserError(
                f"{self.path}: cannot be written (no space for all of a line); free space or set hydra.run.dir"
            )

    def close(self) -> None:
        os.close(self.descriptor)


def begin(
    run_dir: Path, run_id: str | None, store: str | None, select: str | None = None, hidden: Sequence[str] = ()
) -> Path:
    """The journal of a run: the one it has, else a new one. Another run's stays beside it while MLflow lacks some of it."""
    path = RunDir(run_dir).journal
    if path.is_file() and not path.is_symlink():
        if header(path).get("run", "") == run_id:
            os.truncate(path, whole(path))
            return path
        if sent(path) < whole(path):
            other = RunDir(run_dir).journal_of(header(path).get("run") or "unknown")
            path.rename(other)
            with contextlib.suppress(FileNotFoundError):
                mark_path(path).rename(mark_path(other))
    mark_path(path).unlink(missing_ok=True)
    with open(path, "w", encoding="utf-8", opener=own) as file:
        more: Record = {"select": select} if select else {}
        if hidden and len(json.dumps(hidden)) < LONGEST / 2:  # as of any number of benchmarks
            more |= {"hidden": [*hidden]}
        file.write(json.dumps({"run": run_id, "store": store, **more}) + "\n")
    return path


def journals(folder: Path) -> list[Path]:
    """Returns the journals of a run directory, or of all below a folder."""
    return sorted(path for path in folder.rglob("metrics*.jsonl") if isinstance(header(path).get("run"), str))


def header(path: Path) -> Record:
    """The first line; empty where it is none of a journal."""
    with contextlib.suppress(OSError, ValueError, RecursionError), open(path, "rb", opener=regular) as file:
        first = json.loads(file.readline(LONGEST))
        return first if isinstance(first, dict) else {}
    return {}


def is_alone(path: Path) -> bool:
    """Whether it is the journal of a run that is in no store."""
    return header(path).get("run", "") is None


def whole(path: Path) -> int:
    """Returns its length in bytes, without a line that a crash cut off."""
    with path.open("rb") as file:
        return line_start(file, path.stat().st_size)


def line_start(file: BinaryIO, end: int) -> int:
    """The place behind the last line break before `end`."""
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read(path: Path, start: int = 0) -> Iterator[tuple[Record, int]]:
    """Each whole record from a byte on, and where it ends."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield record_of(line, path, end - len(line)), end


def record_of(line: bytes, path: Path, start: int) -> Record:
    """Raises UserError for what no `Journal` wrote."""
    try:
        found = json.loads(line)
        if isinstance(found, dict) and (reason := unfit(found)) is None:
            return found
        reason = "no JSON object" if not isinstance(found, dict) else f"{reason} is missing or of another type"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(
        f"{path}: the line at byte {start} is damaged ({shown(reason)}); restore the file, or delete that line: what follows it is sent then"
    )


def unfit(record: Record) -> str | None:
    """The field that is missing from a record, of another type or beyond what a store takes, if one is."""
    for kind in FIELDS.keys() & record.keys():
        for name in (kind, *FIELDS[kind]):
            value = record.get(name)
            if not isinstance(value, TYPES.get(name, str)) or (isinstance(value, int) and abs(value) > LARGEST):
                return name
    numbers = record.get("metrics", {}).values()
    if not all(isinstance(each, float) or (isinstance(each, int) and abs(each) <= LARGEST) for each in numbers):
        return "metrics"
    if "end" in record and record["end"] not in ENDS:
        return "end"
    place = PurePath(record.get("folder", "") if "artifact" in record else "")
    return "folder" if place.is_absolute() or ".." in place.parts else None


def last_steps(path: Path) -> dict[str, int]:
    """Name of a metric -> the highest step in the journal."""
    steps: dict[str, int] = {}
    for record, _ in read(path):
        for name in record.get("metrics", ()):
            steps[name] = max(record["step"], steps.get(name, 0))
    return steps


def last_end(path: Path) -> Record | None:
    """The record with which the run ended; None where others follow, or it has none."""
    end = whole(path)
    with path.open("rb") as file:
        start = line_start(file, end - 1)
        file.seek(start)
        last = record_of(file.read(end - start) or b"{}", path, start)
    return last if "end" in last else None


def mark_path(path: Path) -> Path:
    return path.with_name(path.name + ".sent")


def sent(path: Path) -> int:
    """How many bytes MLflow has. Raises UserError for a mark that is none."""
    try:
        return number_in(mark_path(path).read_bytes(), path)
    except FileNotFoundError:
        return 0


def number_in(mark: bytes, path: Path) -> int:
    text = mark.decode("ascii", "replace").strip()
    good = text.isascii() and text.isdecimal() and len(text) < LONGEST_MARK and starts_line(path, int(text))
    if text and not good:
        raise UserError(
            f"{mark_path(path)}: damaged; delete it: all records are sent again then, and MLflow passes over those that it has"
        )
    return int(text or 0)


def starts_line(path: Path, place: int) -> bool:
    """Whether a record begins, or the file ends, at a byte."""
    with path.open("rb") as file:
        file.seek(max(0, place - 1))
        return place == 0 or file.read(1) == b"\n"


class Mark:
    """The place up to which MLflow has a journal, while this process alone may move it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.place = number_in(os.pread(descriptor, LONGEST_MARK, 0), path)

    def move(self, place: int) -> None:
        self.place = place
        os.pwrite(self.descriptor, str(place).encode(), 0)  # never shorter than before


@contextlib.contextmanager
def marked(path: Path) -> Iterator[Mark]:
    """Waits until no other process sends from this journal. What is about to be sent is on the disk then, so that a crash of the machine
    leaves nothing in MLflow that the journal does not know."""
    descriptor = own(mark_path(path), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        yield Mark(descriptor, path)
    finally:
        os.close(descriptor)
