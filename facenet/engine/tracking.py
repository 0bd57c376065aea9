"""Runs in MLflow. The launcher owns the run (its state is true whatever happens to a rank); rank 0 adds metrics and artifacts.

The only importer of mlflow, and only when a run is tracked: `tracking=none` and ranks above 0 never load it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from facenet.engine.dllogger import VendorLog
from facenet.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

LONGEST_PARAM = 6000  # MLflow cuts longer values without a word
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first step."""

    name: str
    config: dict[str, Any]
    config_yaml: str
    plan: dict[str, Any]
    tags: dict[str, str]
    datasets: dict[str, tuple[str, str, str]]  # context -> (name, source, fingerprint)


class Tracker(Protocol):
    """Where rank 0 writes. Steps are optimizer steps since the start of the run."""

    def metrics(self, values: dict[str, float], *, step: int) -> None: ...
    def artifact(self, path: Path, folder: str = "") -> None: ...
    def tag(self, name: str, value: str) -> None: ...
    def close(self) -> None: ...


class NullTracker:
    """Writes nothing: ranks above 0, and `tracking=none`."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        pass

    def artifact(self, path: Path, folder: str = "") -> None:
        pass

    def tag(self, name: str, value: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """`dllogger` writes the vendor's log beside whatever else is recorded."""

    dllogger: bool = False

    @contextlib.contextmanager
    def vendor_log(self, run_dir: Path, rank: int) -> Iterator[VendorLog | None]:
        """The log of one process, `dllogger-<rank>.json` in the run directory; None where none is asked for."""
        if not self.dllogger:
            yield None
            return
        with contextlib.closing(VendorLog(run_dir / f"dllogger-{rank}.json", rank)) as log_file:
            yield log_file


@dataclass(frozen=True, kw_only=True)
class NoTracking(Tracking):
    """`tracking=none`: curves, checkpoints and logs still go to the run directory."""

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None) -> Iterator[str | None]:
        yield None

    def tracker(self, run_id: str | None) -> Tracker:
        return NullTracker()

    def view(self, run_id: str | None) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class MlflowTracking(Tracking):
    """`uri: null` means MLFLOW_TRACKING_URI, or `mlflow.db` in the directory the command was started in."""

    uri: str | None = None
    experiment: str = "facenet"
    run_name: str | None = None

    def where(self) -> str:
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None) -> Iterator[str]:
        """The id of a new MLflow run that ends FINISHED, FAILED on an exception, or KILLED on Ctrl-C and stop signals.

        Raises UserError when the store cannot be reached.
        """
        client, experiment_id = self.connect()
        resumed = run_id is not None
        if run_id is None:
            run = client.create_run(experiment_id, run_name=self.run_name or facts.name, tags=facts.tags)
            run_id = str(run.info.run_id)
        else:
            client.update_run(run_id, status="RUNNING")
        status, reason = "FAILED", ""
        try:
            if not resumed:
                describe(client, run_id, facts)
            yield run_id
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except Exception as error:
            reason = str(error)[-5000:]
            raise
        finally:
            end(client, run_id, status, reason)

    def tracker(self, run_id: str | None) -> Tracker:
        return NullTracker() if run_id is None else MlflowTracker(self.where(), run_id)

    def connect(self) -> tuple[MlflowClient, str]:
        uri = self.where()
        database = sqlite_path(uri)
        try:
            with locked(database):
                client = open_client(uri)
                found = client.get_experiment_by_name(self.experiment)
                if found is not None:
                    return client, str(found.experiment_id)
                location = (
                    None if database is None else (database.parent / "mlartifacts" / slug(self.experiment)).as_uri()
                )
                return client, str(client.create_experiment(self.experiment, artifact_location=location))
        except Exception as error:  # MlflowException, OSError, or whatever the database's driver raises
            raise UserError(
                f"tracking: MLflow at {masked(uri)} cannot be used ({cause(error)}); start it, set tracking.uri, or tracking=none"
            ) from None

    def view(self, run_id: str | None) -> str | None:
        """How to look at the run: a command that opens the UI, or the server's own page."""
        if run_id is None:
            return None
        uri = self.where()
        from mlflow import MlflowClient

        try:
            experiment_id = MlflowClient(tracking_uri=uri).get_run(run_id).info.experiment_id
        except Exception:  # gone since the run began; what it trained is on the disk
            return f"run {run_id} at {masked(uri)}, which does not answer now"
        page = f"#/experiments/{experiment_id}/runs/{run_id}"
        if uri.startswith(("http:", "https:")):
            return f"{masked(uri).rstrip('/')}/{page}"
        command = f"mlflow server --backend-store-uri '{masked(uri)}' --host 127.0.0.1 --port 5000 --workers 1"
        return f"{command}\n    then open http://127.0.0.1:5000/{page}"


