"""What each job of a sweep would do, computed before any starts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.devices.table import check_device_count
from facenet.devices.updates import leave_compiler_out
from facenet.errors import UserError
from facenet.sweeps.state import State, state_of
from facenet.tasks.auto import settle
from facenet.tasks.job import check_pixels
from facenet.tasks.numbers import Plan
from facenet.tasks.plan import Material, divide, make_plan
from facenet.tasks.recipe import Recipe, build_planned
from facenet.tasks.resume import without

AFTER_OPENING = (
    "batch_size",
    "num_workers",
    "max_unreadable",
)  # keys of data that do not change what `divide` makes of it


LONGEST_NAME = 255  # bytes, on Linux


@dataclass(frozen=True)
class Job:
    """One job. `changed`: swept key -> its value here; `problem`: why it cannot run; `twin`: number of the first job with equal effective
    settings. Without a plan there is a problem."""

    num: int
    overrides: list[str]
    changed: dict[str, str]
    config: dict[str, Any]
    directory: Path
    state: State = field(default_factory=lambda: State("new"))
    plan: Plan | None = None
    problem: str = ""
    twin: int | None = None

    @property
    def label(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.changed.items()) or "nothing changed"


class Planner:
    """Plans jobs. Data and benchmarks that several share are opened once, and what is `auto` is settled once for all jobs in `sweep_dir`."""

    def __init__(self, sweep_dir: Path | None = None) -> None:
        self.sweep_dir = sweep_dir
        leave_compiler_out()
        self.materials: dict[str, Material] = {}
        self.seen: dict[str, int] = {}
        self.places: dict[Path, list[int]] = {}

    def plan(self, jobs: Sequence[Job]) -> list[Job]:
        for job in jobs:
            self.places.setdefault(job.directory, []).append(job.num)
        return [self.plan_job(job) for job in jobs]

    def plan_job(self, job: Job) -> Job:
        """Returns a job with its state, plan and twin, or with what is wrong with it."""
        try:
            self.check_place(job)
            configs.check(job.config, Recipe)
            config, _ = settle(job.config, sweep_dir=self.sweep_dir)
            plan = self.plan_of(config)
        except UserError as error:
            return replace(job, problem=str(error))
        first = self.seen.setdefault(effective(config, plan), job.num)
        twin = None if first == job.num else first
        return replace(job, plan=plan, twin=twin, state=state_of(job.directory, job.config))

    def check_place(self, job: Job) -> None:
        """Raises UserError for a directory that other jobs have too, or that no disk can have."""
        longest = max(len(os.fsencode(part)) for part in job.directory.parts)
        if longest > LONGEST_NAME:
            raise UserError(
                f"hydra.sweep.subdir: a name of {longest} bytes, and a disk takes {LONGEST_NAME}; use ${{hydra.job.num}} and fewer values in it"
            )
        if others := [str(num) for num in self.places[job.directory] if num != job.num]:
            raise UserError(
                f"hydra.sweep.subdir: {job.directory.name} is also the directory of job {', '.join(others)}; "
                "put ${hydra.job.num} into it, or leave it out"
            )

    def plan_of(self, config: dict[str, Any]) -> Plan:
        """Plans a job as `tasks.job.prepare` does. Raises UserError where that does, and for more processes than devices."""
        config, _ = settle(config, sweep_dir=self.sweep_dir)
        recipe = build_planned(config)
        key = json.dumps(
            [without(config["data"], AFTER_OPENING), config["benchmark"], config.get("benchmarks")], sort_keys=True
        )
        if key not in self.materials:
            self.materials[key] = divide(recipe.data, *recipe.tested)
        num_processes = recipe.distributed.num_processes
        plan = make_plan(self.materials[key], recipe, num_processes=num_processes)
        check_device_count(plan.machine.device, num_processes)
        check_pixels(config, self.materials[key].train)
        return plan


def effective(config: dict[str, Any], plan: Plan) -> str:
    """Equal for two configs that describe the same training: the learning rate is what the schedule makes of it, the device that which was
    found, and how gradients are exchanged counts only where they are."""
    optimizer, machine = {**config["optimizer"], "lr": [plan.lr.lr, plan.lr.min_lr]}, plan.machine
    exchange = config["distributed"] if machine.num_processes > 1 else None
    return configs.fingerprint(
        {**config, "optimizer": optimizer, "accelerator": machine.device, "distributed": exchange}
    )
