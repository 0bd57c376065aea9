"""A sweep as MLflow holds it: one job per number, whatever machine or launcher ran it. Neither torch nor mlflow is imported here."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from facenet.errors import UserError, shown
from facenet.evaluation.report import lower_is_better
from facenet.files.typed import command, override
from facenet.launch.failure import one_line
from facenet.privacy.addresses import masked_address
from facenet.tracking import reading
from facenet.tracking.facts import AXES, GIVEN, JOBS, planned, values_in
from facenet.tracking.names import axes_name
from facenet.tracking.reading import MOST_NAMED, RunRecord

NOT_NUMBERS = 1e100  # no figure of a run is as large: MLflow stores an infinity as the largest float, and no axis has room for that
LARGEST = 1e15  # of whole numbers that a store may tell
MOST_JOBS = 1_000_000
HELDOUT = "plan.num_heldout_identities"
UNRANKED = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "not ended", "SCHEDULED": "not started"}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run says of how it ran. `lr`: effective; `images`: how many it has seen; `code`: a git commit, or facenet's version;
    `heldout`: of how many identities its held-out pairs are, None where the test is another."""

    command: str = ""
    lr: float | None = None
    images_per_step: int | None = None
    images: int | None = None
    seconds: float | None = None
    device: str = ""
    code: str = ""
    collapsed: str = ""  # why no epoch of it has an accuracy
    experiment_id: str = ""
    heldout: int | None = None
    directory: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """`axes`: the swept keys, in every job the same, and the values given for them. `value`: the selected metric at its best epoch, None
    where it was not measured or is not finite. `folds`: that epoch's accuracies, `pairs` what they were measured on, and `interval` where the
    accuracy is with a chance of 95 %."""

    number: int
    run_id: str
    name: str
    status: str
    axes: dict[str, str]
    value: float | None = None
    folds: tuple[float, ...] = ()
    pairs: str = ""
    interval: str = ""
    error: str = ""
    pruned: str = ""  # why it was ended early
    ran: Ran = Ran()

    @property
    def label(self) -> str:
        """Its values in a few words, as MLflow names its run."""
        return axes_name(self.axes, f"#{self.number}") if self.axes else f"job {self.number}"

    @property
    def ranked(self) -> bool:
        return self.status == "FINISHED" and self.value is not None and not self.pruned

    @property
    def why_unranked(self) -> str:
        """`failed: <the error in one line>`, `pruned: <reason>`, `stopped`, ..."""
        if self.pruned:
            return f"pruned: {self.pruned}"
        if self.ran.collapsed and self.status == "FINISHED":
            return self.ran.collapsed
        state = UNRANKED.get(self.status, "without a finite value")
        return f"{state}: {one_line(self.error)}" if self.error.strip() else state


@dataclass(frozen=True, kw_only=True)
class Study:
    """The jobs of one sweep in the order of their numbers, judged by `metric`. `missing`: numbers of those that have no run, as far as the others
    know of them; `deleted`: of those whose runs were deleted in MLflow, and `way_back` what brings these back; `directory`: where the sweep ran,
    empty where that is not known."""

    sweep_id: str
    metric: str
    jobs: tuple[Job, ...]
    missing: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    way_back: str = ""
    directory: str = ""
    lower: bool | None = None  # is better; None in runs of earlier versions, whose metrics say it by their names

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for job in self.jobs for key in job.axes))

    @property
    def left_out(self) -> list[str]:
        """What is not known of all jobs, a line each: that some are missing, that runs of some were deleted."""
        return [line for line in (self.incomplete, self.lost) if line]

    @property
    def num_jobs(self) -> int:
        return len(self.jobs) + len(self.missing) + len(self.deleted)

    @property
    def lost(self) -> str:
        if not self.deleted:
            return ""
        count = f"the runs of {len(self.deleted)} of {self.num_jobs} jobs were deleted in MLflow"
        return f"{count} ({numbers(self.deleted)}), which are left out here; {self.way_back}"

    @property
    def incomplete(self) -> str:
        """That jobs are missing, in one line; empty where none is."""
        if not self.missing:
            return ""
        way = (
            f"; go on with: {command('facenet-train', override('sweep.resume', self.directory))}"
            if self.directory
            else ""
        )
        return (
            f"{len(self.missing)} of {self.num_jobs} jobs have no run yet, or never will ({numbers(self.missing)}){way}"
        )

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.metric) if self.lower is None else self.lower


