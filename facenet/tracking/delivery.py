"""From a journal to MLflow: in order, nothing lost, nothing twice, by one process at a time.

MLflow's stores ignore a point that they have with the same step, time and value, so what was sent before a crash may be sent again.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from facenet.errors import UserError
from facenet.tracking.facts import is_shown
from facenet.tracking.journal import Mark, Record, header, marked, read
from facenet.tracking.known import check_files
from facenet.tracking.store import first_line, mlflow_command
from facenet.tracking.tracker import of_people

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
METRICS_PER_BATCH = 1000  # MLflow takes no more
# Runs in stores, or behind servers, that keep a metric in a file and take the slashes of its name for folders, where no name can be the beginning
# of another; with the names seen so far.
in_folders: dict[str, set[str]] = {}
SERVERS = ("http", "https", "mlflow-artifacts")
FOLDER_IN_THE_WAY = re.compile(r"Errno (?:20|21)\b|(?:Not|Is) a directory|too many 500 error responses")


class Gone(Exception):
    """A file that was to be sent is not there, or not the run's."""


@dataclass
class Delivered:
    """What went to MLflow; `refused`: records that it will never take."""

    points: int = 0
    files: int = 0
    tags: int = 0
    end: str | None = None
    refused: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.points or self.files or self.tags or self.end or self.refused)

    def __str__(self) -> str:
        parts = [f"{self.points:,} metric values", f"{self.files} files", f"{self.tags} tags"]
        text = f"sent {', '.join(parts)}"
        text += f"; ended {self.end}" if self.end else ""
        return f"{text}; refused: {'; '.join(self.refused)}" if self.refused else text


def deliver(client: MlflowClient, path: Path) -> Delivered:
    """Sends what MLflow has not. Raises what the client raises when the store is away; what it took until then stays marked as sent."""
    delivered = Delivered()
    first = header(path)
    run_id, select, hidden = str(first["run"]), first.get("select"), first.get("hidden")
    select, hidden = select if isinstance(select, str) else None, hidden if isinstance(hidden, list) else []
    with marked(path) as mark:
        for records, end in batches(path, mark):
            try:
                send(client, run_id, path.parent, records, delivered, select, hidden)
            except Exception as error:
                if not hopeless(error):
                    raise
                check_not_deleted(client, run_id)
                delivered.refused.append(first_line(error))
                if len(delivered.refused) == 1:
                    log.warning("MLflow refused a record of run %s: %s", run_id, delivered.refused[0])
            mark.move(end)
    return delivered


def batches(path: Path, mark: Mark) -> Iterator[tuple[list[Record], int]]:
    """Metrics together up to the most that a call takes, other records one by one; each with the place where it ends."""
    together: list[Record] = []
    count, end = 0, mark.place
    for record, place in read(path, mark.place):
        size = len(record.get("metrics", ()))
        if together and (not size or count + size > METRICS_PER_BATCH):
            yield together, end
            together, count = [], 0
        together.append(record)
        count, end = count + size, place
        if not size:
            yield together, end
            together = []
    if together:
        yield together, end


def send(
    client: MlflowClient,
    run_id: str,
    run_dir: Path,
    records: list[Record],
    delivered: Delivered,
    select: str | None = None,
    hidden: Collection[Any] = (),
) -> None:
    first = records[0]
    if "metrics" in first:
        points = [
            (name, value, each["time"], each["step"])
            for each in records
            for name, value in sorted(
                each["metrics"].items(), key=lambda one: (one[0] != select, one[0].startswith("system/"))
            )
            if is_shown(name, select) and name not in hidden
        ]
        log_points(client, run_id, points)
        delivered.points += len(points)
    elif "artifact" in first:
        path = own_file(run_dir, first["artifact"])
        with refused_as_gone(path):
            check_files(client.tracking_uri, client.get_run(run_id).info.artifact_uri)
        files = [path, *(path.rglob("*") if path.is_dir() else ())]
        if any(of_people(each.name) for each in files) and not first.get("anywhere") and is_away(client, run_id):
            return
        client.log_artifact(run_id, str(path), first["folder"] or None)
        delivered.files += 1
    elif "tag" in first:
        client.set_tag(run_id, first["tag"], first["value"])
        delivered.tags += 1
    elif "end" in first:
        if first["error"]:
            client.set_tag(run_id, "error", first["error"])
        client.set_terminated(run_id, first["end"], end_time=first["time"])
        delivered.end = first["end"]


