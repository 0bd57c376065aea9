"""What `tracking=` chooses."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from facenet.errors import UserError, shown
from facenet.files.atomic import is_full
from facenet.files.run_dir import RunDir
from facenet.privacy.addresses import masked_address
from facenet.tracking.facts import RunFacts
from facenet.tracking.journal import begin, is_alone
from facenet.tracking.run import RUN_ID, open_run
from facenet.tracking.store import Experiment, cause, open_client, page, pages, where
from facenet.tracking.system import sampled
from facenet.tracking.tensorboard import check_writer
from facenet.tracking.tracker import JournalTracker, NullTracker, Tracker
from facenet.tracking.views import beside_others, share

if TYPE_CHECKING:
    from facenet.tracking.model import Best

log = logging.getLogger(__name__)
# MLflow's variables; the command line and presets come first.
EXPERIMENT_NAME, EXPERIMENT_ID, RUN_NAME = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_NAME"
PARENT = "mlflow.parentRunId"  # the tag


def in_sweep(facts: RunFacts) -> bool:
    return "sweep_id" in facts.tags


@dataclass(frozen=True, kw_only=True)
class NoTracking:
    """`tracking=none`: metrics, curves, checkpoints and logs still go to the run directory. `tensorboard` and `dllogger` write theirs as well."""

    tensorboard: bool = False
    dllogger: bool = False

    def __post_init__(self) -> None:
        check_writer(self.tensorboard)

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None, begun: str | None = None) -> Iterator[str | None]:
        """None: no run is recorded. The directory gets a journal, unless one of a run in MLflow is there."""
        path = RunDir(facts.run_dir).journal
        if not path.exists() or is_alone(path):
            begin(facts.run_dir, None, None, facts.select)
        yield None

    def said(self) -> str:
        """What the plan says of the store: none."""
        return "none"

    def tracker(self, run_id: str | None, run_dir: Path) -> Tracker:
        """For rank 0, while `run` is open; one that records nothing where the journal is that of a run in MLflow."""
        return JournalTracker(run_dir) if is_alone(RunDir(run_dir).journal) else NullTracker()

    def view(self, run_id: str | None) -> str | None:
        """None: there is nothing to look at."""
        return None

    def keep_model(
        self, run_id: str | None, best: Callable[[], Best], rivals: Collection[str] = (), again: str = ""
    ) -> None:
        """Nothing: there is no run to keep it in."""


@dataclass(frozen=True, kw_only=True)
class MlflowTracking:
    """Records runs in MLflow. `uri: null` means MLFLOW_TRACKING_URI, or `mlflow.db` in the directory the command was started in. `experiment`,
    `run_name`: null means MLFLOW_EXPERIMENT_NAME (or _ID) and MLFLOW_RUN_NAME. MLFLOW_RUN_ID is a run begun elsewhere, which this one goes into,
    or under which the jobs of a sweep stand. `every_metric`: also those that few compare, which are always in `metrics.jsonl`. `model`: whether the
    best network of a finished run, and in a sweep the winner's, is in its run; null: of runs that are no trials. `register`: its name in the model
    registry. `system_metrics`: the load of the machine too. `upload_faces`: pictures of faces may go to a store on another machine. `tensorboard`,
    `dllogger`: what TensorBoard reads, and the vendor's log, as well."""

    uri: str | None = None
    experiment: str | None = None
    run_name: str | None = None
    system_metrics: bool = True
    every_metric: bool = False
    model: bool | None = None
    register: str | None = None
    upload_faces: bool = False
    tensorboard: bool = False
    dllogger: bool = False

    def __post_init__(self) -> None:
        check_writer(self.tensorboard)
        if self.register is not None and (not re.fullmatch(r"[^/:]+", self.register) or self.register in (".", "..")):
            raise UserError(
                f"tracking.register: a name without / and : is expected, and not . or .., got {shown(self.register)!r}"
            )

    def where(self) -> str:
        """The address of the store: `uri`, else MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory."""
        return where(self.uri)

    @contextlib.contextmanager
    def run(self, facts: RunFacts, run_id: str | None = None, begun: str | None = None) -> Iterator[str]:
        """The id of a new MLflow run, of the one given, or of the one `begun` for the same training, that ends FINISHED, FAILED on an exception, or
        KILLED on Ctrl-C and stop signals. Raises UserError when the store cannot be used."""
        uri, outer = self.where(), os.environ.get(RUN_ID) or None if run_id is None else None
        facts = replace(facts, select=None, unresolved=()) if self.every_metric else facts
        if outer and in_sweep(facts):
            facts, outer = replace(facts, tags={**facts.tags, PARENT: outer}), None
        opened = open_run(uri, self.chosen_experiment(), self.chosen_name(facts), facts, run_id, outer, begun)
        with opened as (run_id, path), self.sampled(path, run_id, uri):
            yield run_id

    def chosen_experiment(self) -> Experiment:
        """The experiment, and which variable of the environment named it, if one did."""
        if self.experiment:
            return Experiment(self.experiment)
        name, number = (os.environ.get(variable) for variable in (EXPERIMENT_NAME, EXPERIMENT_ID))
        if number and not name:
            return Experiment(number, by_id=True, origin=EXPERIMENT_ID)
        return Experiment(name, origin=EXPERIMENT_NAME) if name else Experiment("facenet")

    def chosen_name(self, facts: RunFacts) -> str:
        """The name of the run: `run_name`, else MLFLOW_RUN_NAME, else the values given on the command line."""
        named = self.run_name or os.environ.get(RUN_NAME)
        if named and not self.run_name and in_sweep(facts):  # one name for many
            return f"{named}: {facts.name}"
        return named or facts.name

    def said(self) -> str:
        """For the plan: where the run is recorded, and what of it the environment says."""
        chosen = self.chosen_experiment()
        said = [f"experiment {shown(chosen.name)}" + (f" ({chosen.origin})" if chosen.origin else "")]
        if not self.run_name and (name := os.environ.get(RUN_NAME)):
            said.append(f"run {shown(name)} ({RUN_NAME})")
        if run_id := os.environ.get(RUN_ID):
            said.append(f"into run {shown(run_id)}, whatever its experiment; jobs of a sweep under it ({RUN_ID})")
        return ", ".join([masked_address(self.where()), *said])

    def sampled(self, path: Path, run_id: str, uri: str) -> contextlib.AbstractContextManager[None]:
        """A context in which the load of the machine is recorded every 10 s; one that does nothing without `system_metrics`."""
        return sampled(path, run_id, uri) if self.system_metrics else contextlib.nullcontext()

    def tracker(self, run_id: str | None, run_dir: Path) -> Tracker:
        """What rank 0 writes metrics and files of this run to, while `run` is open in this or the launching process; they go to the run's directory
        first."""
        return NullTracker() if run_id is None else JournalTracker(run_dir, upload_faces=self.upload_faces)

    def view(self, run_id: str | None) -> str | None:
        """How to look at the run: a command that opens the UI, or the server's own page; None without a run."""
        if run_id is None:
            return None
        uri = self.where()
        try:
            run = open_client(uri).get_run(run_id)
            path, select = f"#/experiments/{run.info.experiment_id}/runs/{run_id}", run.data.params.get("plan.select")
            if select is None:  # of a test
                return page(uri, path)
            table = share(uri, run.info.experiment_id, beside_others(run.data.tags, select))
        except Exception:  # gone since the run began; what it trained is on the disk
            return f"run {run_id} at {masked_address(uri)}, which does not answer now"
        return pages(uri, {"the run": path, "beside others": table})

    def keep_model(
        self, run_id: str | None, best: Callable[[], Best], rivals: Collection[str] = (), again: str = ""
    ) -> None:
        """Of a run that has ended well, adds its best network to it as MLflow's logged model, in place of that of its `rivals`, other runs, and
        registers it where that is asked for. A failure is told and costs the model alone. `again`: the command that does it later."""
        if run_id is None or (self.model is False and self.register is None):
            return
        from facenet.tracking.model import ALIAS, TRIAL, keep, register

        uri = self.where()
        try:
            network = best()
            if self.model is None and self.register is None and network.total_steps < TRIAL:
                return
            client = open_client(uri)
            kept = keep(client, run_id, network, rivals)
            log.info("the best network is in its run: %s (off: tracking.model=false)", kept)
            if self.register is not None:
                version = register(client, uri, kept.model_id, self.register)
                log.info("registered as models:/%s/%s, alias %s", self.register, version, ALIAS)
        except Exception as error:  # of the store, or of torch.export for a network that it cannot trace
            asked, what = (
                ("model=true", "in its run") if self.register is None else (f"register={self.register}", "registered")
            )
            way = f"; free space{elsewhere(error)}, then: {again}" if is_full(error) else ""
            log.warning("tracking.%s: the network was not %s (%s)%s", asked, what, cause(error, uri), way)


def elsewhere(error: BaseException) -> str:
    return " or set TMPDIR" if getattr(error, "filename", None) == tempfile.gettempdir() else ""
