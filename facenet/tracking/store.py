"""The MLflow store: where it is, its first use, its errors in a few words, and never a password in any of them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from facenet.errors import UserError, shown
from facenet.files.atomic import own
from facenet.files.typed import quoted
from facenet.privacy.addresses import HIDDEN, masked_address, masked_in, restored_address
from facenet.privacy.logs import guard_logs
from facenet.tracking.sqlite_file import absolute, address_of, file_of, no_other_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
FIRST_PORT = 5000  # of mlflow server
ANSWERS_S = 0.5  # in which one on this machine does
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
ABOUT = """Face embeddings, trained by facenet.

Each run is named by what differs from the others, and its description says what came of it and what to type next. The command that began it is its
tag `command`, all settings are in `config/everything.json`. `best/...` belongs to the epoch of the best checkpoint; `interval...` tags are 95 %
intervals. `facenet-report SWEEP_ID` ranks a sweep and says what is more than chance."""
TRAINING = (
    "workflowType=machine_learning"  # which menu MLflow's pages have: that of training, and not of language models
)
LONGEST_SLUG = 150
FILES = "mlartifacts"  # beside a database, for the files of its runs
PLACES = (  # in a database, where MLflow has them as absolute paths
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def where(uri: str | None = None, key: str = "tracking.uri") -> str:
    """The address given, else MLFLOW_TRACKING_URI, else `mlflow.db` in this directory, with its whole path. Raises UserError, which names the
    `key` that gave it, for one that is known without its secret alone."""
    named = restored_address(uri, key) if uri else os.environ.get("MLFLOW_TRACKING_URI")
    if named and named.startswith("sqlite") and file_of(named) is None:
        raise UserError(
            f"{key}: {shown(masked_address(named))} names no file, so nothing of it would last; write sqlite:////PATH/mlflow.db"
        )
    return absolute(named) if named else address_of(Path.cwd() / "mlflow.db")


def open_client(uri: str) -> MlflowClient:
    # Seven retries with growing pauses would hide a server that is not there for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at the end of a run, passwords and all
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of a single small file
    quiet_mlflow()
    from mlflow import MlflowClient

    guard_logs("mlflow")  # which has a handler of its own
    with no_other_folder(uri):
        return MlflowClient(tracking_uri=uri)


@dataclass(frozen=True)
class Experiment:
    """An experiment by its name, or its id; `origin` is the variable that says so, empty for the config."""

    name: str
    by_id: bool = False
    origin: str = ""


def open_experiment(uri: str, experiment: Experiment | str) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment, which is made if there is none of this name."""
    experiment = Experiment(experiment) if isinstance(experiment, str) else experiment
    name, said_by = experiment.name, experiment.origin or "tracking.experiment"
    database = sqlite_path(uri)
    with locked(database):
        follow_move(database)
        client = open_client(uri)
        found = found_by_id(client, experiment) if experiment.by_id else client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise deleted(f"{said_by}={shown(name)}", uri, found.experiment_id)
        if found is not None:
            return client, str(found.experiment_id)
        location = None if database is None else (database.parent / FILES / slug(name)).as_uri()
        return client, str(client.create_experiment(name, artifact_location=location, tags={NOTE: ABOUT}))


def deleted(named: str, uri: str, experiment_id: object) -> UserError:
    return UserError(
        f"{named}: was deleted in MLflow at {masked_address(uri)}; bring it back with: "
        f"{mlflow_command(uri)} experiments restore --experiment-id {experiment_id}, or set tracking.experiment to another name"
    )


def found_by_id(client: MlflowClient, experiment: Experiment) -> Any:
    try:
        return client.get_experiment(experiment.name)
    except Exception as error:
        if getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"{experiment.origin}={shown(experiment.name)}: MLflow has no experiment of this id; correct it, or unset it"
        ) from None


def quiet_mlflow() -> None:
    """Silences MLflow: its schema migrations write a page of INFO lines, its retries a page of warnings, and each try at a full database a
    traceback."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # it raises what it logs, and that is reported
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries; what they end in is reported


def slug(name: str) -> str:
    """A name as that of a file, of an address or of a key of MLflow's: one too long, or of dots alone, is told by its hash."""
    plain = re.sub(r"[^A-Za-z0-9_\-.]", "_", name)
    if len(plain) <= LONGEST_SLUG and plain.strip("."):
        return plain
    return f"{plain[: LONGEST_SLUG - 20].strip('.')}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def sqlite_path(uri: str) -> Path | None:
    return file_of(uri)


def mlflow_command(uri: str) -> str:
    return f"MLFLOW_TRACKING_URI={quoted(masked_address(uri))} mlflow"


