"""What `tracking=` chooses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facenet.addresses import masked_address
from facenet.tracking.facts import RunFacts
from facenet.tracking.run import open_run
from facenet.tracking.store import cause, open_client, page, where
from facenet.tracking.system import sampled
from facenet.tracking.tracker import JournalTracker, NullTracker, Tracker

log = logging.getLogger(__name__)
Network = Callable[[], tuple[Any, Any]]  # makes a torch module and an input for it


@dataclass(frozen=True, kw_only=True)
class NoTracking:
    """`tracking=none`: curves, checkpoints and logs still go to the run directory. `dllogger` writes the vendor's log as well."""

    dllogger: bool = False

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None) -> Iterator[str | None]:
        yield None

    def tracker(self, run_id: str | None, run_dir: Path) -> Tracker:
        return NullTracker()

    def view(self, run_id: str | None) -> str | None:
        return None

    def register_best(self, run_id: str | None, network: Network) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class MlflowTracking:
    """`uri: null` means MLFLOW_TRACKING_URI, or `mlflow.db` in the directory the command was started in. `register`: name under which
    the best network of a finished run goes to the model registry."""

    uri: str | None = None
    experiment: str = "facenet"
    run_name: str | None = None
    system_metrics: bool = True
    register: str | None = None
    dllogger: bool = False

    def where(self) -> str:
        return where(self.uri)

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None) -> Iterator[str]:
        """The id of a new MLflow run, or the one given, that ends FINISHED, FAILED on an exception, or KILLED on Ctrl-C and stop
        signals. Raises UserError when the store cannot be used."""
        uri = self.where()
        opened = open_run(uri, self.experiment, self.run_name or facts.name, facts, run_id)
        with opened as (run_id, path), self.sampled(path, run_id, uri):
            yield run_id

    def sampled(self, path: Path, run_id: str, uri: str) -> contextlib.AbstractContextManager[None]:
        return sampled(path, run_id, uri) if self.system_metrics else contextlib.nullcontext()

    def tracker(self, run_id: str | None, run_dir: Path) -> Tracker:
        """For rank 0, while `run` is open in this or the launching process."""
        return NullTracker() if run_id is None else JournalTracker(run_dir)

    def view(self, run_id: str | None) -> str | None:
        """How to look at the run: a command that opens the UI, or the server's own page."""
        if run_id is None:
            return None
        uri = self.where()
        try:
            experiment_id = open_client(uri).get_run(run_id).info.experiment_id
        except Exception:  # gone since the run began; what it trained is on the disk
            return f"run {run_id} at {masked_address(uri)}, which does not answer now"
        return page(uri, f"#/experiments/{experiment_id}/runs/{run_id}")

    def register_best(self, run_id: str | None, network: Network) -> None:
        """Inside `run`, once it has gone well. A failure is told and costs the registration, not the run."""
        if self.register is None or run_id is None:
            return
        from facenet.tracking.model import ALIAS, register

        try:
            version = register(self.where(), run_id, self.register, *network())
        except Exception as error:  # of the store, or of torch.export for a network that it cannot trace
            log.warning(
                "tracking.register=%s: the network was not registered (%s)", self.register, cause(error, self.where())
            )
        else:
            log.info("registered as models:/%s/%s, alias %s", self.register, version, ALIAS)