def numbers(jobs: Sequence[int]) -> str:
    return ", ".join(map(str, jobs[:MOST_NAMED])) + (", ..." if len(jobs) > MOST_NAMED else "")


def read_study(uri: str, sweep_id: str, directory: str = "") -> Study:
    """The sweep that runs in `directory`, else the newest of this name. Raises UserError for a store that cannot be read, and for a sweep that it
    does not hold."""
    try:
        records = reading.runs_of_sweep(uri, sweep_id, directory=directory)
    except UserError:
        if lost := reading.deleted_with(uri, sweep_id):
            raise lost from None
        raise UserError(f"{shown(sweep_id)}: no such sweep in {sweeps_of(uri)}") from None
    study, deleted = study_of(sweep_id, records), reading.deleted_jobs(uri, sweep_id, records)
    if not deleted:
        return study
    missing, way_back = set(study.missing) - deleted.keys(), reading.restoring(uri, [*deleted.values()])
    return replace(study, missing=tuple(sorted(missing)), deleted=tuple(deleted), way_back=way_back)


def sweeps_of(uri: str) -> str:
    """Where MLflow is and which sweeps it has, in words."""
    known = sorted({run.tags["sweep_id"] for run in reading.search(uri) if "sweep_id" in run.tags})
    return f"MLflow at {masked_address(uri)}; it has {shown(', '.join(known)) or 'none'}; see --uri"


def study_of(sweep_id: str, records: Iterable[RunRecord]) -> Study:
    """A job that was resumed or tried again is its newest run; the metric is the one that most jobs were told to select by."""
    newest: dict[int, RunRecord] = {}
    for record in sorted(records, key=lambda record: record.start):
        newest[reading.job_number(record)] = record
    given = {number: values_of(record.tags) for number, record in newest.items()}
    keys = swept(list(newest.values()), list(given.values()))
    metric = Counter(map(selects, newest.values())).most_common(1)[0][0]
    jobs = [job_of(number, newest[number], given[number], keys, metric) for number in sorted(newest)]
    known = max((whole_number_in(record.tags.get(JOBS, "")) or 0 for record in newest.values()), default=0)
    missing = tuple(number for number in range(min(known, MOST_JOBS)) if number not in newest)
    place = reading.sweep_dir(max(newest.values(), key=lambda record: record.start))
    directory = place if os.path.basename(place) == sweep_id else ""
    said = {record.params.get("plan.lower_is_better") for record in newest.values() if selects(record) == metric}
    lower = "True" in said if said <= {"True", "False"} else None
    return Study(sweep_id=sweep_id, metric=metric, jobs=tuple(jobs), missing=missing, directory=directory, lower=lower)


def selects(record: RunRecord) -> str:
    return record.params.get("plan.select", "")


def job_of(number: int, record: RunRecord, given: dict[str, str], keys: list[str], metric: str) -> Job:
    params, tags = record.params, record.tags
    value = record.metrics.get(f"best/{metric}")
    benchmark, _, figure = metric.partition("/")
    return Job(
        number=number,
        run_id=record.id,
        name=record.name,
        status=record.status,
        axes={key: given.get(key, params.get(key, "")) for key in keys},
        value=value if value is not None and math.isfinite(value) and abs(value) < NOT_NUMBERS else None,
        folds=tuple(reading.folds(record).get(benchmark, ())) if figure == "accuracy" else (),
        pairs=test_pairs(params, benchmark),
        interval=tags.get(f"interval.{benchmark}", "") if figure == "accuracy" else "",
        error=tags.get("error", ""),
        pruned=tags.get("pruned", ""),
        ran=ran(record, benchmark),
    )


