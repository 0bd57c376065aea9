"""Presets, sweeps and commands on record out of directories, which somebody else may have written: what of them is taken.

Of a file: values of facenet's own groups, `hydra.mode`, the choice of a launcher and a sweeper with their plain settings, and the axes of a sweep.
All else of Hydra's names code or a shell somewhere, runs before a job is checked, and is for the command line. The same holds for the command that a
sweep's directory has on record.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from facenet.config.slots import ANY, WORD, ZOOS, addresses_in, is_source, named_by, openings_of_strangers, way_to_trust
from facenet.errors import UserError, shown
from facenet.files import trusted
from facenet.files.plain import plain
from facenet.files.renamed import current
from facenet.privacy.addresses import masked_address

NAME = r"[A-Za-z0-9_][\w.\-]*"
REFERENCE = r"\$\{\.*[A-Za-z_][\w\-]*(?:\.[\w\-]+|\[\w+\])*\}"
CHOICE = re.compile(rf"/?(?:{NAME}/)*(?:{NAME}|{REFERENCE})(?:@[\w.]+)?")  # of a list of defaults
GROUP = re.compile(rf"(?:(?:optional|override) )*(/?{NAME}(?:/{NAME})*)(?:@([\w.]+))?")
HYDRA_GROUP = re.compile(r"/?hydra/(?:launcher|sweeper)(?:/\w+)*")
KEY = re.compile(r"[A-Za-z_]\w*")  # of a launcher's settings: one with a line break would be a line of a batch script
OVERRIDE = re.compile(r"[+~]{0,2}([A-Za-z_][\w\-]*(?:[./][\w\-]+)*)(?:@[\w.]+)?")
# Settings of Hydra's launchers and sweepers that are a word: names for a scheduler. Others are commands, files, addresses or code.
NAMES = re.compile("partition|qos|account|constraint|gres|exclude|name|backend|prefer|require|study_name")
FETCHED = re.compile(r"checkpoint_path|pretrained_.+|weights(_.+)?|url", re.IGNORECASE)
SETTING = re.compile(r"[\w.,:@%+\-]*")
COUNT = "${sweep.jobs_per_node}"  # checked to be a number before anything starts
ON_THE_COMMAND_LINE = "a file of a directory may not say that; say it on the command line"


said_beside: ContextVar[Sequence[str] | None] = ContextVar("said_beside", default=None)  # a command on record
overrides_said: ContextVar[Sequence[str] | None] = ContextVar("overrides_said", default=None)  # of a call from Python


def said() -> Sequence[str]:
    """What the user has said: a call's overrides, else the command line."""
    overrides = overrides_said.get()
    return sys.argv[1:] if overrides is None else overrides


def says(text: str) -> bool:
    """Whether it stands as a whole value in what the user has said: the beginning of an address is another machine's, that of a path a larger
    folder. What a sweep's directory has on record is no word of the user's."""
    whole = re.compile(rf"(?:^|[=:,\s\[{{'\"]){re.escape(text)}(?:$|[,\s\]}}'\"])")
    beside = said_beside.get()
    return any(whole.search(argument) for argument in (said() if beside is None else beside))


files_read: list[Path] = []  # of directories, by this process


def check_composed(config: dict[str, Any]) -> None:
    """Raises UserError for an address that references of a directory's file have joined, each part of which is none."""
    of_directories = files_read or said_beside.get() is not None
    for path, value in openings_of_strangers(config, "") if of_directories else ():
        if not all(says(str(each)) for each in (value if isinstance(value, list) else [value])):
            raise UserError(
                f"{path}: {shown(str(value))!r} would be opened by a class of somebody else's; {ON_THE_COMMAND_LINE}"
            )
    for path, address in addresses_in(config, "") if files_read else ():
        hidden = masked_address(address)
        if not says(hidden):
            raise UserError(
                f"{path}={shown(hidden)}: is not what the command line says; an address is only opened when it does; add {path}=..."
            )


def problems_of(content: Any, config_path: str, package: str | None) -> Iterator[str]:
    """What may not stand in a file, each as `key: why`. config_path: its place below the directory, as in "preset/mine"."""
    if not isinstance(content, dict):
        yield f"expected keys with values, got a {type(content).__name__}"
        return
    if package is not None and (in_hydra(package) or "_name_" in package):
        yield f"# @package {shown(package)}: {ON_THE_COMMAND_LINE}"
    *group, _ = Path(config_path).parts or ("",)
    defaults = content.get("defaults", [])
    content = {key: value for key, value in content.items() if key != "defaults"}
    for default in defaults if isinstance(defaults, list) else [defaults]:
        if not fine_default(default):
            yield f"defaults: {shown(str(default))!r}: {ON_THE_COMMAND_LINE}"
    place = ".".join(group) if package is None else package.replace("_group_", ".".join(group)).replace("_global_", "")
    if group[:1] == ["hydra"]:
        if not HYDRA_GROUP.fullmatch("/".join(group)) or package is not None:
            yield f"hydra: {ON_THE_COMMAND_LINE}"
        nested: Any = content
        for part in reversed(group):
            nested = {part: nested}
        content = nested
    yield from value_problems({key: value for key, value in content.items() if key != "hydra"}, place)
    if "hydra" in content:
        yield from hydra_problems(content["hydra"])


