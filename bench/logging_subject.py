"""What a logged step costs: the training process (it writes the run's journal) and the sender (it fills MLflow's database). Goal 9."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, measure
from facenet.tracking import journal
from facenet.tracking.delivery import deliver
from facenet.tracking.store import open_experiment
from facenet.tracking.tracker import JournalTracker

METRICS = {f"train/figure{number}": 0.5 for number in range(8)}
STEP_S = 1.0  # of a CPU step of 96 images with bfloat16 MobileNetV1 on two cores, about; a GPU's is a hundredth


def run(context: Context) -> Outcome:
    steps = 50 if context.quick else 200
    with open_store(context.scratch) as (client, experiment_id):
        candidates = [
            Candidate("mlflow log_metric, one by one", one_by_one(client, experiment_id), len(METRICS)),
            Candidate("mlflow log_batch of a step's figures", batched(client, experiment_id), len(METRICS)),
            Candidate(
                "facenet, in the training process", journalled(context.scratch, "caller", steps), len(METRICS) * steps
            ),
            Candidate(
                "facenet, journal and delivery", delivered(client, experiment_id, context, steps), len(METRICS) * steps
            ),
        ]
        table = measure("logging", "Metrics into sqlite", "metric", candidates, rounds=context.rounds)
    caller, both = table.row("facenet, in the training process"), table.row("facenet, journal and delivery")
    goals = [
        Goal(
            "9.1",
            "per metric in the training process, ms wall",
            0.2,
            caller.wall_s * 1e3,
            at_most=True,
            limit="one write per step",
        ),
        Goal(
            "9.2",
            "per metric with its delivery, ms CPU",
            0.2,
            both.cpu_s * 1e3,
            at_most=True,
            limit="SQLAlchemy in MLflow's store",
        ),
        Goal(
            "9.3",
            "log at every step, % of a CPU step of 1 s",
            1,
            caller.wall_s * len(METRICS) / STEP_S * 100,
            at_most=True,
            limit="one write per step",
        ),
        Goal(
            "9.4",
            "log at every step, % of a GPU step of 10 ms",
            1,
            caller.wall_s * len(METRICS) / 0.01 * 100,
            at_most=True,
            limit="one write per step",
        ),
    ]
    return Outcome([table], goals)


@contextlib.contextmanager
def open_store(scratch: Path) -> Iterator[tuple[Any, str]]:
    yield open_experiment(f"sqlite:///{scratch}/mlflow.db", "bench")


def one_by_one(client: Any, experiment_id: str) -> Callable[[], None]:
    run_id = client.create_run(experiment_id).info.run_id
    steps = iter(range(10**6))

    def work() -> None:
        step = next(steps)
        for name, value in METRICS.items():
            client.log_metric(run_id, name, value, step=step)

    return work


def batched(client: Any, experiment_id: str) -> Callable[[], None]:
    from mlflow.entities import Metric

    run_id = client.create_run(experiment_id).info.run_id
    steps = iter(range(10**6))

    def work() -> None:
        step = next(steps)
        client.log_batch(run_id, [Metric(name, value, 0, step) for name, value in METRICS.items()])

    return work


def journalled(scratch: Path, name: str, steps: int) -> Callable[[], None]:
    numbers = iter(range(10**6))

    def work() -> None:
        folder = scratch / f"{name}-{next(numbers)}"
        folder.mkdir()
        journal.begin(folder, "run", None)
        with contextlib.closing(JournalTracker(folder)) as tracker:
            for step in range(steps):
                tracker.metrics(METRICS, step=step)

    return work


def delivered(client: Any, experiment_id: str, context: Context, steps: int) -> Callable[[], None]:
    numbers = iter(range(10**6))

    def work() -> None:
        folder = context.scratch / f"sent-{next(numbers)}"
        folder.mkdir()
        run_id = client.create_run(experiment_id).info.run_id
        path = journal.begin(folder, run_id, None)
        with contextlib.closing(JournalTracker(folder)) as tracker:
            for step in range(steps):
                tracker.metrics(METRICS, step=step)
        points = deliver(client, path).points
        require(points == steps * len(METRICS), f"{points} points arrived of {steps * len(METRICS)}")

    return work
