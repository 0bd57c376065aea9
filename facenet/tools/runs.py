"""facenet-runs: the runs that a crash or a store that was away left unfinished in MLflow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from facenet.errors import UserError, shown
from facenet.files.run_dir import RunDir
from facenet.launch.failure import cause, noted_failures
from facenet.privacy.addresses import mask
from facenet.tracking import process, reading, settling
from facenet.tracking.journal import header, journals, last_end
from facenet.tracking.known import check_named
from facenet.tracking.reading import RunRecord
from facenet.tracking.store import where

USUAL = ("outputs", "multirun")


def run_sync(folders: Sequence[str], uri: str | None) -> str:
    """Returns what was sent, a line per run. Raises UserError with the same where a store did not take its runs, after trying all."""
    lines, refused = [], False
    paths = [path for folder in existing(folders) for path in journals(folder)]
    for path in dict.fromkeys(paths):
        try:
            told = sync(path, uri)
        except UserError as error:
            told, refused = str(error), True
        except Exception as error:  # of records that are none, of a disk, or of a database's driver
            told, refused = shown(f"cannot be sent ({type(error).__name__}: {mask(str(error))})"), True
        if told:
            lines.append(f"{shown(str(path.parent))}: {told}")
    if refused:
        raise UserError("\n".join(lines))
    return "\n".join(lines or [f"MLflow has all of {len(paths)} runs"])


def existing(folders: Sequence[str]) -> list[Path]:
    """Absolute; by default where facenet-train puts its runs."""
    chosen = [Path(folder).absolute() for folder in folders or [name for name in USUAL if Path(name).is_dir()]]
    for folder in chosen:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such directory; name run directories or a folder of them")
    if not chosen:
        raise UserError(f"no {' or '.join(USUAL)} here; name run directories or a folder of them")
    return chosen


def sync(path: Path, uri: str | None) -> str:
    """Returns what was done, empty where there was nothing to do. A run whose process is gone is ended."""
    if not settling.waiting(path):
        return ""
    if not uri:
        check_named(header(path).get("store"), str(path), "--uri ")
    store = settling.address(path, uri)
    if last_end(path) is None:
        run = reading.run(store, header(path)["run"])
        if lives(run):
            return "still running; it sends its records itself"
        if run.status == "RUNNING" and process.of_this_host(run.tags):
            settling.note_end(path, *end_of(path), at=run.last_sign)
    sent = settling.send(path, store)
    return str(sent) if sent else ""


def lives(run: RunRecord) -> bool:
    """Returns whether a run lives, as far as one can know from this host."""
    return process.of_this_host(run.tags) and process.alive(run.tags)


def end_of(path: Path) -> tuple[str, str]:
    """State and reason of a run whose process is gone, by what it left in its directory."""
    run_dir = path.parent
    if path.name == RunDir.journal and RunDir(run_dir).result.is_file():
        return "FINISHED", ""
    if path.name == RunDir.journal and (failures := noted_failures(run_dir)):
        return "FAILED", cause(failures).text
    return "KILLED", ""


def run_reap(*, uri: str | None, experiment: str | None, dry_run: bool, all_hosts: bool, older_than: float) -> str:
    """Returns what was done with each run that MLflow takes for running, a line per run. Raises UserError where MLflow cannot be used."""
    store = where(uri)
    lines = []
    for run in reading.running(store, experiment):
        left = reason_to_leave(run, all_hosts=all_hosts, older_than=older_than)
        if left is None:
            state = planned_state(run) if dry_run else reap(store, run)
            left = f"would be closed as {state}" if dry_run else f"closed as {state}"
        lines.append(f"{shown(run.id)} {shown(run.name)}: {left}")
    return "\n".join(lines or ["no run is marked as running"])


def reason_to_leave(run: RunRecord, *, all_hosts: bool, older_than: float) -> str | None:
    """None for a run whose process is gone, or is on another host and silent for `older_than` hours."""
    if "pid" not in run.tags:
        return "left: not started by facenet"
    if process.of_this_host(run.tags):
        return f"left: process {run.tags['pid']} runs" if process.alive(run.tags) else None
    silent = (time.time() - run.last_sign) / 3600
    host = run.tags.get("host", "unknown")
    if not all_hosts:
        return f"left: runs on host {host}, last sign {silent:.1f} h ago; --all-hosts closes it after {older_than:g} h"
    return None if silent > older_than else f"left: gave a sign on host {host} {silent:.1f} h ago"


def planned_state(run: RunRecord) -> str:
    path = settling.journal_of(run)
    if path is None:
        return "KILLED"
    end = last_end(path)
    return end_of(path)[0] if end is None else str(end["end"])


def reap(store: str, run: RunRecord) -> str:
    """The state in which the run is now; what it had not sent is sent."""
    state, path = planned_state(run), settling.journal_of(run)
    if path is None:
        settling.end_without_journal(store, run, state)
    else:
        if last_end(path) is None:
            settling.note_end(path, *end_of(path), at=run.last_sign)
        settling.send(path, store)
    reading.tag(store, run.id, {"reaped": datetime.now(timezone.utc).isoformat(timespec="seconds")})
    return state
