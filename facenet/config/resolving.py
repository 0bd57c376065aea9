"""From a composed config to plain dicts. OmegaConf ends here."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.config.checking import problem_list
from facenet.errors import UserError, shown
from facenet.files.choices import built_in
from facenet.files.renamed import renamed
from facenet.privacy import addresses

REFERENCE = re.compile(r"\$\{(\.*)([\w\-.\[\]]+)\}")
MOST_REFERENCES = 1000  # looked up in 2 s; those of conf are 5


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain dicts, lists and scalars, its addresses as they may be recorded; a missing value stays "???" for `check` to
    name."""
    try:
        if addresses.secrets():  # which may refer to variables of the environment
            config = OmegaConf.create(addresses.restore_secrets(OmegaConf.to_container(config)))
        count_references(OmegaConf.to_container(config))
        found = addresses.hide_secrets(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(problem_list([f"{error.full_key}: {str(error).splitlines()[0]}"])) from None
    return typing.cast("dict[str, Any]", renamed(found, tell=True))


def count_references(raw: Any) -> None:
    """Raises UserError where references to values that are references make a value that OmegaConf would look up for hours, each time anew."""
    counted: dict[tuple[str, ...], int] = {}

    def count(place: tuple[str, ...], node: Any) -> int:
        if place not in counted:
            counted[place] = 0  # of one that refers to itself, which OmegaConf tells
            counted[place] = sum(count_in(at, text) for at, text in texts(node, place))
            if counted[place] > MOST_REFERENCES:
                named = shown(".".join(place))
                raise UserError(
                    f"config: {named}: its references lead to more than {MOST_REFERENCES:,} others; write the values out"
                )
        return counted[place]

    def count_in(place: tuple[str, ...], text: str) -> int:
        total = 0
        for dots, named in REFERENCE.findall(text):
            target = (*(place[: -len(dots)] if dots else ()), *filter(None, re.split(r"[.\[\]]", named)))
            total += 1 + count(target, value_at(raw, target))
        return total

    try:
        count((), raw)
    except RecursionError:
        raise UserError("config: references that lead to references without an end; write the values out") from None


def texts(node: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from texts(value, (*place, str(key)))
    if isinstance(node, str):
        yield place, node


def value_at(node: Any, place: tuple[str, ...]) -> Any:
    """None where there is none."""
    for part in place:
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    return node


def chosen(choices: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    """Choices of groups of `conf`, as in {"backbone": "mobilefacenet"}, resolved beside the values that they refer to. Raises UserError
    that lists what there is."""
    nodes: dict[str, Any] = dict(values)
    for group, name in choices.items():
        if name not in (found := built_in(group)):
            raise UserError(f"{group}: no {name!r}; one of {', '.join(found)}")
        nodes[group] = OmegaConf.create(found[name])
    return resolve(OmegaConf.create(nodes))