def in_hydra(place: str) -> bool:
    return "hydra" in re.split(r"[^\w\-]+", place)


def fine_default(default: Any) -> bool:
    """Whether an entry of a list of defaults chooses by name, and nothing of Hydra's but a launcher or a sweeper."""
    if isinstance(default, str):
        group, _, package = default.partition("@")
        return (
            CHOICE.fullmatch(default) is not None
            and ".." not in default
            and in_its_place(group.rpartition("/")[0], package or None)
            and (
                not in_hydra(default)
                or (HYDRA_GROUP.fullmatch(default.rpartition("/")[0]) is not None and "@" not in default)
            )
        )
    if not isinstance(default, dict) or len(default) != 1:
        return False
    ((key, value),) = default.items()
    found = GROUP.fullmatch(key)
    if (
        found is None
        or ".." in key
        or not in_its_place(found[1], found[2])
        or (in_hydra(key) and not (HYDRA_GROUP.fullmatch(found[1]) and found[2] is None))
    ):
        return False
    names = value if isinstance(value, list) else [] if value is None else [value]
    return all(
        isinstance(name, str) and CHOICE.fullmatch(name) and ".." not in name and not in_hydra(name) and "@" not in name
        for name in names
    )


def in_its_place(group: str, package: str | None) -> bool:
    """Whether a file is put where its group is, or a benchmark under a name. What it may say depends on its place, which a package (`@_here_`,
    `@_global_`, `@data`) moves."""
    own = group[1:].replace("/", ".")
    named = re.fullmatch(r"benchmarks\.\w+((?:\.protocol)?)", package or "")
    return package is None or (
        group.startswith("/") and (package == own or (named is not None and own == f"benchmark{named[1]}"))
    )


class Untrusted(str):
    """The problem of a class that the command line may allow: told by the check of the whole config, together with all others of that kind."""


def is_part(target: Any) -> bool:
    """Whether a `_target_` is spelled as a class of ours or of a library's parts, or as a network of a zoo; a part's module may hold anything."""
    return (
        isinstance(target, str)
        and (named_by(ANY.names, current(target)) or trusted.package_holding(target) is not None)
        and (target.startswith(ZOOS) or target.rpartition(".")[2][:1].isupper())
    )


def value_problems(node: Any, path: str) -> Iterator[str]:
    """Returns the problems of values of facenet's own groups."""
    if isinstance(node, dict):
        for key, value in node.items():
            at = f"{path}.{shown(key)}" if path else shown(key)
            if "$" in key or key == "()":
                yield f"{at}: {ON_THE_COMMAND_LINE}"
            elif key == "_target_" and not is_part(value):
                told = f"{at}: {shown(str(value))!r} may not be built from a config{(way := way_to_trust(value))}"
                yield Untrusted(told) if way else told
            elif key == trusted.KEY and not path:
                yield f"{at}: says whose code may run; {ON_THE_COMMAND_LINE}"
            elif key == "resume" and not path and value not in (None, "auto", "null"):
                yield f"{at}: names a run to write into; {ON_THE_COMMAND_LINE}"
            elif (path, key) == ("tracking", "upload_faces") and value not in (False, "false"):
                yield f"{at}: would send pictures of people; {ON_THE_COMMAND_LINE}"
            elif opens(key, value, path):
                yield f"{at}: {shown(str(value))!r} would open a file or an address; {ON_THE_COMMAND_LINE}"
            else:
                yield from value_problems(value, at)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from value_problems(value, f"{path}.{index}")
    elif isinstance(node, str):
        yield from text_problems(node, path)


def text_problems(text: str, path: str) -> Iterator[str]:
    left = re.sub(REFERENCE, lambda found: found[0] if in_hydra(found[0][2:-1]) else "", text)
    if "${" in left:
        yield f"{path}: {shown(text)!r} is more than a reference to a key of facenet's own; {ON_THE_COMMAND_LINE}"
    for _, address in addresses_in(text, path):
        hidden = masked_address(address)  # as the command line has it by now
        if not says(hidden):
            yield f"{path}={shown(hidden)}: an address is only opened when the command line says it too; add {path}=..."


