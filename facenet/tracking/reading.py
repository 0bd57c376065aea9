"""Runs, read back from MLflow. `uri` is an address as `store.where` returns it; every function raises UserError where the store cannot be read."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from facenet.errors import UserError, shown
from facenet.files.typed import command
from facenet.privacy.addresses import masked_address
from facenet.tracking.delivery import as_named
from facenet.tracking.facts import safe_name
from facenet.tracking.known import check_files
from facenet.tracking.store import cause, deleted, follow_move, mlflow_command, open_client, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Accuracy of each fold in the epoch of best/<benchmark>/accuracy: tag folds.<benchmark>, JSON; earlier metrics folds/<benchmark>/<number>.
FOLDS, FOLDS_TAG = "folds/", "folds."
MOST_NAMED = 10  # in one line
LONGEST_PLACE = 1000  # characters of a directory in a filter, which is in a tag of at most 5,000


@dataclass(frozen=True)
class RunRecord:
    """A run as MLflow has it. `metrics` holds the value of each at its highest step; times are in seconds since the epoch, `end` None
    while it runs, `last_sign` that of its newest metric or its start; status: RUNNING FINISHED FAILED KILLED."""

    id: str
    name: str
    experiment_id: str
    status: str
    start: float
    end: float | None
    last_sign: float
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


def runs_of_sweep(uri: str, sweep_id: str, experiment: str | None = None, directory: str = "") -> list[RunRecord]:
    """Returns the runs of a sweep by job number, of several that have this name those of the one in `directory`, else of the newest; deleted runs
    are left out. One job may have several runs if it was started anew. Raises UserError for none."""
    found = [run for run in search(uri, of_sweep(sweep_id), experiment) if run.tags.get("sweep_id") == sweep_id]
    if not found:
        raise UserError(
            f"{shown(sweep_id)}: no run of this sweep in MLflow at {masked_address(uri)}; set --uri or MLFLOW_TRACKING_URI"
        )
    return sorted(of_one_sweep(found, directory), key=lambda run: (job_number(run), run.start))


def of_sweep(sweep_id: str) -> str:
    """MLflow's filter for the runs of a sweep. It has no way to write a text with both kinds of quotation marks: of that others may be found too."""
    if "'" in sweep_id and '"' in sweep_id:
        return f"""tags.sweep_id LIKE '{sweep_id.replace("'", "_")}'"""
    return f"tags.sweep_id = {quoted(sweep_id)}"


def of_own(sweep_id: str, runs: Sequence[RunRecord], directory: str) -> str:
    """The filter for the runs of a sweep alone, where all of them say that they ran in its directory; one that was moved shares its name. MLflow may
    take LIKE for GLOB, whose signs no escape writes either."""
    inside = all(run.tags.get("run_dir", "").startswith(f"{directory}/") for run in runs)
    if not inside or len(directory) > LONGEST_PLACE:
        return of_sweep(sweep_id)
    place = re.sub(r"""['"%*?\[\]\\]""", "_", directory)
    return f"{of_sweep(sweep_id)} AND tags.run_dir LIKE '{place}/%'"


def is_shared(uri: str, sweep_id: str, runs: Sequence[RunRecord]) -> bool:
    """Whether another sweep than that of these runs has its name."""
    return not {run.id for run in search(uri, of_sweep(sweep_id))} <= {run.id for run in runs}


def of_one_sweep(runs: list[RunRecord], directory: str = "") -> list[RunRecord]:
    """Without the runs of other sweeps of the same name. A sweep may have been moved, but runs no job again that has finished: who has one that is in
    another directory too, is another."""
    places = {run.id: sweep_dir(run) for run in runs}
    if directory not in places.values():
        directory = places[max(runs, key=lambda run: run.start).id]
    own = {job_number(run) for run in runs if places[run.id] == directory}
    others = {places[run.id] for run in runs if run.status == "FINISHED" and job_number(run) in own} - {directory}
    return [run for run in runs if places[run.id] not in others]


