"""From what Hydra's sweepers give to a launcher, to jobs, and back."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict, read_write

from facenet import config as configs
from facenet.config.overlays import check_composed
from facenet.config.overrides import as_given, given, key_in
from facenet.errors import UserError
from facenet.launch.failure import RankFailed
from facenet.sweeps.command import running
from facenet.sweeps.plans import Job
from facenet.sweeps.pool import Outcome
from facenet.sweeps.session import Session
from facenet.sweeps.settings import settings_of, split
from facenet.tracking.facts import LONGEST_VALUE, shorten


def run_batch(
    config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Ended]:
    """Runs jobs to their end. One that failed has an exception in its place, as Hydra's sweepers expect it."""
    command = running.get()
    if command.session is None:  # a search launches several batches
        sweep_dir = Path(config.hydra.sweep.dir).absolute()
        sweep_dir.mkdir(parents=True, exist_ok=True)
        command.session = Session(settings_of(resolved_as_job(config)), sweep_dir, sys.argv[1:])
    jobs = jobs_of(config, loader, job_overrides, first)
    return [Ended(outcome) for outcome in command.session.run(jobs)]


def jobs_of(config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    axes, jobs = axes_of(config, loader), []
    check_axes(axes, len(job_overrides))
    for num, items in enumerate(job_overrides, first):
        composed = as_job(loader.load_sweep_config(config, list(items)), num)
        values, _ = split(resolve_values(composed))
        check_composed(values)
        changed = {key: shorten(value, LONGEST_VALUE) for key, value in given(items).items() if key in axes}
        directory = Path(composed.hydra.runtime.output_dir)
        jobs.append(Job(num=num, overrides=list(items), changed=changed, config=values, directory=directory))
    return jobs


def check_axes(axes: set[str], num_jobs: int) -> None:
    """Raises UserError for what jobs cannot differ in, and where they differ in nothing at all."""
    if own := sorted(key for key in axes if key.partition(".")[0] == "sweep"):
        raise UserError(f"{own[0]}: says how all jobs of a sweep run; give it one value")
    if num_jobs == 0:
        raise UserError(f"{', '.join(sorted(axes))}: a list or range without values, so the sweep has no jobs")


def resolved_as_job(composed: DictConfig) -> dict[str, Any]:
    """Returns the values that a command has in its first job: `${hydra:job.num}` and the like have none before."""
    return resolve_values(as_job(composed, 0))


def as_job(composed: DictConfig, num: int) -> DictConfig:
    config = copy.deepcopy(composed)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = num
        config.hydra.job.id = str(num)
    directory = directory_of(config)  # makes its part of Hydra read-only
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(directory)
    return config


def resolve_values(job: DictConfig) -> dict[str, Any]:
    """Returns the config with references to Hydra resolved as a single run has them."""
    with hydra_of(job):
        return configs.resolve(without_hydra(job))


def directory_of(job: DictConfig) -> Path:
    """Returns the directory of a job; its name may say `${hydra:job.override_dirname}` and the like, as with Hydra's own launcher."""
    with hydra_of(job):
        return Path(job.hydra.sweep.dir, job.hydra.sweep.subdir).absolute()


@contextlib.contextmanager
def hydra_of(job: DictConfig) -> Iterator[None]:
    """Returns what `${hydra:...}` refers to."""
    hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
    hydra.set_config(job)
    try:
        yield
    finally:
        hydra.cfg = before


def axes_of(config: DictConfig, loader: ConfigLoader) -> set[str]:
    """The keys that are swept, by the command or a preset."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments(config))
    return {key_in(each) for each in overrides if each.is_sweep_override()}


def arguments(config: DictConfig) -> list[str]:
    """Returns the arguments that a sweeper reads: the preset's axes, then the command's, which replace them."""
    preset = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    return [*preset, *as_given(config.hydra.overrides.task)]


class Ended(JobReturn):
    """Raises the reason of a failure where Hydra's own prints a line before it does: the sweep has told it."""

    def __init__(self, outcome: Outcome | None) -> None:
        super().__init__()
        self.outcome = outcome
        self.status = JobStatus.COMPLETED if outcome is not None and outcome.code == 0 else JobStatus.FAILED

    @property  # type: ignore[misc]  # Hydra sets it in its own only
    def return_value(self) -> float | None:
        if self.outcome is None or self.outcome.code:
            raise RankFailed("not started" if self.outcome is None else self.outcome.reason)
        return self.outcome.objective


def without_hydra(config: DictConfig) -> DictConfig:
    plain = copy.deepcopy(config)
    with open_dict(plain):
        del plain["hydra"]
    return plain
