"""The commands that Hydra composes. Nothing heavy is imported before the arguments are known to be good."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.commands import torchrun
from facenet.commands.mistakes import composition_problem, forced, is_choice, is_override, refuse_flags
from facenet.config import hydra_files, overlays
from facenet.config.overrides import (
    as_given,
    check_grammar,
    flags_first,
    given,
    key_of,
    text_of,
    with_names,
    with_new_terms,
)
from facenet.config.slots import closest
from facenet.errors import FAILURE, INTERRUPTED, USER, UserError, fail, shown, told
from facenet.files import trusted
from facenet.files.atomic import refuse_links
from facenet.files.typed import override
from facenet.launch.local import RankFailed, safe_path, stop_signals_raise
from facenet.launch.surroundings import pass_over_matplotlibrc, settle
from facenet.privacy import addresses
from facenet.privacy.logs import guard_logs
from facenet.sweeps.command import Command, running


def own_experiments() -> str:
    """Presets and sweeps beside the user's work; Hydra warns about a folder that is not there, so then the built-in one is named again."""
    folder = Path.cwd() / "experiments"
    return f"file://{folder}" if folder.is_dir() else "pkg://facenet.experiments"


OmegaConf.register_new_resolver("facenet_own_experiments", own_experiments, replace=True)
hydra_files.install()


def train() -> None:
    """facenet-train"""
    settle()
    from hydra.core.plugins import Plugins

    from hydra_plugins.facenet_launcher import FacenetLauncher

    Plugins.instance().register(FacenetLauncher)  # where Hydra's own search does not reach: an editable installation
    if torchrun.active():
        torchrun.command(train_command)
    train_command()


def train_command() -> None:
    """Runs `facenet-train`. Of torchrun's processes only one reports a mistake, so that it is told once."""
    with told():
        refuse_flags(sys.argv[1:], "train")
        sys.argv[1:] = going_on(readable(without_secrets(resumed(flags_first(without_trust(sys.argv[1:]))))))
    hydra_command(train_job, "train")


def without_trust(arguments: list[str]) -> list[str]:
    """The arguments without those that say whose code is trusted, which holds from here on. Before any that a directory has on record."""
    rest, found = trusted.take(arguments)
    trusted.said.set(found)
    return rest


def resumed(arguments: list[str]) -> list[str]:
    """The arguments of the sweep that `sweep.resume=DIR` names, and those given with it. Raises UserError where none is on record."""
    key = "sweep.resume="
    given = [text_of(argument) for argument in arguments if argument.startswith(key)]
    if not given:
        return arguments
    from facenet.sweeps.state import read_command

    directory = Path(given[-1]).absolute()
    before = read_command(directory)
    if not before:
        near = closest(directory.name, [each.name for each in directory.parent.glob("*") if read_command(each)])
        raise UserError(f"sweep.resume={given[-1]}: no sweep began there; name the directory of one{near}")
    added = [argument for argument in arguments if not argument.startswith(key)]
    added.append(override("hydra.sweep.dir", directory))
    said_anew = {key_of(argument) for argument in added} | ({trusted.KEY} if trusted.said.get() else set())
    left = [argument for argument in before if key_of(argument) not in said_anew]
    for argument, problem in overlays.strange_arguments(left):
        raise UserError(
            f"sweep.resume={given[-1]}: its command on record has {shown(argument)!r}, and a directory's word is not enough for that ({problem}); "
            "say it again beside sweep.resume, or leave the sweep"
        )
    overlays.said_beside.set([without_secret(argument) for argument in added])
    return flags_first([*left, *added])