def sweep_dir(run: RunRecord) -> str:
    """Of a job of a sweep, by what its run says; empty where it says nothing."""
    above = PurePath(run.tags.get("run_dir", "")).parents
    named = (str(each) for each in above if each.name == run.tags.get("sweep_id"))
    return next(named, str(above[0]) if above else "")


def job_number(run: RunRecord) -> int:
    """Of a run in its sweep; 0 where its tag, which may be anybody's, is no number."""
    text = run.tags.get("job_num", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def deleted_with(uri: str, sweep_id: str) -> UserError | None:
    """That the runs of a sweep are there, and deleted, or in a deleted experiment."""
    from mlflow.entities import ViewType

    with reader(uri) as client:
        for each in client.search_experiments(view_type=ViewType.ALL):
            found = client.search_runs([each.experiment_id], of_sweep(sweep_id), run_view_type=ViewType.ALL)
            if found and each.lifecycle_stage == "deleted":
                return deleted(f"{shown(sweep_id)}: its experiment {shown(each.name)}", uri, each.experiment_id)
            if found:
                way = restoring(uri, [run.info.run_id for run in found])
                return UserError(f"{shown(sweep_id)}: its {len(found)} runs were deleted in MLflow; {way}")
    return None


def deleted_jobs(uri: str, sweep_id: str, runs: Sequence[RunRecord]) -> dict[int, str]:
    """Job number -> id of its newest run, of jobs of the sweep of these runs that have none but deleted ones."""
    places, there = {sweep_dir(run) for run in runs}, {job_number(run) for run in runs}
    found = [run for run in search(uri, of_sweep(sweep_id), deleted=True) if run.tags.get("sweep_id") == sweep_id]
    own = {job_number(run): run.id for run in found if sweep_dir(run) in places}
    return {number: own[number] for number in sorted(own.keys() - there)}


def restoring(uri: str, run_ids: Sequence[str]) -> str:
    """How deleted runs come back: a line to type, of many one for each."""
    restore = f"{mlflow_command(uri)} runs restore --run-id"
    if len(run_ids) == 1:
        return f"bring it back with: {restore} {command(*run_ids)}"
    if len(run_ids) <= MOST_NAMED:
        return f"bring them back with: for run in {command(*run_ids)}; do {restore} $run; done"
    return f"bring each back with: {restore} {command(run_ids[0])}"


def running(uri: str, experiment: str | None = None) -> list[RunRecord]:
    """Runs in state RUNNING, oldest first."""
    return search(uri, "attributes.status = 'RUNNING'", experiment)


def search(uri: str, condition: str = "", experiment: str | None = None, *, deleted: bool = False) -> list[RunRecord]:
    """Runs that MLflow's filter finds, of one experiment or of all, oldest first; those that were deleted, or all others."""
    from mlflow.entities import ViewType

    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    found: list[RunRecord] = []
    with reader(uri) as client:
        experiments = [each.experiment_id for each in client.search_experiments() if experiment in (None, each.name)]
        if not experiments:
            raise UserError(f"{shown(str(experiment))}: no experiment of this name in MLflow at {masked_address(uri)}")
        token = None
        while True:
            part = client.search_runs(
                experiments, condition, kind, order_by=["attributes.start_time"], page_token=token
            )
            found.extend(record(run) for run in part)
            if not (token := part.token):
                return found


def run(uri: str, run_id: str) -> RunRecord:
    with reader(uri) as client:
        return record(client.get_run(run_id))


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) in the order of writing. Raises UserError where the run has no such metric."""
    with reader(uri) as client:
        points = client.get_metric_history(run_id, key)
        if not points:
            stored = {as_named(name): name for name in client.get_run(run_id).data.metrics}
            points = client.get_metric_history(run_id, stored[key]) if key in stored else []
        if not points:
            names = shown(", ".join(sorted(stored))) or "none"
            raise UserError(f"run {run_id}: no metric {key} in it; it has {names}")
    measured = sorted(filter(is_measured, points), key=lambda point: (point.timestamp, point.step))
    return [(point.step, point.value) for point in measured]


def is_measured(point: Any) -> bool:
    """Whether a metric's value is more than its place among the others, which `run.name_first` gives it."""
    return bool(point.step > 0 or not math.isnan(point.value))


