"""A sweep from the side of its command: plan, table, jobs, and what came of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.config.overlays import strange_arguments
from facenet.data.split import replace_text
from facenet.errors import UserError, printable, shown
from facenet.evaluation.report import digits, duration
from facenet.files import trusted
from facenet.files.atomic import alone_in
from facenet.files.run_dir import RunDir
from facenet.files.typed import command, naming, override
from facenet.launch.failure import one_line
from facenet.privacy import addresses
from facenet.sweeps import table
from facenet.sweeps.job import TABLES
from facenet.sweeps.plans import Job, Planner
from facenet.sweeps.pool import Outcome, Pool, most_at_a_time, worst
from facenet.sweeps.settings import Sweep
from facenet.sweeps.state import write_command
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.facts import AXES, value_tags
from facenet.tracking.known import check_named
from facenet.tracking.store import where


class Session:
    """The jobs of one sweep directory, in one batch or several. Has the directory for itself as long as its process lives."""

    def __init__(self, sweep: Sweep, sweep_dir: Path, arguments: list[str]) -> None:
        """`arguments`: the command, for sweep.resume. Raises UserError while another command sweeps in the directory."""
        self.sweep, self.dir, self.arguments = sweep, sweep_dir, arguments
        self.lock = contextlib.ExitStack()
        self.lock.enter_context(alone_in(sweep_dir, "hydra.sweep.dir", "sweeps"))
        self.planner = Planner(sweep_dir)
        self.jobs: list[Job] = []
        self.outcomes: dict[int, Outcome] = {}
        self.waiting: list[Job] = []
        self.at_a_time = 1

    def run(self, jobs: Sequence[Job]) -> list[Outcome | None]:
        """How each ended; None for those that did not start because an earlier one had failed.

        Raises UserError where a job of another config ran in a directory, the exception of a stop signal, SystemExit after a dry run."""
        batch = self.planner.plan(jobs)
        for job in batch:
            if job.state.kind == "changed":
                raise UserError(
                    f"hydra.sweep.dir={self.dir}: job {job.num} ran there with another config ({job.state.note}); "
                    "choose another directory"
                )
        self.jobs += batch
        self.show(batch)
        if self.sweep.dry_run:
            raise SystemExit(0)
        write_command(self.dir, self.arguments)
        self.settle(batch)
        self.waiting = [job for job in batch if job.num not in self.outcomes and not self.left_out(job)]
        if not (self.sweep.stop_on_failure and self.failures()):
            self.run_waiting()
        for job in batch:
            if job.twin is not None and self.left_out(job) and job.twin in self.outcomes:
                self.outcomes[job.num] = self.outcomes[job.twin]
        return [self.outcomes.get(job.num) for job in batch]

    def left_out(self, job: Job) -> bool:
        return self.sweep.skip_duplicates and job.twin is not None and job.state.kind != "finished"

    def show(self, batch: Sequence[Job]) -> None:
        """Prints the table of a batch; that of all jobs so far goes to the directory."""
        rows = table.rows_of(self.jobs, skip_duplicates=self.sweep.skip_duplicates)
        print(f"\n{table.as_text(rows[-len(batch) :])}\n", flush=True)
        for name, text in zip(TABLES, (table.as_csv(rows), table.as_text(rows) + "\n"), strict=True):
            replace_text(self.dir / name, text)

    def settle(self, batch: Sequence[Job]) -> None:
        """Notes the outcome of jobs that need not start: they finished before, or cannot run."""
        for job in batch:
            if job.problem:
                self.outcomes[job.num] = Outcome(code=2, reason=one_line(job.problem))
                print(printable(f"job {job.num} cannot run: {job.problem}"), file=sys.stderr, flush=True)
            elif job.state.kind == "finished":
                self.outcomes[job.num] = Outcome(code=0, objective=job.state.objective)

    def run_waiting(self) -> None:
        if not self.waiting:
            return
        self.at_a_time = min(self.sweep.jobs_per_node, len(self.waiting), most_at_a_time(self.waiting))
        pool = Pool(self.at_a_time, order=self.order, began=self.began, ended=self.ended)
        try:
            pool.run(list(self.waiting))
        except (KeyboardInterrupt, SystemExit):
            say(self.way_on())
            raise

    def order(self, job: Job) -> dict[str, Any]:
        """What `sweeps.job` needs to know."""
        tags = {"sweep_id": self.dir.name, "job_num": str(job.num), **value_tags(AXES, job.changed)}
        told = {"overrides": job.overrides, "tags": tags, "sweep_dir": str(self.dir)}
        return {"config": job.config, **told, "pruning": self.sweep.pruning()}

    def began(self, job: Job) -> None:
        say(f"job {job.num}: {shown(job.label)}; {job.directory}")

    def ended(self, job: Job, outcome: Outcome) -> bool:
        """Reports a job. Returns whether the sweep goes on."""
        self.outcomes[job.num] = outcome
        self.waiting.remove(job)
        took = duration(outcome.seconds)
        assert job.plan is not None
        value = "" if outcome.objective is None else f", {job.plan.select} {digits(outcome.objective)}"
        say(f"job {job.num}: {outcome.how}{log_of(job) if outcome.code else value}; took {took}{self.to_go()}")
        return not (outcome.code and self.sweep.stop_on_failure)

    def to_go(self) -> str:
        if not self.waiting:
            return ""
        time = table.remaining(self.waiting, self.at_a_time)
        return f"; {len(self.waiting)} to go" + (f", about {time}" if time else "")

    def failures(self) -> list[Job]:
        return [
            job
            for job in self.jobs
            if job.num in self.outcomes and self.outcomes[job.num].code and not self.left_out(job)
        ]

    def close(self) -> int:
        """The exit code of the sweep, whose end it prints: the ranked table, the page that compares the runs, and each failed job with its
        reason."""
        stores = [(job, uri) for job in self.jobs if (uri := where_of(job)) is not None]
        if stores:
            job, uri = stores[0]
            try:
                compare(configs.build(job.config["tracking"], "tracking"), uri, self.dir)
            except (KeyboardInterrupt, SystemExit):
                say(self.way_on())
                raise
        if any(not job.problem for job in self.failures()):  # the others need another command
            say(self.way_on())
        for job in self.failures():
            outcome = self.outcomes[job.num]
            print(
                printable(f"job {job.num} ({shown(job.label)}) {outcome.how}{log_of(job)}"), file=sys.stderr, flush=True
            )
        return worst([self.outcomes[job.num] for job in self.failures()])

    def way_on(self) -> str:
        said_again = [
            addresses.mask(argument)
            for argument, _ in strange_arguments(self.arguments)
            if not argument.startswith("hydra.sweep.dir=")
        ]
        return f"go on with what is left: {command('facenet-train', override('sweep.resume', self.dir), *said_again, *trusted.arguments())}"


def compare(tracking: MlflowTracking, uri: str, directory: Path) -> None:
    """Prints the ranked table of a sweep, writes its page, tells where its runs can be compared, and keeps the winner's network. What of that cannot
    be is told, and costs nothing else."""
    from facenet.reports.ranking import rank, ranked_table
    from facenet.reports.report import name_of, write_report
    from facenet.reports.study import read_study
    from facenet.sweeps.winner import keep_winner
    from facenet.tracking import reading, views

    sweep_id = directory.name
    with told("the sweep cannot be compared"):
        study = read_study(uri, sweep_id, str(directory))
        say(f"\n{ranked_table(study)}")
        with told("the page of this sweep"):  # a full disk, or a store that takes no files
            say(f"the page of this sweep: {write_report(uri, study, directory / name_of(sweep_id))}")
        named = sweep_id if read_study(uri, sweep_id).directory == study.directory else str(directory)
        say(f"again, or opened: {naming('facenet-report', named, '--uri', addresses.masked_address(uri), '--open')}")
        with told("compare the runs"):
            runs = reading.runs_of_sweep(uri, sweep_id, directory=str(directory))
            view = views.View(
                name=views.name_of_sweep(directory, shared=reading.is_shared(uri, sweep_id, runs)),
                condition=reading.of_own(sweep_id, runs, str(directory)),
                select=study.metric,
                lower_is_better=study.lower_is_better,
                axes=study.axes or views.USUAL,
                seeds=any(len(each.jobs) > 1 for each in rank(study).settings),
            )
            say(f"compare the runs: {views.compare_pages(uri, runs, view)}")
        keep_winner(tracking, uri, study, directory)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Tells a user's mistake, or a store's, and goes on behind the block."""
    try:
        yield
    except UserError as error:
        say(f"{what}: {error}")


def where_of(job: Job) -> str | None:
    """The store of a job's run."""
    from facenet.tasks.run_store import stored_in

    tracking = configs.build(job.config["tracking"], "tracking")
    if isinstance(tracking, NoTracking):
        return None
    if stored := stored_in(job.directory):
        check_named(stored, str(job.directory), "tracking.uri=")
    return where(stored or tracking.where())


def say(text: str) -> None:
    print(printable(text), flush=True)


def log_of(job: Job) -> str:
    """Returns where a job's output is, if the terminal did not show it."""
    output = RunDir(job.directory).output
    return f"; its output is in {output}" if not job.problem and output.is_file() else ""