def readable(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them. Raises UserError for one that it would not."""
    check_grammar(arguments)
    return with_new_terms([with_names(each) if is_choice(each) else each for each in arguments])


def going_on(arguments: list[str]) -> list[str]:
    """The arguments; of a command that goes on with a run their keys are that run's, which the defaults, with other data or another optimizer,
    may not have: `tasks.job` checks them."""
    said = [argument.lstrip("+") for argument in arguments]
    resumes = any(each.startswith("resume=") and each not in ("resume=auto", "resume=null") for each in said)
    return [forced(argument) if resumes and is_override(argument) else argument for argument in arguments]


def without_secrets(arguments: list[str]) -> list[str]:
    """The arguments with each address as it may be recorded, since Hydra, the notes of a sweep and the tags of runs keep what was on the command
    line; `addresses` keeps the rest. Raises UserError where the jobs would not have the environment of this command."""
    found = [without_secret(argument) for argument in arguments]
    if found != arguments and "hydra/launcher=ray_cluster" in arguments:
        key = next(one.partition("=")[0] for one, before in zip(found, arguments, strict=True) if one != before)
        raise UserError(
            f"{key}: an address with a secret is not sent to Ray's workers; set MLFLOW_TRACKING_URI for them, or use a mounted folder"
        )
    return found


def without_secret(argument: str) -> str:
    """Whatever the grammar of Hydra takes for text is looked at as a whole; what it does not read, up to a blank or a quotation mark."""
    if "://" not in argument and "pipe:" not in argument:
        return argument
    try:
        for text in texts_in(OverridesParser.create().parse_override(argument).value()):
            argument = argument.replace(text, str(addresses.hide_secrets(text)))
    except HydraException:  # told by Hydra, if what is left is wrong too
        pass
    return addresses.kept_in(argument)


def texts_in(value: Any) -> list[str]:
    """Yields the texts inside a value of Hydra's grammar, those of a sweep too."""
    value = getattr(value, "list", value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for each in value for text in texts_in(each)]
    text = getattr(value, "text", value)
    return [text] if isinstance(text, str) and text else []


def train_job(composed: DictConfig) -> float | None:
    from facenet.sweeps.settings import settings_of, split
    from facenet.tasks.job import run_job

    settings, resolved = HydraConfig.get(), checked(composed)
    sweep = settings_of(resolved)
    overrides, (values, _) = as_given(settings.overrides.task), split(resolved)
    if settings.mode == RunMode.MULTIRUN:  # under another launcher than facenet's
        from facenet.sweeps.job import run_sweep_job
        from facenet.tracking.facts import GIVEN, value_tags

        if torchrun.active():
            fail(torchrun.NO_SWEEP, USER)
        directory = Path(settings.sweep.dir).absolute()
        tags = {"sweep_id": directory.name, "job_num": str(settings.job.num), **value_tags(GIVEN, given(overrides))}
        return run_sweep_job(
            values, run_dir=output_dir(), sweep_dir=directory, overrides=overrides, tags=tags, pruning=sweep.pruning()
        )
    if torchrun.active():
        values = torchrun.of_this_size(values)
        return run_job(values, run_dir=output_dir(), overrides=overrides, tags={}, start=torchrun.launch).objective
    return run_job(values, run_dir=output_dir(), overrides=overrides, tags={}).objective


def checked(composed: DictConfig) -> dict[str, Any]:
    """The config as plain values. Raises UserError for what it may not say."""
    from facenet import config

    resolved = config.resolve(composed)
    overlays.check_composed(resolved)
    return resolved


def evaluate() -> None:
    """facenet-evaluate"""
    settle()
    with told():
        refuse_flags(sys.argv[1:], "evaluate")
        sys.argv[1:] = of_evaluation(readable(without_secrets(flags_first(without_trust(sys.argv[1:])))))
    hydra_command(evaluate_job, "evaluate")


def of_evaluation(arguments: list[str]) -> list[str]:
    """The arguments; benchmarks under names are the checkpoint's, which the defaults do not have."""
    return [f"++{each}" if each.startswith("benchmarks.") else each for each in arguments]


def evaluate_job(composed: DictConfig) -> float | None:
    from facenet.tasks.evaluate import run_evaluation

    overrides = as_given(HydraConfig.get().overrides.task)
    result = run_evaluation(checked(composed), run_dir=output_dir(), overrides=overrides)
    if result.collapsed and HydraConfig.get().mode != RunMode.MULTIRUN:
        fail(f"{result.checkpoint or 'weights'}: {result.collapsed}; take another checkpoint", FAILURE)
    return result.objective


def output_dir() -> Path:
    return Path(HydraConfig.get().runtime.output_dir).absolute()


def refuse_links_of_hydra(argument: str) -> None:
    """Raises UserError where Hydra would write through a link in the directory that this override names, before anything of ours runs."""
    key, _, value = argument.lstrip("+").partition("=")
    if key in ("hydra.run.dir", "hydra.sweep.dir"):
        inside = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))
        refuse_links(Path(value.strip("'\"")), (".hydra", *inside, "multirun.yaml"))


def hydra_command(job: Callable[[DictConfig], Any], config_name: str) -> None:
    """Runs a job under Hydra: a user's mistake becomes one message and exit code 2, a failed rank its own traceback and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and ending with 1
    os.environ |= safe_path()  # for what launchers of other packages start
    for argument in sys.argv[1:]:
        if argument.startswith("--e"):  # --experimental-rerun, also shortened
            fail(
                f"{shown(argument)}: reads a pickled config, which runs what its writer put into it; repeat the command instead",
                USER,
            )
    with told():
        for argument in sys.argv[1:]:
            refuse_links_of_hydra(argument)
    known = trusted.packages()  # goes with the task to processes that other launchers start
    running.set(sweep := Command())
    defects: list[Exception] = []  # raised inside a job: nothing that another command line mends

    @functools.wraps(job)
    def task(composed: DictConfig) -> Any:
        try:
            with stop_signals_raise():
                guard_logs()
                hide_addresses()
                pass_over_matplotlibrc()  # in a process that another launcher started
                trusted.said.set(known)
                return job(composed)
        except (UserError, RankFailed) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra goes on with the next job
            fail(str(error), USER if isinstance(error, UserError) else FAILURE)
        except Exception as error:
            defects.append(error)
            raise
        finally:
            # Hydra made it; a refused job, or one that goes on elsewhere, wrote nothing into it.
            with contextlib.suppress(OSError):
                output_dir().rmdir()

    try:
        hydra.main(version_base="1.3", config_path="pkg://facenet.conf", config_name=config_name)(task)()
    except UserError as error:
        sweep.compare()
        fail(str(error), USER)
    except RankFailed as error:
        end_with(sweep)
        fail(str(error), FAILURE)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if error in defects:
            raise
        end_with(sweep)  # a search of which no trial has a value
        fail(composition_problem(error, config_name), USER)
    except OSError as error:  # Hydra makes the run directory before the job starts
        if error in defects:
            raise
        fail(f"hydra.run.dir: {error.filename or error}: {error.strerror}; choose another with hydra.run.dir=DIR", USER)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    end_with(sweep)


def hide_addresses() -> None:
    """Hides addresses in the copy of the config that Hydra writes where hydra.output_subdir asks for it."""
    from facenet import config

    if (name := HydraConfig.get().output_subdir) is not None:
        with contextlib.suppress(FileNotFoundError):
            path = output_dir() / name / "config.yaml"
            config.write(config.read(path), path)


def end_with(sweep: Command) -> None:
    """Ends the command with the exit code of its sweep, if it ran one that has told how its jobs ended."""
    with told():
        if (code := sweep.end()) is not None:
            sys.exit(code)