def ran(record: RunRecord, benchmark: str) -> Ran:
    params, seen = record.params, record.metrics.get("samples_seen")
    return Ran(
        command=record.tags.get("command", ""),
        lr=number_in(planned(params, "lr")),
        images_per_step=whole_number_in(planned(params, "images_per_step")),
        images=int(seen) if seen is not None and math.isfinite(seen) else None,
        seconds=None if record.end is None else record.end - record.start,
        device=params.get("plan.device", ""),
        code=record.tags.get("code", ""),
        collapsed=record.tags.get("collapsed", ""),
        experiment_id=record.experiment_id,
        heldout=whole_number_in(params.get(HELDOUT, "")) if is_heldout(params, benchmark) else None,
        directory=record.tags.get("run_dir", ""),
    )


def is_heldout(params: Mapping[str, str], name: str) -> bool:
    """Whether the benchmark of this name tests identities that were kept from training."""
    key = f"benchmarks.{name}" if f"benchmarks.{name}.seed" in params else "benchmark"
    return told_of(params, name).startswith("heldout") or f"{key}.seed" in params


def told_of(params: Mapping[str, str], name: str) -> str:
    told = params.get("plan.benchmark", "").split("; ")  # one after the other
    return next((each for each in told if each.startswith(f"{name}: ")), told[0])


def test_pairs(params: Mapping[str, str], name: str) -> str:
    """Equal for runs whose benchmark of this name has the same pairs in the same folds. Those of held-out identities are drawn from the data."""
    key = f"benchmarks.{name}" if f"benchmarks.{name}.seed" in params else "benchmark"
    drawn_from = ("plan.data_fingerprint", HELDOUT, f"{key}.seed")
    return " ".join([told_of(params, name), *(params.get(key, "") for key in drawn_from if is_heldout(params, name))])


def values_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Key -> the value given for it, spelled; of swept keys at least."""
    return values_in(tags, AXES) or values_in(tags, GIVEN) or overrides(tags.get("hydra.overrides", ""))


def overrides(text: str) -> dict[str, str]:
    """{"optimizer.lr": "1e-3", ...} of the overrides of earlier versions, which had them joined by blanks; a blank inside a value is no border, but
    before a word with a sign."""
    parts = re.split(r"\s+(?=[+~]{0,2}[\w.@/:-]+=)", text.strip())
    return dict(part.lstrip("+~").split("=", 1) for part in parts if "=" in part)


def swept(records: list[RunRecord], given: list[dict[str, str]]) -> list[str]:
    """The keys of tag AXES of any job; without the tag, those to which jobs gave different values."""
    tagged = [key for record in records for key in axes_of(record.tags)]
    keys = tagged or [key for values in given for key in values if len({values.get(key) for values in given}) > 1]
    return list(dict.fromkeys(keys))


def axes_of(tags: Mapping[str, str]) -> list[str]:
    if values := values_in(tags, AXES):
        return list(values)
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        return [key.lstrip("+~") for key in json.loads(tags.get(AXES, "[]"))]  # a list, of earlier versions
    return []


def number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def whole_number_in(text: str) -> int | None:
    value = number_in(text)
    return int(value) if value is not None and abs(value) < LARGEST else None  # not of NaN either


def read_curves(uri: str, study: Study, metric: str) -> dict[int, list[tuple[int, float]]]:
    """Job number -> (step, value), in the order of writing; without the jobs that did not measure it."""
    found = {}
    for job in study.jobs:
        with contextlib.suppress(UserError):  # the store has just been read, so the metric is what it lacks
            found[job.number] = reading.history(uri, job.run_id, metric)
    return found
