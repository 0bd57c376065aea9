"""The help of facenet-train and facenet-evaluate, made of the YAML files and their comments. Hydra is not asked, which would take a second."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from facenet.errors import UserError, shown
from facenet.files.choices import built_in, with_bases

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
HIDDEN = ("_target_", "_partial_", "defaults", "hydra")
Values = dict[str, tuple[str, str]]  # key -> its value as text, and its comment


def help_of(command: str, arguments: Sequence[str]) -> str:
    """Choices of each group, the default first; values of those chosen, by default or in the arguments; examples. Raises UserError for a choice that
    there is not."""
    text = files("facenet.conf").joinpath(f"{command}.yaml").read_text("utf-8")
    groups = {group: (chosen, why) for group, chosen, why in defaults_of(text)}
    said = dict(each.lstrip("+").split("=", 1) for each in arguments if "=" in each and not each.startswith("-"))
    lines: list[str] = []
    values: Values = {}
    for group, (default, why) in groups.items():
        name = said.get(group, default)
        check_choice(group, name)
        lines += choice_lines(group, default, why)
        values |= values_of(group, name or "")
        for inner, inner_default, _ in defaults_of(built_in(group).get(name or "", "")):
            lines += choice_lines(f"{group}/{inner}", inner_default, "")
            check_choice(f"{group}/{inner}", said.get(f"{group}/{inner}"))
    for group in [each for each in said if each.partition("/")[0] in groups and "/" in each]:
        values |= values_of(group, said[group])
    values |= values_in(text, "")
    help_ = loaded(text)["hydra"]["help"]
    whole = [(group, name) for group, name in said.items() if group in groups and name not in built_in(group)]
    return "\n".join(
        [
            help_["header"].replace("${hydra.help.app_name}", help_["app_name"]),
            "",
            "Choices, as group=choice; the first of each group is the default",
            *lines,
            "",
            f"Values, as key=value; those of another choice: {help_['app_name']} --help GROUP=CHOICE",
            *(line for key, (value, why) in values.items() for line in row(f"  {key}={value}", why, 44)),
            *(
                f"\n{group}={name}\n{textwrap.indent(every(group)[name], '  ').rstrip()}"
                for group, name in whole
                if name != "null"
            ),
            "",
            help_["footer"].rstrip(),
        ]
    )


def check_choice(group: str, name: str | None) -> None:
    known = list(every(group))
    if name not in (None, "null", *known):
        from facenet.config.near import no_choice

        raise UserError(no_choice(group, str(name), known))


def defaults_of(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Group, choice and comment of each entry of a list of defaults that chooses."""
    node = top(text).get("defaults")
    for entry in node.value if node is not None else ():
        if isinstance(entry, yaml.MappingNode):
            ((key, value),) = entry.value
            if not key.value.startswith(("override ", "/")):
                yield key.value, None if value.value == "null" else value.value, comment_behind(text, value)


def choice_lines(group: str, default: str | None, why: str) -> Iterator[str]:
    yield f"{f'  {group}':<28} {why}".rstrip() if why else f"  {group}"
    found = every(group)
    for name in sorted(found, key=lambda each: (each != default, each)):
        yield from row(f"    {shown(name)}", said_first(found[name]), 28)


def said_first(text: str) -> str:
    """The first comment of a file, which says what it is."""
    found = re.match(r"(?:# @package[^\n]*\n)?# ?([^\n]*)", text)
    return shown(found[1]) if found else ""


def row(left: str, right: str, width: int) -> list[str]:
    """Two columns, the second on as many lines as it needs."""
    columns = max(80, min(shutil.get_terminal_size((140, 24)).columns, 160))
    if not right:
        return [left]
    lines = textwrap.wrap(right, columns - width - 1, break_long_words=False, break_on_hyphens=False)
    first = [f"{left:<{width}} {lines[0]}"] if len(left) <= width else [left, f"{'':<{width}} {lines[0]}"]
    return [*first, *(f"{'':<{width}} {line}" for line in lines[1:])]


def values_of(group: str, name: str) -> Values:
    """Of a choice, with those of the files that it builds on and of the choices in it; what has to be given first."""
    found: Values = {}
    for text in with_bases(group, name):
        for inner, choice, _ in defaults_of(text):
            found |= values_of(f"{group}/{inner}", choice or "")
        found |= values_in(text, "" if text.startswith("# @package _global_") else group.replace("/", "."))
    return dict(sorted(found.items(), key=lambda each: each[1][0] != "???"))


def loaded(text: str) -> Any:
    """What `yaml.safe_load` gives, by libyaml where there is one: a tenth of the time of a `--help`."""
    return LOADER(text).get_single_data()


def values_in(text: str, path: str) -> Values:
    """Those that stand in a file itself."""
    node, data = yaml.compose(text, LOADER), loaded(text)
    return dict(walk(node, data, path, text)) if isinstance(node, yaml.MappingNode) else {}


def walk(node: yaml.MappingNode, data: dict[str, Any], path: str, text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for key, value in node.value:
        at = f"{path}.{key.value}" if path else key.value
        if key.value in HIDDEN:
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from walk(value, data[key.value], at, text)
        elif isinstance(value, yaml.ScalarNode | yaml.MappingNode):
            yield at, (text[value.start_mark.index : value.end_mark.index], comment_behind(text, value))
        else:
            yield at, (listed(data[key.value]), comment_behind(text, value if value.flow_style else key))


def listed(values: list[Any]) -> str:
    """Numbers and words as they are written behind a key; of parts their classes."""
    names = [str(each.get("_target_", "...")).rpartition(".")[2] if isinstance(each, dict) else each for each in values]
    return json.dumps(names, separators=(",", ":")).replace('"', "")


def comment_behind(text: str, node: yaml.Node) -> str:
    found = re.match(r":?[ \t]*#[ \t]*([^\n]*)", text[node.end_mark.index :])
    return found[1].rstrip() if found else ""


def top(text: str) -> dict[str, yaml.Node]:
    node = yaml.compose(text, LOADER) if text else None
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def every(group: str) -> dict[str, str]:
    """Those of a group, with presets and sweeps, and with the files of installed packages and ./experiments, which are anybody's and only shown."""
    found = {**built_in(group), **built_in(group, "facenet.experiments")}
    for folder in (*of_packages(), Path("experiments")):
        for path in sorted((folder / group).glob("*.yaml")):
            with contextlib.suppress(OSError):  # a folder of that name, or one that may not be read
                found.setdefault(path.stem, path.read_text("utf-8", errors="replace"))
    return found


@functools.cache
def of_packages() -> tuple[Path, ...]:
    if not metadata.entry_points(group="facenet.plugins"):
        return ()
    from facenet.config.plugins import folders  # imports Hydra

    return tuple(folders().values())
