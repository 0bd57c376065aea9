"""Which MLflow stores a command takes out of a run directory, which may be anybody's: its own, and those in which this user's commands have
recorded runs on this machine. Any other has to be named on the command line, once."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from facenet.errors import UserError, shown
from facenet.files.atomic import replacing
from facenet.files.cache_dir import cache_dir
from facenet.files.typed import quoted
from facenet.privacy.addresses import masked_address
from facenet.tracking.sqlite_file import address_of
from facenet.tracking.store import sqlite_path, where

NAME = "stores.json"


def place() -> Path | None:
    folder = cache_dir()
    return None if folder is None else folder / NAME


def remember(uri: str) -> None:
    """Nothing where there is no cache, or it cannot be written."""
    address, known, path = masked_address(uri), remembered(), place()
    if path is None or address in known:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(sorted({*known, address}), indent=0) + "\n", encoding="utf-8")


def remembered() -> set[str]:
    path = place()
    with contextlib.suppress(OSError, ValueError):
        found = [] if path is None else json.loads(path.read_text(encoding="utf-8"))
        return {each for each in found if isinstance(each, str)} if isinstance(found, list) else set()
    return set()


def check_place(uri: str, location: str) -> None:
    """Raises UserError for the database that is found in the working directory where it would put the files of runs elsewhere than beside itself:
    it may be anybody's."""
    if uri == address_of(Path.cwd() / "mlflow.db") and not is_beside(uri, location):
        check_files(uri, location)


def check_files(uri: str, location: str) -> None:
    """Raises UserError for files of a run that are not where its store has its own, beside the database or with the server, unless this user's
    commands record there, or the environment names it: a store may be anybody's, and name any place to read from and to write to."""
    named = "MLFLOW_TRACKING_URI" in os.environ and uri == where()
    if named or masked_address(uri) in remembered() or is_beside(uri, location):
        return
    raise UserError(
        f"{shown(masked_address(uri))}: has the files of a run at {shown(masked_address(location))}, and no command of yours has recorded a "
        f"run in it here; if that is right, name it once: MLFLOW_TRACKING_URI={quoted(masked_address(uri))}"
    )


def is_beside(uri: str, location: str) -> bool:
    """Whether files lie in the folder of the database that is the store; those of a server, whose address was named, with that or in its cloud."""
    place, database = urlsplit(location), sqlite_path(uri)
    if database is None:
        return place.scheme not in ("", "file")
    inside = database.parent.resolve() in Path(unquote(place.path)).resolve().parents
    return place.scheme in ("", "file") and not place.netloc and inside


def check_named(named: object, origin: str, way: str) -> None:
    """Raises UserError for a store that only `origin`, a file of a run, names. `way` is how the command line names it."""
    if not isinstance(named, str) or masked_address(named) in {masked_address(where()), *remembered()}:
        return
    address = shown(masked_address(named))
    raise UserError(
        f"{shown(origin)}: names the store {address}, in which no command of yours has recorded a run here; "
        f"if it is the one you want, name it: {way}{address}"
    )
