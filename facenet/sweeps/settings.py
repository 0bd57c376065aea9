"""What `sweep.*` chooses. No concern of a job: the command takes it out of the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from facenet import config as configs
from facenet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How the jobs of a sweep run.

    jobs_per_node: at a time on this machine; each has devices of its own, as many as `distributed.num_processes`, so fewer run where
    devices are short. skip_duplicates: of jobs with equal effective settings only the first runs. dry_run: ends after the table of jobs.
    stop_on_failure: no job starts after one has failed. resume: directory of a sweep to go on with.
    prune: median ends jobs that `tasks.pruning` calls hopeless, among `prune_min_jobs` others or more, after `prune_warmup_epochs`."""

    jobs_per_node: int = 1
    skip_duplicates: bool = False
    dry_run: bool = False
    stop_on_failure: bool = False
    resume: str | None = None
    prune: Literal["median"] | None = None
    prune_min_jobs: int = 3
    prune_warmup_epochs: int = 1

    def __post_init__(self) -> None:
        for key in ("jobs_per_node", "prune_min_jobs", "prune_warmup_epochs"):
            if getattr(self, key) < 1:
                raise UserError(f"sweep.{key}: expected 1 or more, got {getattr(self, key)}")

    def pruning(self) -> dict[str, int] | None:
        """The numbers that a job ends early by, `min_jobs` and `warmup_epochs`; None where jobs run to their end."""
        if self.prune is None:
            return None
        return {"min_jobs": self.prune_min_jobs, "warmup_epochs": self.prune_warmup_epochs}


def part(*, sweep: Sweep) -> None:
    """The signature of that part of a config."""


def split(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what a job is, {"sweep": how the jobs run})."""
    job = {name: value for name, value in config.items() if name != "sweep"}
    return job, {name: value for name, value in config.items() if name == "sweep"}


def settings_of(config: dict[str, Any]) -> Sweep:
    """Raises UserError that lists all problems of `sweep.*`."""
    _, own = split(config)
    configs.check(own, part)
    found: Sweep = configs.build(own["sweep"], "sweep")
    return found
