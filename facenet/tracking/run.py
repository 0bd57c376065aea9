"""A run from the launcher's side. The launcher owns it, so that its state is true whatever happens to a rank."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from facenet.errors import UserError
from facenet.tracking import journal
from facenet.tracking.delivery import deliver
from facenet.tracking.facts import LONGEST_TAG, RunFacts, describe, shortened
from facenet.tracking.process import this_process
from facenet.tracking.sender import Sender
from facenet.tracking.store import masked, open_experiment, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

WAY_OUT = "start it, set tracking.uri, or tracking=none"


def open_run(uri: str, experiment: str, name: str, facts: RunFacts, run_id: str | None) -> tuple[str, Path]:
    """Id and journal of a new, described run, or of an earlier one that runs again. Raises UserError when the store cannot be used."""
    with usable(uri, WAY_OUT):
        client, experiment_id = open_experiment(uri, experiment)
        if run_id is not None:
            return run_id, reopen(client, uri, run_id, facts)
        tags = {key: shortened(value, LONGEST_TAG) for key, value in {**facts.tags, **whereabouts(facts)}.items()}
        run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
        try:
            describe(client, run_id, facts)
            return run_id, begin(facts.run_dir, run_id, uri)
        except BaseException:
            with contextlib.suppress(Exception):
                client.set_terminated(run_id, "FAILED")
            raise


def whereabouts(facts: RunFacts) -> dict[str, str]:
    return {**this_process(), "run_dir": str(facts.run_dir.absolute())}


def begin(run_dir: Path, run_id: str, uri: str) -> Path:
    """Its journal, which names the store if it may be shown to others."""
    return journal.begin(run_dir, run_id, uri if masked(uri) == uri else None)


def reopen(client: MlflowClient, uri: str, run_id: str, facts: RunFacts) -> Path:
    """The run's journal. Params stay those of the start; what the earlier process could not send is sent first."""
    try:
        client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"resume: run {run_id} is not in MLflow at {masked(uri)}; set tracking.uri to its store, or tracking=none"
        ) from None
    path = begin(facts.run_dir, run_id, uri)
    deliver(client, path)
    client.update_run(run_id, status="RUNNING")
    before = client.get_run(run_id).data.tags
    for name, value in {**whereabouts(facts), "resumed": str(int(before.get("resumed", 0)) + 1)}.items():
        client.set_tag(run_id, name, value)
    for name in {"error", "reaped"} & before.keys():
        client.delete_tag(run_id, name)
    return path


@contextlib.contextmanager
def sent_until_its_end(uri: str, path: Path) -> Iterator[None]:
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
        reason = masked(str(error))[-5000:]
        raise
    finally:
        with contextlib.closing(journal.Journal(path)) as written:
            written.add(end=state, error=reason)
        sender.close()
