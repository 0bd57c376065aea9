"""What is wrong with a command line, in one message with a way out: flags and words that are no overrides, configs that do not compose."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.config import near, overlays
from facenet.config.overrides import intervals, parsed
from facenet.errors import UserError, shown
from facenet.files.typed import override, quoted
from facenet.privacy.addresses import mask

CHOICES = ("facenet.conf", "facenet.experiments")
EXTRAS = {  # Hydra's plugins, by what hydra/launcher= and hydra/sweeper= call them
    "joblib": "joblib",
    "optuna": "optuna",
    "ray": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}


def is_choice(argument: str) -> bool:
    """Whether it is an override of a group."""
    key = argument.lstrip("+").partition("=")[0].partition("@")[0]
    places = (*map(files, CHOICES), "experiments")
    return is_override(argument) and bool(key) and any((Path(str(place)) / key).is_dir() for place in places)


def is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def refuse_flags(arguments: Sequence[str], config_name: str) -> None:
    """Raises UserError for flags of other programs and words that are no overrides, with the overrides that do the same."""
    known, others = get_args_parser().parse_known_args(list(arguments))
    flags = [each for each in others if re.match(r"-[^\d.]", each)]
    words = [each for each in (*known.overrides, *others) if "=" not in each and not each.startswith(("-", "~"))]
    if not flags and not words:
        return
    if whole := split_by_shell(arguments, words):
        raise UserError(mask(whole))
    config = default_config(config_name)
    said: list[str] = []
    written: list[str] = []
    about: list[str] = []
    for given, name, value in strangers(arguments, (*flags, *words)):
        said.append(mask(given))
        value = None if value is None else mask(value)
        overrides, instead = near.overrides_for(name, value, config), near.words_about(name)
        if not overrides and config_name == "evaluate" and Path(name).exists():
            overrides = quoted(override("checkpoint", name))
        written += [overrides] if overrides else []
        about += [] if overrides else [instead or f"nothing is like {shown(name)}, --help shows what there is"]
    sweep = "-m " if known.multirun and any("," in each for each in written) else ""
    way = f"; write {sweep}{' '.join(written)}" if written else ""
    raise UserError(
        f"{shown(' '.join(said))}: facenet-{config_name} takes key=value{way}{''.join(f'; {each}' for each in about)}"
    )


def strangers(arguments: Sequence[str], strange: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """What was given, the name in it and its value, which may be the next argument."""
    left = list(arguments)
    while left:
        given = left.pop(0)
        if given not in strange:
            continue
        name, sign, value = given.lstrip("-").replace(":", "=", not given.startswith("-")).partition("=")
        if sign or not left or left[0].startswith("--") or "=" in left[0]:
            yield given, name, value if sign else None
        else:
            yield f"{given} {left[0]}", name, left.pop(0)


def split_by_shell(arguments: Sequence[str], words: Sequence[str]) -> str | None:
    """What to write where a word belongs to what stands before it: a blank around =, or within a value that is not quoted."""
    for at, word in enumerate(arguments):
        before = arguments[at - 1] if at else ""
        if word in words and before.endswith("=") and before.lstrip("="):
            return f"{shown(f'{before} {word}')}: no blank may stand around =; write {shlex.quote(before + word)}"
        if word == "=" and before and at + 1 < len(arguments):
            both = f"{before}={arguments[at + 1]}"
            return f"{shown(f'{before} = {arguments[at + 1]}')}: no blank may stand around =; write {shlex.quote(both)}"
        if word in words and "=" in before and not near.spread(near.HABITS).get(near.name_in(word)):
            both = f"{before} {word}"
            if parsed(both) is not None:
                return f"{shown(both)}: the shell parts it at the blank; write {shlex.quote(both)}"
    return None


@functools.cache
def default_config(config_name: str) -> dict[str, Any]:
    """As plain values, unresolved."""
    composed, _ = compose_leniently(config_name, [])
    values = cast("dict[str, Any]", OmegaConf.to_container(composed))
    return {key: value for key, value in values.items() if key != "hydra"}


def composition_problem(error: Exception, config_name: str) -> str:
    """Hydra stops at its first complaint. Composing again with all of them set aside shows the rest, checked against the signatures."""
    from facenet import config
    from facenet.sweeps.batch import resolved_as_job

    if isinstance(error, MissingConfigException):
        choice = str(error.missing_cfg_file).rpartition("/")[2]
        if choice in EXTRAS:
            return f"config: {error.missing_cfg_file} comes with an extra: pip install 'facenet[{EXTRAS[choice]}]'"
    if "does not support sweep type" in str(error):
        drawn = "".join(f" ({each})" for each in intervals(overlays.said()))
        return (
            f"config: interval(...) is for a search, not for given values{drawn}; "
            "add hydra/sweeper=optuna, or write choice(...) or range(...)"
        )
    for argument in overlays.said():
        if str(error).startswith(f"Ambiguous value for argument '{argument}'"):
            name, _, values = argument.partition("=")
            listed = shlex.quote(f"{name}=[{values}]")
            other = "for one run that has all of them write" if is_choice(argument) else "write a list:"
            return f"{shown(argument)}: several values are a sweep; add -m, or {other} {listed}"
        if str(error).startswith("Multiple values for") and argument.startswith("+") and is_choice(argument):
            return f"{shown(argument)}: its group has a choice already; write {shlex.quote(argument.lstrip('+'))}"
    overrides = [forced(first_value(argument)) for argument in overlays.said() if is_override(argument)]
    try:
        composed, absent = compose_leniently(config_name, overrides)
        found = problems_of(resolved_as_job(composed), config_name)
    except UserError as problem:
        return str(problem)
    except (HydraException, OmegaConfBaseException, ValueError):
        absent, found = {}, []
    if isinstance(error, MissingConfigException) and not absent:  # of a swept choice, the first of which is there
        group, choice = group_and_choice(str(error.missing_cfg_file))
        absent = {group: near.no_choice(group, choice, list(error.options or []))} if error.options else {}
    # Values meant for a choice that does not exist say nothing about the default that stood in for it.
    strangers = tuple(f"{group}." for group in absent)
    problems = [*absent.values(), *(line for line in found if not line.startswith(strangers))]
    if problems:
        return config.problem_list(problems)
    if "HydraConfig was not set" in str(error) and (key := getattr(error, "full_key", None)):
        return f"config: {key}: ${{hydra:...}} has no value before there are jobs; write a dot for its colon, as in ${{hydra.job.name}}"
    lines = [line.rstrip() for line in str(error).split("Config search path")[0].splitlines() if line.strip()]
    return "config: " + "\n  ".join(lines)


def first_value(override: str) -> str:
    """The override with the first of the values that it sweeps."""
    # It is no sweep that lists its values, or not Hydra's grammar.
    with contextlib.suppress(HydraException, ValueError, TypeError):
        parsed = OverridesParser.create().parse_override(override)
        if parsed.is_sweep_override():
            return f"{override.partition('=')[0]}={next(iter(parsed.sweep_string_iterator()))}"
    return override


def problems_of(values: dict[str, Any], config_name: str) -> list[str]:
    from facenet import config
    from facenet.sweeps import settings

    job, sweep = settings.split(values)
    own = config.problems_of(sweep, settings.part) if config_name == "train" else []
    return [*config.problems_of(job, root_of(config_name)), *own]


def compose_leniently(config_name: str, overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config without the choices that do not exist, and for each of their groups what is wrong."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    absent: dict[str, str] = {}
    GlobalHydra.instance().clear()
    with initialize_config_module("facenet.conf", version_base="1.3"):
        while True:
            try:
                return compose(config_name, overrides=overrides, return_hydra_config=True), absent
            except MissingConfigException as missing:
                group, choice = group_and_choice(str(missing.missing_cfg_file))
                if not group or group in absent:
                    raise
                known = list(missing.options or [])
                absent[group] = near.no_choice(group, choice, known)
                overrides = [item for item in overrides if item.lstrip("+").split("=")[0] != group]


def group_and_choice(missing: str) -> tuple[str, str]:
    """Of the file that Hydra did not find, whose choice may be a path: "data" and "/faces/people" of data//faces/people."""
    groups = [argument.lstrip("+").partition("=")[0] for argument in overlays.said() if is_choice(argument)]
    for group in sorted(groups, key=len, reverse=True):
        if missing.startswith(f"{group}/"):
            return group, missing.removeprefix(f"{group}/")
    group, _, choice = missing.rpartition("/")
    return group, choice


def root_of(config_name: str) -> Callable[..., Any]:
    """Whose parameters are the keys of the config."""
    if config_name == "train":
        from facenet.tasks.recipe import Recipe

        return Recipe
    from facenet.tasks.evaluate import Evaluation

    return Evaluation


def forced(override: str) -> str:
    """`++optimizer.lr=1` of `optimizer.lr=1`, which lets an unknown key in. What says itself how it is applied, and a group's choice, stay."""
    if override.startswith(("hydra.", "hydra/", "+", "~")):
        return override
    return override if is_choice(override) else f"++{override}"
