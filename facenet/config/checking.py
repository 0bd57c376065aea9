"""A config held against the signatures of what it names: all problems in one message."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import shlex
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from facenet.config import near
from facenet.config.slots import closest, locate
from facenet.errors import UserError, shown

# Elsewhere, as in watch.hang_s, infinity is "never".
FINITE = ("loss", "optimizer", "schedule", "preprocess", "augment", "data")
SPECIAL = {"_target_", "_partial_", "_convert_"}
RUNTIME = {"run", "run_dir", "overrides"}  # parameters of the root functions that a command gives, not a config
# What to do where there is no such thing to name.
WITHOUT = {
    "benchmark.root": "; without LFW, benchmark=heldout tests on people of your own data, benchmark=bin on a file"
}
set_by: dict[str, str] = {}  # key -> the preset that sets it, of those that this command has read
named_in: dict[str, str] = {}  # target -> the file of a directory that names it


def check(config: dict[str, Any], root: Callable[..., Any]) -> None:
    """Binds the config to the signature of `root` and each `_target_` to its own. Raises UserError that lists all problems."""
    problems = problems_of(config, root)
    if problems:
        raise UserError(problem_list(problems))


def problems_of(config: dict[str, Any], root: Callable[..., Any]) -> list[str]:
    return list(unfit(config, root, "", partial=False, whole=config))


def problem_list(problems: list[str]) -> str:
    return "\n  ".join([f"config: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems])


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts and lists with its dotted path, parents first."""
    yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from walk(value, f"{path}.{key}" if path else str(key))


def unfit(
    node: dict[str, Any], target: Callable[..., Any], path: str, *, partial: bool, whole: Mapping[str, Any]
) -> Iterator[str]:
    """Every way in which the keys and values of a node, which is a part of a whole config, do not fit the signature of its target."""
    parameters = dict(inspect.signature(target).parameters)
    if not path:
        parameters = {key: parameter for key, parameter in parameters.items() if key not in RUNTIME}
        whole = {key: value for key, value in node.items() if key in parameters}
    hints = annotations_of(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = public_name(target) if path else "this command"
    for key, value in node.items():
        at = f"{path}.{key}" if path else str(key)
        if key in SPECIAL:
            continue
        if key not in parameters:
            if not open_ended:
                yield f"{at}: {named} has no parameter {key!r}{way_to(at, value, list(parameters), whole)}{way_without(at)}"
            continue
        yield from unfit_value(value, hints.get(key, Any), at, whole)
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and parameter.kind is not parameter.VAR_POSITIONAL and key not in node and not partial:
            at = f"{path}.{key}" if path else key
            yield f"{at}: {named} needs it; set {at}=..."


def way_to(key: str, value: Any, names: list[str], whole: Mapping[str, Any]) -> str:
    """What to write instead of a key that its part does not have; nothing where nothing is like it."""
    group, _, own = key.partition(".")
    if folder := near.folder_meant(key, value):
        return folder
    if found := near.choices_with(group, own) if own else []:
        return f"; add {' or '.join(f'{group}={name}' for name in found)}"
    respelled = near.respelled_key(key, value, names)
    return (own and respelled) or near.meant(key, value, whole) or respelled


def way_without(key: str) -> str:
    """How to keep a preset beside a choice that has no such key."""
    preset = set_by.get(key)
    return (
        f"; preset={shown(preset)} sets it for another choice: add {shlex.quote('~' + shown(key))}, or leave the preset"
        if preset
        else ""
    )


def unfit_value(value: Any, hint: Any, path: str, whole: Mapping[str, Any]) -> Iterator[str]:
    """Problems of one value: built ones by their own signature, plain ones by the annotation."""
    if value == "???":
        yield f"{path}: needs a value; set {path}=...{WITHOUT.get(path, '')}"
    elif isinstance(value, dict) and "_target_" in value:
        try:
            target = locate(value["_target_"], path)
            yield from unfit(value, target, path, partial=bool(value.get("_partial_", False)), whole=whole)
        except UserError as error:
            file = named_in.get(str(value["_target_"]))
            yield f"{error} ({shown(file)})" if file else str(error)
        except ValueError:  # builtins without a signature bind when they are built
            return
    elif isinstance(value, float) and math.isinf(value) and path.partition(".")[0] in FINITE:
        yield f"{path}: expected a finite number, got {value!r}"
    elif path.rpartition(".")[2] == "seed" and isinstance(value, int) and value < 0:
        yield f"{path}: expected 0 or more, got {value!r}"
    elif isinstance(value, (dict, list)) and is_built(hint):
        yield f"{path}: has no _target_, by which such a part is built; choose one with {path}=..."
    elif not fits(value, hint):
        meant = next((each for each in near.respelled(value, path) if fits(each, hint)), None)
        way = "" if meant is None else f"; write {near.filled(f'{path}={{}}', meant)}"
        yield f"{path}: expected {spell(hint)}, got {value!r}{way}"
    elif isinstance(value, dict):
        keys = annotations_of(hint) if typing.is_typeddict(hint) else {}
        for key in keys:
            if key not in value:
                yield f"{path}: has no {key}; set {path}.{key}=..., with + before it where that is new"
        for key, item in value.items():
            if keys and key not in keys:
                yield f"{path}.{key}: expected {' and '.join(keys)} alone{closest(str(key), list(keys))}"
            kind = keys.get(key, item_hint(hint))
            unfinished = (
                typing.is_typeddict(kind) and isinstance(item, dict) and not kind.__required_keys__ <= item.keys()
            )
            sibling = closest(str(key), [each for each in value if each != key]) if unfinished else ""
            yield from (f"{problem}{sibling}" for problem in unfit_value(item, kind, f"{path}.{key}", whole))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unfit_value(item, Any, f"{path}.{index}", whole)


def is_built(hint: Any) -> bool:
    """Whether it is a class of ours, one of some, or a partial, which YAML spells with a `_target_` alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(is_built(option) or option is types.NoneType for option in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    ours = isinstance(kind, type) and kind.__module__.partition(".")[0] == "facenet" and not typing.is_typeddict(kind)
    return ours or kind is functools.partial


def item_hint(hint: Any) -> Any:
    """Returns the type hint of a dict's values."""
    arguments = typing.get_args(hint)
    return arguments[1] if typing.get_origin(hint) is dict and len(arguments) == 2 else Any


def annotations_of(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) and not typing.is_typeddict(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # of others that name what is not imported: keys are still checked
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value may stand for the annotation. An annotation that YAML cannot spell accepts only built values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    if origin is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin in (list, tuple):
        item = arguments[0] if arguments else Any
        return isinstance(value, list) and all(fits(each, item) for each in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, list):
        return isinstance(value, hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is dict or origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return isinstance(value, dict)
    return not isinstance(value, (str, int, float, bool, types.NoneType))


def spell(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(spell(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return f"list of {spell(typing.get_args(hint)[0])}"
    return "null" if hint is types.NoneType else str(getattr(hint, "__name__", hint))


def public_name(target: Callable[..., Any]) -> str:
    """torch.optim.SGD rather than torch.optim.sgd.SGD, as the YAML spells it."""
    module = target.__module__.split(".")
    for depth in range(1, len(module)):
        package = ".".join(module[:depth])
        if getattr(importlib.import_module(package), target.__qualname__, None) is target:
            return f"{package}.{target.__qualname__}"
    return f"{target.__module__}.{target.__qualname__}"
