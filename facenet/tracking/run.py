"""A run from the launcher's side. The launcher owns it, so that its state is true whatever happens to a rank."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from facenet.errors import UserError, printable, shown
from facenet.launch.signals import postpone
from facenet.privacy import addresses
from facenet.tracking import journal, process
from facenet.tracking.delivery import deliver
from facenet.tracking.facts import GONE_ON, LONGEST_TAG, RunFacts, describe, params, safe_name, shorten
from facenet.tracking.known import check_place, remember
from facenet.tracking.process import this_process
from facenet.tracking.sender import Sender
from facenet.tracking.store import Experiment, cause, mlflow_command, open_client, open_experiment, sqlite_path, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
CHANGED = "resumed_changed"  # the tag that says what is not as it was at the start
RUN_ID = "MLFLOW_RUN_ID"
WAY_OUT = "start it, set tracking.uri, or tracking=none"


@contextlib.contextmanager
def open_run(
    uri: str,
    experiment: Experiment,
    name: str,
    facts: RunFacts,
    run_id: str | None,
    outer: str | None = None,
    begun: str | None = None,
) -> Iterator[tuple[str, Path]]:
    """Id and journal of a new, described run, or of an earlier one that runs again; what comes into the journal is sent until the end, and
    at last how it ended. `outer`: a run that was begun elsewhere, to describe and go into. `begun`: one that ended before it
    came to anything, to take up if it is described as this one would be. Raises UserError when the store cannot be used."""
    if run_id is not None:
        check_there(uri, run_id)
    with contextlib.ExitStack() as stack:
        with usable(uri, WAY_OUT):
            client, experiment_id = open_experiment(uri, experiment)
            check_place(uri, client.get_experiment(experiment_id).artifact_location)
            if (
                run_id is None
                and outer is None
                and begun is not None
                and described_so(client, begun, experiment_id, facts)
            ):
                run_id = begun
            path = None if run_id is None else take_up(client, uri, run_id, facts)
            if outer is not None:
                run_id, path = outer, go_into(client, uri, outer, facts)
            with postpone():  # else a run could be marked as running that nobody ends
                if run_id is None or path is None:
                    run_id, path = new_run(client, experiment_id, uri, name, facts)
                    stack.enter_context(sent_until_its_end(uri, run_id, path))
                else:
                    stack.enter_context(sent_until_its_end(uri, run_id, path))
                    mark_running(client, run_id, facts)
            remember(uri)
        yield run_id, path


def check_there(uri: str, run_id: str) -> None:
    """Raises UserError where the database of an earlier run is not, which opening would make anew and empty."""
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise UserError(
            f"resume: the MLflow database {shown(str(database))} of run {run_id} is not there; name the place where it is now: "
            f"tracking.uri=sqlite:////PATH/{shown(database.name)}, or set tracking=none"
        )


def new_run(client: MlflowClient, experiment_id: str, uri: str, name: str, facts: RunFacts) -> tuple[str, Path]:
    tags = {key: shorten(value, LONGEST_TAG) for key, value in {**facts.tags, **whereabouts(facts)}.items()}
    run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    try:
        describe(client, run_id, facts)
        name_first(client, run_id, facts.select)
        return run_id, begin(run_id, uri, facts)
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise


def name_first(client: MlflowClient, run_id: str, select: str | None) -> None:
    """Has the selected metric of the best epoch be the first that MLflow knows of the run, since that is the axis of its compare page, and the last
    epoch's may rank runs otherwise: no number at step 0, which the first best epoch replaces."""
    from mlflow.entities import Metric

    if select is not None:
        client.log_batch(run_id, [Metric(safe_name(f"best/{select}"), math.nan, time.time_ns() // 1_000_000, 0)])


def described_so(client: MlflowClient, run_id: str, experiment_id: str, facts: RunFacts) -> bool:
    """Whether a run is there, not deleted, in this experiment and of the same config and params: those of MLflow's runs cannot be changed. Earlier
    versions' runs have more params."""
    with contextlib.suppress(Exception):  # of a store that does not know it
        run = client.get_run(run_id)
        there = run.info.lifecycle_stage == "active" and run.info.experiment_id == experiment_id
        there = there and run.info.status != "FINISHED"
        gone = not (process.of_this_host(run.data.tags) and process.alive(run.data.tags))
        own, same = params(facts), run.data.tags.get("config_hash") == facts.tags.get("config_hash")
        return there and gone and same and {name: run.data.params.get(name) for name in own} == own
    return False


def go_into(client: MlflowClient, uri: str, run_id: str, facts: RunFacts) -> Path:
    """The journal of a run that was begun elsewhere, which keeps its name and gets the description of this one."""
    path = take_up(client, uri, run_id, facts, origin=RUN_ID)
    before = client.get_run(run_id).data
    tags, own = before.tags, params(facts)
    if other := sorted(name for name, value in before.params.items() if own.get(name, value) != value):
        raise UserError(
            f"{RUN_ID}={run_id}: has other values of {len(other)} param(s), which MLflow never changes, first {shown(other[0])}="
            f"{shown(before.params[other[0]])} and here {shown(own[other[0]])}; unset {RUN_ID}, which begins a run of its own"
        )
    if process.of_this_host(tags) and process.alive(tags):
        raise UserError(f"{RUN_ID}={run_id}: process {tags['pid']} records in this run; wait for it, or unset {RUN_ID}")
    for key, value in facts.tags.items():
        if not key.startswith("mlflow."):
            client.set_tag(run_id, key, shorten(value, LONGEST_TAG))
    describe(client, run_id, facts)
    return path


def whereabouts(facts: RunFacts) -> dict[str, str]:
    return {**this_process(), "run_dir": str(facts.run_dir.absolute())}


def begin(run_id: str, uri: str, facts: RunFacts) -> Path:
    """Opens the run's journal, which names the store."""
    return journal.begin(facts.run_dir, run_id, addresses.masked_address(uri), facts.select, facts.hidden)


def take_up(client: MlflowClient, uri: str, run_id: str, facts: RunFacts, origin: str = "resume") -> Path:
    """The journal of an earlier run. What its process could not send is sent first."""
    try:
        info = client.get_run(run_id).info
    except Exception as error:
        if getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"{origin}: run {shown(run_id)} is not in MLflow at {addresses.masked_address(uri)}; set tracking.uri to its store, or tracking=none"
        ) from None
    if info.lifecycle_stage == "deleted":
        raise UserError(
            f"{origin}: run {shown(run_id)} was deleted in MLflow at {addresses.masked_address(uri)}; bring it back with: "
            f"{mlflow_command(uri)} runs restore --run-id {run_id}, or set tracking=none"
        )
    check_place(uri, info.artifact_uri)
    path = begin(run_id, uri, facts)
    deliver(client, path)
    return path


def mark_running(client: MlflowClient, run_id: str, facts: RunFacts) -> None:
    """Params stay those of the start; what is CHANGED is told once a checkpoint holds it."""
    client.update_run(run_id, status="RUNNING")
    before = client.get_run(run_id).data.tags
    told = {**whereabouts(facts), "resumed": str(times(before.get("resumed", "")) + 1)}
    told |= {name: value for name, value in facts.tags.items() if name == GONE_ON}
    for name, value in told.items():
        client.set_tag(run_id, name, shorten(value, LONGEST_TAG))
    for name in {"error", "reaped"} & before.keys():
        client.delete_tag(run_id, name)


def times(text: str) -> int:
    """How often a run was resumed; 0 where its tag, which anybody may set, is no number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@contextlib.contextmanager
def sent_until_its_end(uri: str, run_id: str, path: Path) -> Iterator[None]:
    """Sends what comes into the journal, and at last how it ended: FINISHED, FAILED on an exception, KILLED on Ctrl-C and stop signals."""
    sender = Sender(uri, path)
    state, reason = "FAILED", ""
    try:
        yield
        state = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        state = "KILLED"
        raise
    except Exception as error:
        reason = printable(addresses.mask(str(error)))[-5000:]
        raise
    finally:
        with postpone():
            noted = note_end(path, state, reason)
            sender.close()
            if not noted or sender.full:
                end_without_journal(uri, run_id, state, reason)


def note_end(path: Path, state: str, reason: str) -> bool:
    """Whether the disk took it."""
    try:
        with contextlib.closing(journal.Journal(path)) as written:
            written.add(end=state, error=reason)
    except (OSError, UserError) as error:
        log.error("the end of the run is not in its journal: %s", error)
        return False
    return True


def end_without_journal(uri: str, run_id: str, state: str, reason: str) -> None:
    try:
        client = open_client(uri)
        client.set_tag(run_id, "error", reason)
        client.set_terminated(run_id, state)
    except Exception as error:  # MlflowException, OSError, or whatever the database's driver raises
        log.error(
            "MLflow at %s does not know the end of run %s (%s)",
            addresses.masked_address(uri),
            run_id,
            cause(error, uri),
        )
