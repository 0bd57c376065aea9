"""Overrides as Hydra's own grammar reads them: the key without how it is applied (+ ++ ~), and the value. Nothing else takes their text apart."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from facenet.errors import UserError, shown
from facenet.privacy.addresses import mask

CLOSING = {"[": "]", "{": "}", "(": ")"}
OPENING = {closing: opening for opening, closing in CLOSING.items()}


def flags_first(arguments: list[str]) -> list[str]:
    """The arguments, with the overrides last where a flag stands between them: Hydra's parser takes one stretch of them and refuses the others."""
    known, others = get_args_parser().parse_known_args(arguments)
    if not others or any(each.startswith("-") for each in others):
        return arguments
    flags, overrides = list(arguments), [*known.overrides, *others]
    for each in overrides:
        flags.remove(each)
    return [*flags, *overrides]


def check_grammar(arguments: Sequence[str]) -> None:
    """Raises UserError for the first argument that Hydra's grammar does not take, with one that it does."""
    for override in get_args_parser().parse_args(arguments).overrides:
        read = parsed(override)
        if read is None:
            raise UserError(f"{shown(mask(override))}: {way_to_write(mask(override))}")
        if f"{read.key_or_group}.".startswith("hydra.sweeper.params."):  # of a null, which OmegaConf cannot fill
            raise UserError(
                f"{shown(mask(override))}: is for YAML files; here the axes are given as they are: -m key=value,value"
            )


def intervals(arguments: Sequence[str]) -> list[str]:
    """The overrides that sweep over an interval."""
    return [each for each in arguments if (read := parsed(each)) is not None and read.is_interval_sweep()]


def parsed(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def text_of(override: str) -> str:
    """The value of an override as a text: what Hydra reads in its quotes, or as it is where Hydra would not take it."""
    read = parsed(override)
    value = None if read is None or read.is_sweep_override() else read.value()
    return value if isinstance(value, str) else override.partition("=")[2]


def way_to_write(override: str) -> str:
    key, sign, value = override.partition("=")
    if not sign:
        return "no override; write key=value, +key=value or ~key, and -m for a sweep"
    shorter = override.rstrip(" ,")
    if shorter != override and parsed(shorter) is not None:
        return f"ends with a comma, after which a value is missing; write {shlex.quote(shorter)}"
    if (left := unclosed(value)) and parsed(f"{key}={value}{left}") is not None:
        return f"its {OPENING[left[-1]]} is not closed; write {shlex.quote(f'{key}={value}{left}')}"
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    if parsed(quoted) is None:
        return f"{shown(key)!r} is no key; write key=value"
    return f"a value with such characters is quoted, once for Hydra and once for the shell: {shlex.quote(quoted)}"


def unclosed(value: str) -> str:
    """The brackets that a list, a dict or a function such as choice(...) lacks at its end; none for any other text."""
    if not re.match(r"[\[{]|\w+\(", value):
        return ""
    left: list[str] = []
    for letter in value:
        if letter in CLOSING:
            left.append(CLOSING[letter])
        elif left and letter == left[-1]:
            left.pop()
    return "".join(reversed(left))


def with_names(override: str) -> str:
    """An override of a group whose choices are spelled as numbers, with these as names: preset=1 is the file 1.yaml. Null is a name as well, so that
    it is told as one that there is not."""
    read = parsed(override)
    value = None if read is None else read.value()
    choices = value.list if isinstance(value, ChoiceSweep) else [value]
    plain_ones = all(choice is None or isinstance(choice, (str, QuotedString, bool, int, float)) for choice in choices)
    if (
        read is None
        or read.is_delete()
        or not plain_ones
        or all(isinstance(choice, (str, QuotedString)) for choice in choices)
    ):
        return override
    return f"{read.get_key_element()}={','.join(map(as_name, choices))}"


TERM = re.compile(r"(loss\.terms\.\w+)(\.loss)?(\._target_)?=(.*)", re.DOTALL)


def with_new_terms(arguments: list[str]) -> list[str]:
    """The arguments, with ++ before those of each term of the loss of which one says the class: the term may be new, which Hydra takes for a typing
    error. Where no class is said it is one."""
    said = [found for each in arguments if (found := TERM.fullmatch(each)) is not None]
    new = tuple(f"{found[1]}{end}" for found in said if found[3] or "_target_" in found[4] for end in (".", "="))
    return [f"++{each}" if new and each.startswith(new) else each for each in arguments]


def as_name(choice: Any) -> str:
    name = choice if isinstance(choice, (str, QuotedString)) else QuotedString(spelled(choice), Quote.single)
    return str(Override._get_value_element_as_str(name))


def as_given(overrides: Any) -> list[str]:
    """Hydra's list of them as they were written: to go through it resolves what they refer to, which a job alone may have, or a secret variable."""
    return [str(override) for override in cast("list[Any]", OmegaConf.to_container(overrides))]


def given(overrides: Iterable[str]) -> dict[str, str]:
    """Key -> its value, spelled. Of one key that is given twice, with + and without, the last stands, as in the config."""
    return dict(key_and_value(override) for override in overrides)


def key_of(override: str) -> str:
    """`optimizer.eps` of `++optimizer.eps=1e-8`, `loss@extra` of `+loss@extra=ce`."""
    return key_and_value(override)[0]


def keys_said(overrides: Iterable[str]) -> set[str]:
    """The keys that they give a value, those inside of a dict too; of a choice its group, wherever it is placed."""
    found: set[str] = set()
    for override in overrides:
        read = parsed(override)
        found.add(key_of(override).partition("@")[0])
        found.update(keys_below(key_of(override), None if read is None else read.value()))
    return found


def keys_below(key: str, value: Any) -> Iterator[str]:
    for name, each in value.items() if isinstance(value, dict) else ():
        yield f"{key}.{name}"
        yield from keys_below(f"{key}.{name}", each)


@functools.lru_cache(maxsize=4096)  # the jobs of a sweep repeat them, and the parser takes milliseconds
def key_and_value(override: str) -> tuple[str, str]:
    try:
        read = OverridesParser.create().parse_override(override)
        return key_in(read), spelled(read.value())
    except (HydraException, TypeError):  # no override, or one whose value stands for several
        key, _, text = override.partition("=")
        return key.lstrip("+~"), text


def key_in(override: Override) -> str:
    return override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"


def spelled(value: Any) -> str:
    """A text that no other value has: as JSON, and words as they are where they could be nothing else. 1 and 1.0 are two: for a crop they mean one
    pixel and the whole. Raises TypeError for a sweep."""
    if isinstance(value, Sweep):
        raise TypeError("several values")
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True)


def plain(value: Any) -> Any:
    """Returns the value with keys of dicts as text: in JSON the number 1 and the word "1" are one key."""
    if isinstance(value, dict):
        return {spelled(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
