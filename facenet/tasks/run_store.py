"""Where a run directory says that its run is recorded."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.data.split import replace_text
from facenet.errors import UserError
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.privacy import addresses
from facenet.tracking import reading
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.known import check_named
from facenet.tracking.sqlite_file import address_of
from facenet.tracking.store import sqlite_path


def find_begun(run_dir: Path, config: dict[str, Any]) -> str | None:
    """The MLflow run that was begun here under the same config and came to no checkpoint: the same training again is no second run."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        same = configs.fingerprint(configs.of_job(run_dir)) == configs.fingerprint(addresses.hide_secrets(config))
        run_id = json.loads(text_of(RunDir(run_dir).store))["run_id"]
        return run_id if same and isinstance(run_id, str) else None
    return None


def first_command(tracking: NoTracking | MlflowTracking, run_id: str | None) -> str | None:
    """The command that began a run, as its store has it: one that goes on with it does not repeat it."""
    if run_id is None or isinstance(tracking, NoTracking):
        return None
    with contextlib.suppress(UserError):
        return reading.run(tracking.where(), run_id).tags.get("command")
    return None


def remember_store(run_dir: Path, uri: str | None, run_id: str | None) -> None:
    """Writes down where the run is recorded: a command in another directory would look into another default store."""
    told = {"uri": None if uri is None else addresses.masked_address(uri), "run_id": run_id}
    if uri is not None and (database := sqlite_path(uri)) is not None:
        told["from_here"] = os.path.relpath(database, run_dir.absolute())  # which holds when both are moved
    replace_text(RunDir(run_dir).store, json.dumps(told) + "\n")


def stored_in(run_dir: Path) -> str | None:
    """The address that `remember_store` left, if it did; that of a database file from where it is now."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        told = json.loads(text_of(RunDir(run_dir).store))
        uri = told["uri"] if isinstance(told["uri"], str) else None
        if uri and (database := sqlite_path(uri)) and not database.is_file() and "from_here" in told:
            moved = Path(os.path.normpath(run_dir.absolute() / told["from_here"]))
            return address_of(moved) if moved.is_file() else uri
        return uri
    return None


def with_store(config: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The config with the store that the run is recorded in, where neither config nor environment name one. Raises UserError for one that
    only the run directory names."""
    uri, tracking = stored_in(run_dir), config["tracking"]
    if uri is None or tracking.get("uri", uri) is not None or "MLFLOW_TRACKING_URI" in os.environ:
        return config
    check_named(uri, str(RunDir(run_dir).store), "tracking.uri=")
    return {**config, "tracking": {**tracking, "uri": uri}}
