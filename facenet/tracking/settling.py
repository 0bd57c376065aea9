"""Runs whose process is gone: sends what it could not, and ends them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from facenet.errors import UserError
from facenet.tracking.delivery import Delivered, deliver
from facenet.tracking.journal import Journal, header, journals, last_end, sent, whole
from facenet.tracking.reading import RunRecord, reader
from facenet.tracking.store import where


def waiting(path: Path) -> bool:
    """Whether MLflow lacks something of a journal, or its end."""
    return sent(path) < whole(path) or last_end(path) is None


def address(path: Path, uri: str | None) -> str:
    """Returns where a journal's run is recorded: the store given, else the one it names. Raises UserError for one that is no address, or lacks its
    secret."""
    named = header(path).get("store")
    if not isinstance(named, str | None):
        raise UserError(f"{path}: names no store in its first line; name it: --uri")
    return where(uri or named, "--uri")


def send(path: Path, uri: str) -> Delivered:
    """Raises UserError when the store cannot be used."""
    with reader(uri) as client:
        return deliver(client, path)


def note_end(path: Path, state: str, reason: str, *, at: float) -> None:
    """For a process that could not do so itself."""
    with contextlib.closing(Journal(path)) as journal:
        journal.add(time=int(at * 1000), end=state, error=reason[-5000:])


def journal_of(run: RunRecord) -> Path | None:
    """The journal of a run, if its directory can be seen from here."""
    run_dir = Path(run.tags.get("run_dir", ""))
    if not run_dir.is_absolute() or not run_dir.is_dir():
        return None
    return next((path for path in journals(run_dir) if header(path).get("run") == run.id), None)


def end_without_journal(uri: str, run: RunRecord, state: str) -> None:
    with reader(uri) as client:
        client.set_terminated(run.id, state, end_time=int(run.last_sign * 1000))