def is_away(client: MlflowClient, run_id: str) -> bool:
    """Whether the run's files lie with a server or a cloud, so that they leave this machine's disks and what is mounted there."""
    place = urlsplit(client.get_run(run_id).info.artifact_uri)
    if place.scheme == "mlflow-artifacts" and not place.netloc:
        place = urlsplit(client.tracking_uri)
    here = place.scheme in SERVERS and place.hostname in ("localhost", "127.0.0.1", "::1")  # elsewhere: a bucket's name
    return place.scheme not in ("", "file") and not here


@contextlib.contextmanager
def refused_as_gone(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise Gone(f"{path}: is not sent; {error}") from None


def own_file(run_dir: Path, name: str) -> Path:
    """A file of the run. The journal may be anybody's: raises Gone for one that lies elsewhere, by its name or through a link."""
    path = run_dir / name
    if not path.exists():
        raise Gone(f"{path}: no such file")
    real, inside = path.resolve(), run_dir.resolve()
    links = [path, *(path.rglob("*") if path.is_dir() else ())]
    if inside not in real.parents or any(each.is_symlink() for each in links):
        raise Gone(f"{path}: is not in the run directory, and is not sent")
    return path


def log_points(client: MlflowClient, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    for start in range(0, len(points), METRICS_PER_BATCH):  # a single record may hold more
        part = points[start : start + METRICS_PER_BATCH]
        try:
            log_part(client, run_id, part)
        except Exception as error:
            if run_id in in_folders or not FOLDER_IN_THE_WAY.search(str(error)):
                raise
            stored = {*client.get_run(run_id).data.metrics}
            if all(name in stored or name_beside(name, stored) == name for name, *_ in part):
                raise
            in_folders[run_id] = stored
            log_part(client, run_id, part)


def log_part(client: MlflowClient, run_id: str, part: list[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric

    known = in_folders.get(run_id)
    if known is not None:
        known.update(name for name, *_ in part)
    client.log_batch(run_id, [Metric(name_beside(name, known or ()), *rest) for name, *rest in part])


def name_beside(name: str, known: Collection[str]) -> str:
    """`train/ce accuracy` for `train/ce/accuracy` where `train/ce` is a metric too; `as_named` turns it back."""
    parts = name.split("/")
    heads = ("/".join(parts[:count]) for count in range(1, len(parts)))
    head = next((each for each in heads if each in known), None)
    return name if head is None else f"{head} {name[len(head) + 1 :].replace('/', ' ')}"


def as_named(name: str) -> str:
    """What a metric is called everywhere but in a store that keeps it in a file; no name of ours has a blank."""
    return name.replace(" ", "/")


def check_not_deleted(client: MlflowClient, run_id: str) -> None:
    """Raises UserError for a run that was deleted: it takes nothing until it is brought back, and its records are kept until then."""
    if client.get_run(run_id).info.lifecycle_stage == "deleted":
        command = mlflow_command(str(getattr(client, "tracking_uri", "")))
        raise UserError(
            f"run {run_id} was deleted in MLflow; bring it back with: {command} runs restore --run-id {run_id}"
        )


def hopeless(error: Exception) -> bool:
    """Whether trying again cannot help: a file that is gone, or a record that MLflow takes for wrong. BAD_REQUEST is not that: a
    broken database answers so."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return bool(error.error_code == "INVALID_PARAMETER_VALUE")
    return isinstance(error, Gone)
