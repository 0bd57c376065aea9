"""Sweeps of which other packages run the jobs (joblib, submitit, Ray) or choose the values (Optuna): what is checked and shown before the
first job."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from facenet.config import walk
from facenet.config.overrides import key_in
from facenet.data.split import replace_text
from facenet.errors import UserError, told
from facenet.privacy import addresses
from facenet.sweeps.command import running
from facenet.tracking.choice import MlflowTracking

OWN_ALONE = {"jobs_per_node": 1, "skip_duplicates": False, "stop_on_failure": False}
MOST_JOBS = 5000


class PlanFirst(Callback):
    """Hydra's callback that shows the table of jobs before a launcher of another package starts them; facenet's own does so by itself."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before the first job; a mistake in the sweep ends the command."""
        with told():
            hide_addresses(config)
            if config.hydra.sweeper._target_.endswith("BasicSweeper"):
                check_number(config)
            if "direction" in config.hydra.sweeper:
                check_direction(config)
            if "facenet" not in config.hydra.launcher._target_:
                begin(config)


def check_number(config: DictConfig) -> None:
    """Raises UserError for more jobs than anybody means: each is composed, checked and planned before the first one starts."""
    from facenet.sweeps.batch import arguments

    axes = [each for each in OverridesParser.create().parse_overrides(arguments(config)) if each.is_sweep_override()]
    counts = {key_in(each): num_values(each.value()) for each in axes}  # of a key that is given twice the last counts
    if (total := math.prod(counts.values())) > MOST_JOBS:
        most = max(counts, key=counts.__getitem__)
        raise UserError(
            f"{most}: {counts[most]:,} values make this a sweep of {total:,} jobs, and at most {MOST_JOBS:,} are planned at once; give fewer values, "
            "or let a search choose among them: hydra/sweeper=optuna hydra.sweeper.n_trials=N"
        )


def num_values(sweep: Any) -> int:
    """How many jobs an axis makes; a pattern for names counts once, and its files are few."""
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
        return max(0, math.ceil((sweep.stop - sweep.start) / sweep.step))
    return len(sweep.list) if isinstance(sweep, ChoiceSweep) else 1


def hide_addresses(config: DictConfig) -> None:
    """Hides addresses in the config that Hydra is about to write beside the jobs. Those of the command line are hidden before Hydra sees them."""
    with read_write(config), read_write(config.hydra):
        for path, value in walk(OmegaConf.to_container(config)):
            if isinstance(value, str) and (hidden := addresses.kept_in(value)) != value:
                OmegaConf.update(config, path, hidden)


def check_direction(config: DictConfig) -> None:
    """Raises UserError where a search would look for the worst."""
    from facenet.sweeps.batch import resolved_as_job
    from facenet.sweeps.plans import Planner
    from facenet.sweeps.settings import split

    job, _ = split(resolved_as_job(config))
    plan = Planner(Path(config.hydra.sweep.dir).absolute()).plan_of(job)
    asked = config.hydra.sweeper.direction
    right = "minimize" if plan.lower_is_better else "maximize"
    if getattr(asked, "name", asked) != right:
        better = "lower" if right == "minimize" else "higher"
        raise UserError(
            f"hydra.sweeper.direction: {plan.select} is better when {better}; set hydra.sweeper.direction={right}"
        )


def begin(config: DictConfig) -> None:
    """Prints the table of jobs where the sweeper knows them all. Raises UserError for settings that would not be obeyed, SystemExit after
    a dry run."""
    from facenet import config as configs
    from facenet.sweeps import table
    from facenet.sweeps.batch import arguments, jobs_of, resolved_as_job
    from facenet.sweeps.job import TABLES
    from facenet.sweeps.plans import Planner
    from facenet.sweeps.settings import settings_of, split
    from facenet.sweeps.state import write_command

    values = resolved_as_job(config)
    sweep = settings_of(values)
    for key, value in OWN_ALONE.items():
        if getattr(sweep, key) != value:
            raise UserError(f"sweep.{key}: only facenet's own launcher does this; leave out hydra/launcher, or this")
    check_launcher(config.hydra.launcher, str(config.hydra.sweep.dir))
    tracking = configs.build(split(values)[0]["tracking"], "tracking")
    if isinstance(tracking, MlflowTracking) and not sweep.dry_run:
        running.get().recorded = (tracking, Path(config.hydra.sweep.dir).absolute())
    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        if sweep.dry_run:
            raise UserError("sweep.dry_run: a search chooses its jobs while it runs; leave it out")
        return
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments(config))
    directory = Path(config.hydra.sweep.dir).absolute()
    planner = Planner(None if sweep.dry_run else directory)
    jobs = planner.plan(jobs_of(config, loader, BasicSweeper.split_arguments(overrides, None)[0], 0))
    rows = table.rows_of(jobs, skip_duplicates=False)
    print(f"\n{table.as_text(rows)}\n", flush=True)
    if sweep.dry_run:
        sys.exit(0)
    for job in jobs:
        planner.check_place(job)
    for name, text in zip(TABLES, (table.as_csv(rows), table.as_text(rows) + "\n"), strict=True):
        replace_text(directory / name, text)
    write_command(directory, sys.argv[1:])


def check_launcher(launcher: DictConfig, sweep_dir: str) -> None:
    for key in ("nodes", "tasks_per_node"):
        if launcher.get(key, 1) != 1:
            raise UserError(
                f"hydra.launcher.{key}={launcher[key]}: would run each whole job {launcher[key]} times in one directory; leave it at 1 and "
                "set distributed.num_processes"
            )
    if "ray" in launcher and launcher.ray.init.get("address") and not os.path.isabs(sweep_dir):
        raise UserError(
            f"hydra.sweep.dir={sweep_dir}: on a Ray cluster it must begin with / and be seen by all machines"
        )