def opens(key: str, value: Any, path: str) -> bool:
    """Whether a parameter makes the constructor of a network read a file or an address: all but "the published weights of this name". `weights` at
    the root of a config is a run's own."""
    if key == "pretrained":
        return not (value is None or isinstance(value, bool))
    if key == "model_name":
        return not (isinstance(value, str) and WORD.fullmatch(value))
    return FETCHED.fullmatch(key) is not None and is_source(key, value) and not (key == "weights" and not path)


def hydra_problems(node: Any) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"hydra: {ON_THE_COMMAND_LINE}"
        return
    for key, value in node.items():
        if key == "mode" and value in ("RUN", "MULTIRUN"):
            continue
        if key not in ("launcher", "sweeper") or not isinstance(value, dict):
            yield f"hydra.{shown(key)}: {ON_THE_COMMAND_LINE}"
            continue
        settings = dict(value)
        if key == "sweeper":
            yield from axis_problems(settings.pop("params", None) or {})
            directions = settings.pop("direction", [])
            for direction in directions if isinstance(directions, list) else [directions]:
                if direction not in ("minimize", "maximize"):
                    yield f"hydra.sweeper.direction: expected minimize or maximize, got {shown(str(direction))!r}"
        yield from setting_problems(settings, f"hydra.{key}")


def axis_problems(params: Any) -> Iterator[str]:
    at = "hydra.sweeper.params"
    if not isinstance(params, dict):
        yield f"{at}: expected keys with values"
        return
    for key, value in params.items():
        for problem in override_problems(key, value):
            yield f"{at}.{problem}"


def override_problems(key: str, value: Any) -> Iterator[str]:
    """Returns the problems of what becomes an override: a value of facenet's own groups, or several."""
    found = OVERRIDE.fullmatch(key)
    if found is None or in_hydra(key) or "@" in key:
        yield f"{shown(key)}: {ON_THE_COMMAND_LINE}"
        return
    place = re.split(r"[./]", found[1])
    if "$" in str(value):
        yield f"{key}: {shown(str(value))!r} refers to something; {ON_THE_COMMAND_LINE}"
    path, own = ".".join(place[:-1]), place[-1]
    for each in spelled(value) if isinstance(value, str) else [value]:
        yield from value_problems({own: each}, path)


def spelled(text: str) -> list[Any]:
    """The values that Hydra makes of the text of an override: dicts and lists can be spelled so, and several joined by commas."""
    try:
        override = OverridesParser.create().parse_override(f"x={text}")
        if not override.is_sweep_override():
            return [plain(override.value(), "x")]
        if not override.is_discrete_sweep():
            return [text]
        return [
            value for each in override.sweep_string_iterator() for value in (spelled(each) if each != text else [each])
        ]
    except (HydraException, OmegaConfBaseException, UserError):
        return [text]


def setting_problems(node: Any, path: str) -> Iterator[str]:
    """Returns the problems of a launcher's or a sweeper's settings, which may be numbers, switches, and names that are one word."""
    if isinstance(node, dict):
        for key, value in node.items():
            at = f"{path}.{shown(key)}"
            if not KEY.fullmatch(key) or key.startswith("_"):
                yield f"{at}: {ON_THE_COMMAND_LINE}"
            elif not (isinstance(value, str) and NAMES.fullmatch(key) and SETTING.fullmatch(value)):
                yield from setting_problems(value, at)
    elif not (node is None or isinstance(node, (bool, int, float)) or node == COUNT):
        yield f"{path}: {ON_THE_COMMAND_LINE}"


def strange_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Returns the arguments of a recorded command that a file may not say either, and why."""
    for argument in arguments:
        if argument in ("-m", "--multirun"):
            continue
        for problem in argument_problems(argument):
            yield argument, problem
            break


def argument_problems(argument: str) -> Iterator[str]:
    key, _, text = argument.partition("=")
    if HYDRA_GROUP.fullmatch(key) and re.fullmatch(NAME, text):
        return
    if not in_hydra(key):
        if "=" in argument or argument.startswith("~"):
            yield from override_problems(key, text)
        else:
            yield f"{shown(argument)}: {ON_THE_COMMAND_LINE}"
        return
    try:
        override = OverridesParser.create().parse_override(argument)
        value = plain(override.value(), key)
    except (HydraException, OmegaConfBaseException, UserError):
        yield f"{shown(key)}: {ON_THE_COMMAND_LINE}"
        return
    for part in reversed(override.key_or_group.split(".")[1:]):
        value = {part: value}
    yield from hydra_problems(value)