def follow_move(database: Path | None) -> None:
    """Tells a database that was moved, with the files beside it, where these are now. MLflow knows them by absolute paths and would make the old
    folder anew. Files that are still at their old place stay what they are."""
    if database is None or not database.is_file():
        return
    here = (database.parent / FILES).as_uri()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as connection, connection:
        places = [str(place) for (place,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments")]
        roots = {place.rpartition(f"/{FILES}/")[0] + f"/{FILES}" for place in places if f"/{FILES}/" in place}
        for old in roots - {here}:
            if old.startswith("file:///") and not Path(unquote(urlsplit(old).path)).exists():
                for table, column in PLACES:
                    change_places(connection, table, column, old, here)
                log.warning(
                    "%s was moved: the files of its runs are looked for in %s", shown(str(database)), shown(here)
                )


def change_places(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    with contextlib.suppress(sqlite3.OperationalError):  # a table or column that this version of MLflow does not have
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )


@contextlib.contextmanager
def locked(database: Path | None) -> Iterator[None]:
    """Lets only one process create the tables: of 12 that did so at once, all 12 failed."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(database.name + ".lock"), "w", opener=own) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def usable(uri: str, way_out: str) -> Iterator[None]:
    """Whatever the store raises becomes a UserError of one line without a password."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MlflowException, OSError, or whatever the database's driver raises
        raise UserError(
            f"tracking: MLflow at {masked_address(uri)} cannot be used ({cause(error, uri)}); {way_out}"
        ) from None


def first_line(error: BaseException, uri: str = "") -> str:
    """Returns the first line of what the store at an address said, without a secret of that or of others."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return shown(masked_in(lines[0], uri))


def cause(error: BaseException, uri: str) -> str:
    """Why a store was of no use, in a few words without a password."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "its certificate is not known here; REQUESTS_CA_BUNDLE=FILE names that of the authority"
    if "error code 401" in str(error):
        return "it does not know this account; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say who you are"
    if "error code 403" in str(error):
        return "it does not allow this account to do that"
    return "it does not answer" if "failed with exception" in str(error).partition("\n")[0] else first_line(error, uri)


def page(uri: str, path: str) -> str:
    """How to open a page of MLflow's: its address, or for a database also the command that serves it."""
    command, root = served(uri)
    return f"{command}\n    then open {address(root, path)}" if command else address(root, path)


def pages(uri: str, paths: dict[str, str]) -> str:
    """How to open several, by their names."""
    command, root = served(uri)
    width = max(map(len, paths))
    head = f"{command}\n    then open" if command else ""
    return "\n".join([head, *(f"    {name:<{width}}  {address(root, path)}" for name, path in paths.items())])


def address(root: str, path: str) -> str:
    """Of one of MLflow's pages, with the menu for training."""
    return f"{root}/{path}{'&' if '?' in path else '?'}{TRAINING}"


def served(uri: str) -> tuple[str, str]:
    """The command that serves a database, empty where a server of this user's already does, and the address of MLflow's pages."""
    if uri.startswith(("http:", "https:")):
        return "", masked_address(uri).replace(f"//{HIDDEN}@", "//").rstrip("/")  # who opens it says who they are
    if (running := address_of_server(uri)) is not None:
        return "", running
    port = free_port()
    command = (
        f"mlflow server --backend-store-uri {quoted(masked_address(uri))} --host 127.0.0.1 --port {port} --workers 1"
    )
    return command, f"http://127.0.0.1:{port}"


def address_of_server(uri: str) -> str | None:
    """Where an `mlflow server` of this user's serves a database, by the words that it was begun with (Linux): one of another machine or container may
    be begun by the same, so that it has to answer here."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if not {"server", "ui"} & set(words) or process.stat().st_uid != os.getuid():
                continue
            split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
            said = {word: following for word, following in itertools.pairwise(split) if word.startswith("-")}
            if same_store(said.get("--backend-store-uri", ""), uri, (process / "cwd").readlink()):
                port = int(said.get("--port") or said.get("-p") or FIRST_PORT)
                host = said.get("--host") or said.get("-h") or "127.0.0.1"
                host = host if host.strip("0.:") else "127.0.0.1"  # all of this machine's addresses
                with socket.create_connection((host, port), ANSWERS_S):
                    secure = "s" if "--ssl-certfile" in said.get("--uvicorn-opts", "") else ""
                    return f"http{secure}://{host}:{port}{said.get('--static-prefix', '')}"
    return None


def same_store(said: str, uri: str, folder: Path) -> bool:
    """Whether an address, said in this folder, is that of the store at `uri`."""
    name = said.removeprefix("sqlite:///")
    return said == uri or (name != said and folder / name == sqlite_path(uri))


def free_port() -> int:
    """MLflow's own, or one of the next where that is taken now, by the server of another database or by anybody."""
    for port in range(FIRST_PORT, FIRST_PORT + 20):
        with socket.socket() as tried:
            # As the server will, where the last one has just ended.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", port))
                return port
    return FIRST_PORT


def store_state(uri: str, experiment: str = "") -> str:
    """Returns what a run in this experiment would meet at the store, which is read or asked and never made. Raises UserError when a run could not use
    it."""
    with usable(uri, "start it, set MLFLOW_TRACKING_URI, or tracking=none"):
        database = sqlite_path(uri)
        return remote_state(uri, experiment) if database is None else file_state(database, uri, experiment)


def remote_state(uri: str, experiment: str) -> str:
    if uri.startswith("file:") or "://" not in uri:
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise OSError("a folder, which newer MLflow refuses without MLFLOW_ALLOW_FILE_STORE=true")
        return "a folder of runs"
    if uri.startswith(("postgresql", "mysql", "mssql")):
        import sqlalchemy

        with sqlalchemy.create_engine(uri).connect():
            return "the database answers"
    found = open_client(uri).get_experiment_by_name(experiment or "Default")
    if experiment and found is not None and found.lifecycle_stage == "deleted":
        raise deleted(f"tracking.experiment={shown(experiment)}", uri, found.experiment_id)
    return "the server answers"


def file_state(database: Path, uri: str, experiment: str) -> str:
    if not database.is_file():
        folder = next(folder for folder in database.parents if folder.is_dir())
        if not os.access(folder, os.W_OK):
            raise OSError(f"{folder} cannot be written")
        return "absent; the first run creates it"
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall():
            return "empty; the first run creates its tables"
        gone = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
        for (experiment_id,) in connection.execute(gone, (experiment,)) if experiment else ():
            raise deleted(f"tracking.experiment={shown(experiment)}", uri, experiment_id)
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        return f"{count:,} runs"
