"""The objects that the `_target_`s of a config describe. Nothing is built before all of it has been looked at."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from facenet.config.checking import SPECIAL
from facenet.config.slots import BEGINNINGS, is_source, is_word, locate, strangers_in, unsaid_sources
from facenet.errors import UserError, shown
from facenet.files.plain import plain
from facenet.privacy import addresses

# Of torch.nn: a part without tensors, which are counted, a billion times.
COPYING = ("TransformerEncoder", "TransformerDecoder")


@dataclass(frozen=True)
class Part:
    """One `_target_` that may be built at `path`, and its checked values."""

    path: str
    target: Callable[..., Any]
    partial: bool
    values: dict[str, Any]

    def built(self) -> Any:
        values = made(self.values)
        if self.partial:
            return functools.partial(self.target, **values)
        try:
            with told_at(self.path, self.target):
                return self.target(**values)
        except UserError:
            raise
        except Exception as error:  # of a constructor of torch, timm, ...: almost any type
            said = str(error).splitlines() or [type(error).__name__]
            named = f"{self.target.__module__}.{self.target.__qualname__}"
            raise UserError(f"config: {self.path}: {named} cannot be built ({said[0]})") from error


@contextlib.contextmanager
def told_at(path: str, target: Callable[..., Any]) -> Iterator[None]:
    """Inside, a mistake in a key of `benchmark`, under which a benchmark knows itself until it has a name, is told of the place where it stands, such
    as benchmarks.agedb. target: its class, whose parameters are the keys."""
    try:
        yield
    except UserError as error:
        head, _, name = path.partition(".")
        if head != "benchmarks" or "." in name:
            raise
        keys = "|".join(map(re.escape, inspect.signature(target).parameters))
        raise UserError(re.sub(rf"(?<![\w./-])benchmark\.(?=(?:{keys})\b)", f"{path}.", str(error))) from error


def build(node: Any, slot: str = "", *, of_others: bool = False) -> Any:
    """The objects that the `_target_`s of a resolved node describe; dicts and lists keep their shape. `slot`: where the node stands in a config,
    such as "backbone", which decides what may be built; without it the node is a dict of such places. Nothing is built before all of it has been
    looked at. of_others: from a file of somebody else; what opens files or addresses is refused then.

    Raises UserError for what may not be built, or cannot."""
    checked = plain(node, slot or "config")
    if not of_others:
        checked = addresses.restore_secrets(checked)
    return made(parts_of(checked, slot, of_others=of_others))


def parts_of(node: Any, path: str, *, of_others: bool, within: bool = False) -> Any:
    """A copied node with a Part in place of each dict that has a `_target_`. within: a class of somebody else's, which may open what it is given."""
    if isinstance(node, dict) and "_target_" in node:
        within = within or strangers_in({"_target_": node["_target_"]})
    if isinstance(node, list):
        return [
            parts_of(value, f"{path}.{index}", of_others=of_others, within=within) for index, value in enumerate(node)
        ]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"{path}: {shown(node)!r} may not be built: a resolved config holds no ${{...}}")
    if of_others and isinstance(node, str) and not is_word(node, of_stranger=within):
        raise opened(path, node)
    if not isinstance(node, dict):
        return node
    target = locate(node["_target_"], path) if "_target_" in node else None
    values = {}
    for key, value in node.items():
        at = f"{path}.{shown(key)}" if path else shown(key)
        if target is not None and key in SPECIAL:
            continue
        if key.startswith("_"):  # _args_, _recursive_ and the like of Hydra, or a constructor's private parameters
            raise UserError(f"{at}: no key of a config; leave it out")
        if of_others and not is_word(key, of_stranger=within):
            raise opened(at, key)
        if of_others and is_source(key, value):
            if not (inspect.isfunction(target) and key in BEGINNINGS):
                raise opened(at, value)
            value = None if key != "pretrained" else False
        values[key] = parts_of(value, at, of_others=of_others, within=within)
    if target is None:
        return values
    if of_others:
        if getattr(target, "__name__", "") in COPYING:
            raise UserError(f"{path}._target_: copies a part as often as a number says, which a checkpoint may not")
        values |= unsaid_sources(target, values)
    partial = node.get("_partial_", False)
    if not isinstance(partial, bool):
        raise UserError(f"{path}._partial_: expected bool, got {shown(str(partial))!r}")
    return Part(path, target, partial, values)


def opened(path: str, value: Any) -> UserError:
    return UserError(
        f"{path}: {shown(str(value))!r} would open a file or an address, which a checkpoint may not; if you trust it, name its network yourself: "
        "weights=FILE backbone=..."
    )


def made(described: Any) -> Any:
    """Builds what `parts_of` described."""
    if isinstance(described, Part):
        return described.built()
    if isinstance(described, dict):
        return {key: made(value) for key, value in described.items()}
    return [made(value) for value in described] if isinstance(described, list) else described
