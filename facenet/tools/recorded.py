"""facenet-runs list and show: what MLflow's pages of runs say, on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from facenet.errors import UserError, printable, shown
from facenet.evaluation.report import digits, duration
from facenet.files.run_dir import RunDir
from facenet.launch.failure import one_line
from facenet.tracking import reading
from facenet.tracking.facts import planned
from facenet.tracking.journal import header
from facenet.tracking.reading import RunRecord
from facenet.tracking.store import NOTE, pages, where
from facenet.tracking.views import beside_others, share

COLUMNS = ("run", "name", "state", "lr", "batch", "best", "95 %", "of", "began", "took", "directory")


def run_list(*, uri: str | None, experiment: str | None, sweep: str | None, limit: int) -> str:
    """A line per run, the newest last. Raises UserError where MLflow cannot be read, or has none."""
    store = where(uri)
    condition = reading.of_sweep(sweep) if sweep else ""
    runs = reading.search(store, condition, experiment)
    if not runs:
        if sweep and experiment is None and (lost := reading.deleted_with(store, sweep)):
            raise lost
        raise UserError(
            f"no run {f'of sweep {shown(sweep)} ' if sweep else ''}in MLflow here; set --uri or MLFLOW_TRACKING_URI"
        )
    rows = [COLUMNS, *(row(run) for run in runs[-limit:])]
    lines = aligned([[shown(cell) for cell in each] for each in rows])
    left = f"{len(runs) - limit:,} older ones with --limit {len(runs)}; " if len(runs) > limit else ""
    return "\n".join([*lines, f"{left}facenet-runs show RUN says more of one"])


def row(run: RunRecord) -> tuple[str, ...]:
    select = run.params.get("plan.select", "")
    value = run.metrics.get(f"best/{select}")
    return (
        run.id[:8],
        run.name,
        run.status.lower(),
        planned(run.params, "lr"),
        planned(run.params, "batch_size"),
        "" if value is None else digits(value),
        run.tags.get(f"interval.{select.partition('/')[0]}", "") if select.endswith("/accuracy") else "",
        select,
        time.strftime("%b %d %H:%M", time.localtime(run.start)),
        duration((run.end or time.time()) - run.start),
        below_here(run.tags.get("run_dir", "")),
    )


def below_here(directory: str) -> str:
    """A directory as one types it here: without the working directory before it."""
    return directory.removeprefix(f"{Path.cwd()}/")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, without the columns that are empty in all but the first."""
    kept = [number for number, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    widths = {number: max(len(each[number]) for each in rows) for number in kept}
    return ["  ".join(each[number].ljust(widths[number]) for number in kept).rstrip() for each in rows]


def run_show(*, uri: str | None, run: str) -> str:
    """The description of a run, its params and metrics, and how to open it. Raises UserError where there is none."""
    store = where(uri)
    found = named(store, run)
    lines = [f"{shown(found.name)}  {found.id}  {found.status.lower()}", "", printable(found.tags.get(NOTE, ""))]
    if error := found.tags.get("error"):
        lines += ["", f"failed: {shown(one_line(error))}"]
    shown_metrics = {
        key: f"{value:,.0f}" if value > 1 and value.is_integer() else digits(value)
        for key, value in sorted(found.metrics.items())
        if not key.startswith("system/")
    }
    for head, values in (("params", found.params), ("metrics", shown_metrics)):
        lines += [
            "",
            head,
            *(f"  {line}" for line in aligned([("", ""), *((shown(k), shown(v)) for k, v in values.items())])[1:]),
        ]
    select, path = found.params.get("plan.select"), f"#/experiments/{found.experiment_id}/runs/{found.id}"
    paths = {"the run": path}
    if select:
        with contextlib.suppress(UserError):  # a store that is only to be read
            paths["beside others"] = share(store, found.experiment_id, beside_others(found.tags, select))
    return "\n".join([*lines, "", f"in MLflow: {pages(store, paths)}"])


def named(store: str, run: str) -> RunRecord:
    """The run of an id or its beginning, a name, or a run directory. Raises UserError for none, and for several."""
    if Path(run).is_dir():
        run_id = header(RunDir(Path(run)).journal).get("run")
        if not isinstance(run_id, str):
            raise UserError(f"{shown(run)}: has no {RunDir.journal} of a run in MLflow; name a run by its id or name")
        return reading.run(store, run_id)
    found = [each for each in reading.search(store) if is_called(each, run)]
    if len(found) == 1:
        return found[0]
    if not found and (gone := [each for each in reading.search(store, deleted=True) if is_called(each, run)]):
        told = "this run was" if len(gone) == 1 else f"{len(gone)} runs were"
        raise UserError(
            f"{shown(run)}: {told} deleted in MLflow; {reading.restoring(store, [each.id for each in gone])}"
        )
    several = ", ".join(each.id[:8] for each in found[-5:])
    told = f"{len(found)} runs, the newest {several}" if found else "no such run in MLflow"
    raise UserError(f"{shown(run)}: {told}; see facenet-runs list")


def is_called(found: RunRecord, run: str) -> bool:
    return found.id.startswith(run) or found.name == run