class MlflowTracker:
    """Metrics are sent in batches by one background thread: a call on SQLite takes 24 ms, now and then seconds."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.client = open_client(uri)
        self.run_id = run_id
        self.pending: list[Future[None]] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(safe_name(name), float(value), now, step) for name, value in values.items()]
        for start in range(0, len(batch), METRICS_PER_BATCH):
            self.submit(self.client.log_batch, self.run_id, batch[start : start + METRICS_PER_BATCH])

    def artifact(self, path: Path, folder: str = "") -> None:
        self.submit(self.client.log_artifact, self.run_id, str(path), folder or None)

    def tag(self, name: str, value: str) -> None:
        self.submit(self.client.set_tag, self.run_id, safe_name(name), value)

    def submit(self, call: Any, *arguments: Any) -> None:
        self.pending = [future for future in self.pending if not self.report(future)]
        self.pending.append(self.thread.submit(call, *arguments))

    def report(self, future: Future[None]) -> bool:
        """Whether it is done; a store that fails in mid-run costs its metrics, said aloud, and not the training."""
        if not future.done():
            return False
        if (error := future.exception()) is not None:
            log.warning("MLflow did not take a record of run %s: %s", self.run_id, masked(first_line(error)))
        return True

    def close(self) -> None:
        self.thread.shutdown(wait=True)
        self.pending = [future for future in self.pending if not self.report(future)]


def metric_history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) in the order of writing. Raises UserError where there is no such store, run or metric."""
    database = sqlite_path(uri)
    if database is not None and not database.is_file():  # asking would create it
        raise UserError(f"run {run_id}: no MLflow database {database}; set --uri or MLFLOW_TRACKING_URI")
    try:
        client = open_client(uri)
        metrics = client.get_run(run_id).data.metrics
        history = client.get_metric_history(run_id, name)
    except Exception as error:
        raise UserError(f"run {run_id}: MLflow at {masked(uri)} does not give it ({cause(error)})") from None
    if not history:
        raise UserError(f"run {run_id}: no metric {name} in it; it has {', '.join(sorted(metrics)) or 'none'}")
    return [(point.step, point.value) for point in sorted(history, key=lambda point: (point.timestamp, point.step))]


def open_client(uri: str) -> MlflowClient:
    # Seven retries with growing pauses would hide a server that is not there for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    quiet_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def describe(client: MlflowClient, run_id: str, facts: RunFacts) -> None:
    """Params, config, plan and datasets of a run, so that it can be repeated from its page."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag, Param

    flat = {**flatten(facts.config), **{f"plan.{key}": value for key, value in facts.plan.items()}}
    params = [Param(safe_name(key)[:250], shortened(value)) for key, value in flat.items()]
    for start in range(0, len(params), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])
    client.log_text(run_id, facts.config_yaml, "config/resolved.yaml")
    client.log_dict(run_id, facts.plan, "config/plan.json")
    inputs = []
    for context, (name, source, fingerprint) in facts.datasets.items():
        dataset = MetaDataset(CodeDatasetSource({"source": source}), name=name, digest=fingerprint[:36])
        inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", context)]))
    client.log_inputs(run_id, datasets=inputs)


def end(client: MlflowClient, run_id: str, status: str, reason: str) -> None:
    """Closes a run. A store that went away costs the run's state there, said aloud, and not what was trained."""
    try:
        if reason:
            client.set_tag(run_id, "error", reason)
        client.set_terminated(run_id, status)
    except Exception as error:
        log.warning("MLflow did not take the end (%s) of run %s: %s", status, run_id, masked(first_line(error)))


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}: MLflow compares and plots single values."""
    if isinstance(node, dict):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return {path: node}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(flatten(value, f"{path}.{key}" if path else key))
    return flat


def shortened(value: Any) -> str:
    text = str(value)
    if len(text) <= LONGEST_PARAM:
        return text
    return f"{text[:200]}... sha256 {hashlib.sha256(text.encode()).hexdigest()}, whole in config/resolved.yaml"


def safe_name(name: str) -> str:
    """MLflow refuses other characters than these in the names of metrics and params."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-.]", "_", name)


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def locked(database: Path | None) -> Iterator[None]:
    """Only one process creates the tables: of 12 that did so at once, all 12 failed."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def cause(error: BaseException) -> str:
    """Why a store was of no use, in a few words without a password."""
    told = first_line(error)
    return "it does not answer" if "failed with exception" in told else masked(told)


def masked(text: str) -> str:
    """Without the password of an URI."""
    return re.sub(r"(://[^/\s:@]*):[^/\s@]*@", r"\1:***@", text)


def quiet_mlflow() -> None:
    """Its schema migrations write a page of INFO lines, its retries a page of warnings."""
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries; what they end in is reported


def store_state(uri: str) -> str:
    """What a run would meet at the store, which is read or asked and never made. Raises UserError when a run could not use it."""
    database = sqlite_path(uri)
    try:
        if database is None:
            if uri.startswith("file:") or "://" not in uri:
                raise OSError("a folder, which newer MLflow refuses")
            if uri.startswith(("postgresql", "mysql", "mssql")):
                import sqlalchemy  # MLflow brings it

                with sqlalchemy.create_engine(uri).connect():
                    return "the database answers"
            open_client(uri).search_experiments(max_results=1)
            return "the server answers"
        if not database.is_file():
            folder = next(folder for folder in database.parents if folder.is_dir())
            if not os.access(folder, os.W_OK):
                raise OSError(f"{folder} cannot be written")
            return "absent; the first run creates it"
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall():
                return "empty; the first run creates its tables"
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            return f"{count:,} runs"
    except Exception as error:  # MlflowException, OSError, or whatever the database's driver raises
        raise UserError(
            f"tracking: MLflow at {masked(uri)} cannot be used ({cause(error)}); start it, set MLFLOW_TRACKING_URI, or tracking=none"
        ) from None
