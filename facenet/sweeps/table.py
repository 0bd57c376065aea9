"""The table of a sweep's jobs: what each will really do, in text and CSV; and how long it takes. It is made before any starts, and stays so."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from facenet.errors import shown
from facenet.evaluation.report import duration
from facenet.sweeps.plans import Job
from facenet.tasks import pace

AT_START = "at start"  # the column of states: that of a job when the command began
STATES = {
    "new": "new",
    "finished": "finished, skipped",
    "half-done": "half-done, goes on",
    "failed": "failed, tried again",
    "changed": "of another config",
}

# A column and one that says the same where all numbers of both are equal: what was asked for is then what is done.
SAID_BY = {
    "lr": "optimizer.lr",
    "batch": "data.batch_size",
    "per process": "batch",
    "epochs": "trainer.epochs",
    "steps": "trainer.max_steps",
}


def rows_of(jobs: Sequence[Job], *, skip_duplicates: bool) -> list[dict[str, str]]:
    """Returns one row per job, all with the same keys: number, state, swept keys, and what the plan makes of them."""
    axes = list(dict.fromkeys(key for job in jobs for key in job.changed))
    rows = [{**row(job, axes, skip_duplicates), "time": time_of(job), "note": note(job)} for job in jobs]
    return [{shown(key): shown(cell) for key, cell in each.items()} for each in rows]


def row(job: Job, axes: list[str], skip_duplicates: bool) -> dict[str, str]:
    state = "impossible" if job.problem else STATES[job.state.kind]
    if skip_duplicates and job.twin is not None:
        state = "duplicate, skipped"
    found = {"job": str(job.num), AT_START: state, **{key: job.changed.get(key, "") for key in axes}}
    plan = job.plan
    if plan is None:
        return {**found, **dict.fromkeys(("lr", "batch", "per process", "steps", "epochs", "images", "device"), "")}
    return {
        **found,
        "lr": f"{plan.lr.lr:g}",
        "batch": str(plan.batches.images_per_step),
        "per process": str(plan.batches.batch_size_per_process),
        "steps": str(plan.steps.total_steps),
        "epochs": f"{plan.steps.total_steps / plan.steps.steps_per_epoch:.3g}",
        "images": str(plan.steps.total_steps * plan.batches.images_per_step),
        "device": f"{plan.machine.num_processes} x {plan.machine.device}",
    }


def note(job: Job) -> str:
    if job.problem:
        return " ".join(job.problem.split())
    assert job.plan is not None
    notes = [f"same as job {job.twin}"] if job.twin is not None else []
    if job.plan.lr.note:
        notes.append(job.plan.lr.note)
    if job.plan.batches.images_per_step != job.plan.batches.batch_size:
        notes.append(f"{job.plan.batches.batch_size} images a step asked for")
    if job.state.note:
        notes.append(job.state.note)
    return "; ".join(notes)


def as_text(rows: Sequence[dict[str, str]]) -> str:
    """Columns under their names, numbers to the right; each number once."""
    columns = [key for key in rows[0] if key == "job" or any(row[key] for row in rows)]
    columns = [key for key in columns if not says_again(rows, key)]
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in columns}
    right = {key for key in columns if all(is_number(row[key]) for row in rows)}

    def line(row: dict[str, str]) -> str:
        cells = (row[key].rjust(widths[key]) if key in right else row[key].ljust(widths[key]) for key in columns)
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in ({key: key for key in columns}, *rows))


def says_again(rows: Sequence[dict[str, str]], key: str) -> bool:
    """Whether another column has the numbers of this one, of all jobs that have a plan."""
    other = SAID_BY.get(key, "")
    both = [(row[key], row[other]) for row in rows if row[key]] if other in rows[0] else []
    return bool(both) and all(is_number(there) and float(here) == float(there or "nan") for here, there in both)


def is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def time_of(job: Job) -> str:
    if job.plan is None or job.state.kind == "finished":
        return ""
    estimate = pace.estimate(job.config, job.plan)
    return "?" if estimate is None else duration(estimate)


def remaining(left: Sequence[Job], at_a_time: int) -> str:
    """How long the jobs that are left will take together, in words; empty where that cannot be told."""
    estimates = [pace.estimate(job.config, job.plan) if job.plan else None for job in left]
    known = [estimate for estimate in estimates if estimate is not None]
    return duration(sum(known) / min(at_a_time, len(left))) if left and len(known) == len(left) else ""
