"""From what Hydra's sweepers give to a launcher, to jobs, and back."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from facenet import config as configs
from facenet.failure import RankFailed
from facenet.overlays import check_composed
from facenet.sweeps.plans import Job
from facenet.sweeps.pool import Outcome
from facenet.sweeps.session import Session
from facenet.sweeps.settings import settings_of, split

sessions: dict[Path, Session] = {}  # of this command, by directory: a search launches several batches in one


def run_batch(
    config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Ended]:
    """Runs jobs to their end. One that failed has an exception in its place, as Hydra's sweepers expect it."""
    sweep_dir = Path(config.hydra.sweep.dir).absolute()
    if sweep_dir not in sessions:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        sessions[sweep_dir] = Session(settings_of(configs.resolve(without_hydra(config))), sweep_dir, sys.argv[1:])
    jobs = jobs_of(config, loader, job_overrides, first)
    return [Ended(outcome) for outcome in sessions[sweep_dir].run(jobs)]


def jobs_of(config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    axes, jobs = axes_of(config, loader), []
    for num, given in enumerate(job_overrides, first):
        composed = loader.load_sweep_config(config, list(given))
        with open_dict(composed):
            composed.hydra.job.num = num
        values, _ = split(configs.resolve(without_hydra(composed)))
        check_composed(values)
        changed = {key: value for key, _, value in (item.partition("=") for item in given) if key in axes}
        directory = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir).absolute()
        jobs.append(Job(num=num, overrides=list(given), changed=changed, config=values, directory=directory))
    return jobs


def axes_of(config: DictConfig, loader: ConfigLoader) -> set[str]:
    """The keys that are swept, by the command or a preset."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments(config))
    swept = {each.get_key_element(): each.is_sweep_override() for each in overrides}
    return {key for key, is_swept in swept.items() if is_swept}


def arguments(config: DictConfig) -> list[str]:
    """What a sweeper reads: the preset's axes, then the command's, which replace them."""
    preset = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    return [*preset, *config.hydra.overrides.task]


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
