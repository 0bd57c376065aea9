"""facenet-train and facenet-evaluate as functions, for scripts and notebooks. They leave the process as they found it: Hydra, which the program may
use itself, the handlers of signals, and the formats of logs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from facenet.config import hydra_files, named_in, overlays, set_by
from facenet.config.overrides import key_of, parsed
from facenet.errors import UserError, shown
from facenet.files import trusted
from facenet.launch.signals import keep_handlers, stop_signals_raise
from facenet.launch.surroundings import pass_over_matplotlibrc
from facenet.privacy.logs import guarded_logs
from facenet.tasks.result import Result

ONE_AT_A_TIME = threading.Lock()  # a job has the environment of the process for itself while its own processes start
OF_A_COMMAND = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)  # what Hydra keeps of the one that runs
OF_HYDRA = ("hydra.run.dir", "hydra.searchpath")  # the others are for what runs a command


def train(overrides: Sequence[str] = ()) -> Result:
    """Trains as `facenet-train` with these overrides does, in processes of its own, and says the same: `train(["data=folder", "data.root=PEOPLE"])`.

    Raises UserError for a mistake, RankFailed with its traceback where a process fails, and after Ctrl-C KeyboardInterrupt, once the run is saved."""
    from facenet.sweeps.settings import settings_of, split
    from facenet.tasks.job import run_job

    with called("train", overrides) as (config, run_dir, arguments):
        settings_of(config)
        return run_job(split(config)[0], run_dir=run_dir, overrides=arguments, tags={})


def evaluate(overrides: Sequence[str] = ()) -> Result:
    """Tests a network as `facenet-evaluate` with these overrides does, in this process: `evaluate(["checkpoint=RUN", "benchmark.root=LFW"])`, or
    as the run was tested `evaluate(["checkpoint=RUN"])`. Raises UserError for a mistake."""
    from facenet.tasks.evaluate import run_evaluation

    with called("evaluate", overrides) as (config, run_dir, arguments):
        return run_evaluation(config, run_dir=run_dir, overrides=arguments)


def single(config_name: str, overrides: Sequence[str]) -> list[str]:
    """The overrides of one job, as Hydra takes them, their addresses as they may be recorded. Raises UserError for what only a command has."""
    from facenet.commands import torchrun
    from facenet.commands.composed import going_on, of_evaluation, readable, without_secrets

    if torchrun.active():
        raise UserError(
            "torchrun started this process; give it the command: torchrun ... --no-python facenet-train KEY=VALUE"
        )
    for each in overrides:
        if each.startswith("-"):
            raise UserError(f"{shown(each)}: a flag of the command; overrides are key=value")
    arguments = readable(without_secrets(list(overrides)))
    for each in arguments:
        key, read = key_of(each), parsed(each)
        if read is not None and read.is_sweep_override():
            raise UserError(
                f"{shown(each)}: several values are a sweep; call once for each, or use the command: facenet-train -m"
            )
        if key == "sweep.resume" or (overlays.in_hydra(key) and key not in OF_HYDRA):
            raise UserError(
                f"{shown(each)}: is for the command facenet-train; from Python only {' and '.join(OF_HYDRA)} are"
            )
    return going_on(arguments) if config_name == "train" else of_evaluation(arguments)


@contextlib.contextmanager
def called(config_name: str, overrides: Sequence[str]) -> Iterator[tuple[dict[str, Any], Path, list[str]]]:
    """The resolved config, the run directory and the overrides as they are recorded, in the surroundings of a command."""
    with ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        stack.enter_context(keep_handlers())
        stack.enter_context(stop_signals_raise())
        stack.enter_context(guarded_logs())
        pass_over_matplotlibrc()
        with hydra_apart():
            if isinstance(overrides, str) or not all(isinstance(each, str) for each in overrides):
                raise UserError("overrides: expected a list of texts, such as ['optimizer.lr=1e-3']")
            given, packages = trusted.take(overrides)
            stack.callback(trusted.said.reset, trusted.said.set(packages))
            trusted.version_of.cache_clear()  # this program may have changed its source since its last call
            arguments = single(config_name, given)
            stack.callback(overlays.overrides_said.reset, overlays.overrides_said.set(arguments))
            stack.callback(overlays.said_beside.reset, overlays.said_beside.set(None))  # no command on record
            config, run_dir = composed(config_name, arguments)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            named = f"{error.filename or run_dir}: {error.strerror}"
            raise UserError(f"hydra.run.dir: {named}; choose another with hydra.run.dir=DIR") from None
        try:
            yield config, run_dir, arguments
        finally:
            with contextlib.suppress(OSError):  # a refused job, or one that goes on elsewhere, wrote nothing into it
                run_dir.rmdir()


def composed(config_name: str, arguments: list[str]) -> tuple[dict[str, Any], Path]:
    """Composes the config as the command does. Returns (resolved config, run directory)."""
    from facenet.commands.composed import checked
    from facenet.commands.mistakes import composition_problem
    from facenet.sweeps.batch import without_hydra

    try:
        with initialize_config_module("facenet.conf", version_base="1.3"):
            found = compose(config_name, overrides=arguments, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(composition_problem(error, config_name)) from None
    if found.hydra.mode == RunMode.MULTIRUN:
        raise UserError("hydra.mode=MULTIRUN: a sweep is for the command: facenet-train -m")
    run_dir = Path(str(found.hydra.run.dir)).absolute()
    with read_write(found), open_dict(found):
        found.hydra.runtime.output_dir = str(run_dir)
    HydraConfig.instance().set_config(found)  # which ${hydra:...} looks into
    return checked(without_hydra(found)), run_dir


@contextlib.contextmanager
def hydra_apart() -> Iterator[None]:
    """Inside, Hydra is as a command finds it; afterwards as this program had it, whose own composing goes on and reads files as it did."""
    Plugins.instance()  # which registers Hydra's own sources
    registry, found = SourcesRegistry.instance(), Singleton._instances
    types = dict(registry.types)
    Singleton._instances = {kind: one for kind, one in found.items() if kind not in OF_A_COMMAND}
    try:
        from facenet.commands import composed  # noqa: F401  its import registers a resolver of conf

        hydra_files.install()
        overlays.files_read.clear()
        set_by.clear()
        named_in.clear()
        yield
    finally:
        Singleton._instances, registry.types = found, types
