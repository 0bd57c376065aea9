"""What somebody meant who wrote a key, a choice or a flag that there is not, as other trainers, the reference and argparse spell it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from facenet.config import overlays
from facenet.config.overrides import key_in, parsed
from facenet.config.slots import SLOTS, closest, nearest
from facenet.errors import shown
from facenet.files import trusted
from facenet.files.choices import built_in as choices
from facenet.files.choices import with_bases
from facenet.files.typed import override, quoted

Row = str | tuple[str, str]
TABLES = yaml.safe_load(files("facenet.config").joinpath("near.yaml").read_text(encoding="utf-8"))
HABITS: dict[str, Row] = {names: tuple(row) if isinstance(row, list) else row for names, row in TABLES["keys"].items()}
INSTEAD: dict[str, str] = TABLES["instead"]
CALLED: dict[str, dict[str, str]] = TABLES["choices"]
OFF = ("false", "off", "no", "0", "null")
# A place where a choice is expected.
PLACES = {"data": "data=folder data.root={}", "benchmark": "benchmark=lfw benchmark.root={}", "backbone": "weights={}"}
OTHER_NETWORKS = "; a network of timm's, or your own, is a file experiments/backbone/{}.yaml beside your work that names it: docs/extending.md"


def meant(at: str, value: Any, whole: Mapping[str, Any]) -> str:
    """ "; write optimizer.lr=0.1" for a key that this config does not have; nothing where nothing in it is like that."""
    overrides, words = instead_of(at, value, whole), words_about(at)
    return write(overrides, swept(innermost(at, value)[0])) if overrides else f"; {words}" if words else ""


def respelled_key(at: str, value: Any, names: list[str]) -> str:
    """ "; write trainer.epochs=3" for a key that one of the names of its part is spelled like; nothing where none is."""
    part, dot, last = at.rpartition(".")
    name, values = nearest(last, names), swept(at)
    if name is None or isinstance(value, dict | list):
        return closest(last, names)
    return write(shlex.quote(shown(f"{part}{dot}{name}={as_text(value if values is None else values)}")), values)


def write(overrides: str, values: str | None) -> str:
    return f"; write {'' if values is None else '-m '}{overrides}"


def swept(key: str) -> str | None:
    """The values over which the user sweeps a key, as they were given; None where there is one."""
    for argument in overlays.said():
        read = parsed(argument) if argument.lstrip("+").startswith(f"{key}=") else None
        if read is not None and read.is_sweep_override() and key_in(read) == key:
            return argument.partition("=")[2]
    return None


def folder_meant(key: str, value: Any) -> str:
    """ "; write data=folder data.root=people" for a folder without a pack where the place of one is said."""
    is_folder = key == "data.path" and isinstance(value, str) and Path(value).is_dir()
    return f"; write {filled(PLACES['data'], value)}" if is_folder and not any(Path(value).glob("*.rec")) else ""


def overrides_for(name: str, value: str | None, whole: Mapping[str, Any]) -> str:
    """Those that do what a flag of another program does; a key of the config may be one."""
    own = is_key(name, whole) or name == trusted.KEY
    return filled(f"{name}={{}}", value) if own else instead_of(name, value, whole)


def words_about(at: str) -> str:
    return str(spread(INSTEAD).get(name_in(at), ""))


def instead_of(at: str, value: Any, whole: Mapping[str, Any]) -> str:
    """The overrides that do what a key or a flag says, as a shell takes them; else nothing."""
    at, value = innermost(at, value)
    value, name = value if (values := swept(at)) is None else values, name_in(at)
    if words_about(at):
        return ""
    row = spread(HABITS).get(name)
    if row is not None and all(fits(part.partition("=")[0], whole) for part in first(row).split()):
        return filled(row, value)
    if found := places_in(whole, name, at) or [
        path for path in paths(whole) if "/" in at and path == at.replace("/", ".")
    ]:
        return " or ".join(filled(f"{path}={{}}", value) for path in found[:2])
    others = [
        f"{group}={choice} {group}.{name}={{}}" for group in parts_of(whole) for choice in choices_with(group, name)
    ]
    return filled(others[0], value) if others else ""


def innermost(at: str, value: Any) -> tuple[str, Any]:
    """The key that was given and its value, of a part that there is not and what it holds: optimzer, {"lr": 1}."""
    while isinstance(value, dict) and len(value) == 1 and "_target_" not in value:
        ((key, value),) = value.items()
        at = f"{at}.{key}"
    return at, value


def name_in(at: str) -> str:
    return re.sub(r"[\W_]+", "_", at.rpartition(".")[2]).strip("_").lower()


def first(row: Row) -> str:
    return row if isinstance(row, str) else row[0]


def fits(key: str, whole: Mapping[str, Any]) -> bool:
    """Whether a config has the key; of a group, whether others can be chosen for it there."""
    return is_key(key, whole) and (key not in SLOTS or key in parts_of(whole))


def is_key(key: str, whole: Mapping[str, Any]) -> bool:
    """Whether the config has it, or would have it under another choice."""
    group, _, own = key.partition(".")
    return (
        group in ("hydra", "preset")
        or (group in whole and not own)
        or key in paths(whole)
        or (group in parts_of(whole) and bool(choices_with(group, own)))
    )


def parts_of(whole: Mapping[str, Any]) -> list[str]:
    """The groups of a config, which others can be chosen for."""
    return [key for key, node in whole.items() if isinstance(node, dict) and "_target_" in node]


def filled(row: Row, value: Any) -> str:
    """The overrides of a row with the value in them, its choice as this project calls it. None: no value was given."""
    text = as_text(value)
    if isinstance(row, tuple):
        row = row[text.lower() in (*OFF, "none")]
    parts = []
    for part in row.split():
        key, _, own = part.partition("=")
        called, values = CALLED.get(key, {}), own.replace("{}", text).split(",")
        value = ",".join(called.get(each.lower(), each) for each in values)
        plain = f"{key}={value}"
        parts.append(quoted(plain if parsed(plain) is not None else override(key, value)))
    return " ".join(parts)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, int | float) else "..."


def respelled(value: Any, path: str) -> Iterator[Any]:
    """What a value of the wrong kind may stand for."""
    text = str(value).lower()
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if text in ("yes", "on", "y", "1", "no", "off", "n", "0"):
        yield text in ("yes", "on", "y", "1")
    if text in CALLED.get(path, {}):
        yield CALLED[path][text]


def places_in(node: Any, name: str, at: str) -> list[str]:
    """The keys of a config that end with the name, those of the same group first and alone."""
    found = [path for path in paths(node) if path != at and path.rpartition(".")[2].lower() == name and "." in path]
    beside = [path for path in found if path.startswith(f"{at.partition('.')[0]}.")]
    return beside or found


def paths(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        at = f"{path}.{key}" if path else str(key)
        yield at
        yield from paths(value, at)


def spread(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row for names, row in table.items() for name in names.split()}


def choices_with(group: str, key: str) -> list[str]:
    """The choices of a group that have a key."""
    has = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    return [name for name in choices(group) if any(map(has.search, with_bases(group, name)))]


def choice_meant(group: str, choice: str, known: list[str]) -> str:
    """ "; did you mean 'adam'?" for a choice that its group does not have, or where else there is one of that name."""
    name = choice.lower()
    if group in PLACES and ("/" in choice or Path(choice).is_dir()):
        return f"; write {filled(PLACES[group], choice)}"
    called = CALLED.get(group, {}).get(name) or (name in OFF and "none")
    if called in known:
        return f"; did you mean {called!r}?"
    others = [each for each in SLOTS if group in SLOTS and each != group and name in choices(each)]
    if len(others) == 1:
        return f"; write {others[0]}={name}"
    return closest(name, known) or (OTHER_NETWORKS.format(shown(choice)) if group == "backbone" else "")


def no_choice(group: str, choice: str, known: Sequence[str]) -> str:
    return f"{group}: no choice {shown(choice)!r} among {', '.join(known) or 'none'}{choice_meant(group, choice, list(known))}"