def folds(run: RunRecord) -> dict[str, list[float]]:
    """benchmark -> accuracy of each fold, in order, in the epoch whose figures are `best/<benchmark>/...`. Empty for a run that was not tested."""
    found: dict[str, dict[int, float]] = {}
    for key, value in run.metrics.items():
        if key.startswith(FOLDS):
            benchmark, _, number = key.removeprefix(FOLDS).rpartition("/")
            if benchmark and number.isdecimal():
                found.setdefault(benchmark, {})[int(number)] = value
    metrics = {
        benchmark: [values[number] for number in sorted(values)]
        for benchmark, values in found.items()
        if all(0 <= each <= 1 for each in values.values())
    }
    tagged = {
        key.removeprefix(FOLDS_TAG): numbers_in(text) for key, text in run.tags.items() if key.startswith(FOLDS_TAG)
    }
    return dict(sorted({**metrics, **{name: values for name, values in tagged.items() if values}}.items()))


def numbers_in(text: str) -> list[float]:
    """Those of a JSON list; empty where it is none of accuracies, 0 to 1."""
    with contextlib.suppress(ValueError, TypeError, RecursionError, OverflowError):
        found = [float(each) for each in json.loads(text)]
        return found if all(0 <= each <= 1 for each in found) else []
    return []


def attach(uri: str, run_id: str, path: Path, folder: str = "") -> None:
    """Adds a file to a run's artifacts, also after its end; one of the same name is replaced. Raises UserError where `known.check_files` does."""
    with reader(uri) as client:
        check_files(uri, client.get_run(run_id).info.artifact_uri)
        client.log_artifact(run_id, str(path), folder or None)


def artifact(uri: str, run_id: str, path: str, folder: Path) -> Path:
    """The file in `folder` to which an artifact of a run was copied. Raises UserError where the run has none of this path, or `known.check_files`
    does."""
    with reader(uri) as client:
        check_files(uri, client.get_run(run_id).info.artifact_uri)
        return Path(client.download_artifacts(run_id, path, str(folder)))


def tag(uri: str, run_id: str, tags: dict[str, str]) -> None:
    """Sets tags of a run, also after its end."""
    with reader(uri) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def measure(uri: str, run_id: str, name: str, value: float) -> None:
    """Gives a run a figure that is known only after its end."""
    with reader(uri) as client:
        client.log_metric(run_id, safe_name(name), value)


def record(run: Any) -> RunRecord:
    info, data = run.info, run.data
    return RunRecord(
        id=str(info.run_id),
        name=str(info.run_name),
        experiment_id=str(info.experiment_id),
        status=str(info.status),
        start=info.start_time / 1000,
        end=None if info.end_time is None else info.end_time / 1000,
        last_sign=max([info.start_time, *(metric.timestamp for metric in data._metric_objs)]) / 1000,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics={as_named(each.key): each.value for each in data._metric_objs if is_measured(each)},
    )


def quoted(text: str) -> str:
    """As a filter takes a text, which knows no escape for its own quotation marks."""
    return f"'{text}'" if "'" not in text else f'"{text}"'


@contextlib.contextmanager
def reader(uri: str) -> Iterator[MlflowClient]:
    """A client of a store that exists; what it raises becomes a UserError."""
    database = sqlite_path(uri)
    if database is not None and not database.is_file():  # asking would create it
        raise UserError(f"no MLflow database {database}; set --uri or MLFLOW_TRACKING_URI")
    follow_move(database)
    try:
        yield open_client(uri)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {masked_address(uri)} cannot be read ({cause(error, uri)}); set --uri or MLFLOW_TRACKING_URI"
        ) from None
