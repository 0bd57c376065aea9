"""From composed YAML to Python objects: resolve, check against the signatures, build. OmegaConf ends here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.config.slots import BEGINNINGS, WORD, closest, is_source, locate, unsaid_sources
from facenet.errors import UserError, shown
from facenet.files.atomic import replacing, sync
from facenet.files.plain import plain, yaml_text
from facenet.files.renamed import renamed
from facenet.privacy import addresses

RESOLVED, PENDING = "resolved.yaml", "resolved.pending.yaml"
REFERENCE = re.compile(r"\$\{(\.*)([\w\-.\[\]]+)\}")
MOST_REFERENCES = 1000  # looked up in 2 s; those of conf are 5
FINITE = (
    "loss",
    "optimizer",
    "schedule",
    "preprocess",
    "augment",
    "data",
)  # elsewhere, as in watch.hang_s, infinity is "never"
SPECIAL = {"_target_", "_partial_", "_convert_"}
RUNTIME = {"run", "run_dir", "overrides"}  # parameters of the root functions that a command gives, not a config


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain dicts, lists and scalars, its addresses as they may be recorded; a missing value stays "???" for `check` to
    name."""
    try:
        if addresses.secrets():  # which may refer to variables of the environment
            config = OmegaConf.create(addresses.restored(OmegaConf.to_container(config)))
        count_references(OmegaConf.to_container(config))
        found = addresses.kept(OmegaConf.to_container(config, resolve=True))
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


def of_job(run_dir: Path) -> dict[str, Any]:
    """The config under which a job runs there; PENDING until its first checkpoint is in place, if others are there."""
    pending = run_dir / PENDING
    return read(pending if pending.is_file() else run_dir / RESOLVED)


def adopt_pending(run_dir: Path) -> None:
    """Makes a PENDING config the directory's."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(run_dir / PENDING, run_dir / RESOLVED)
        sync(run_dir)


def read(path: Path) -> dict[str, Any]:
    """A config that `write` left, which others may have changed since: plain values, references as they are spelled. Raises UserError for what is
    no config, OSError where there is none."""
    text = yaml_text(path)
    try:
        found = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: no config ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: no config of a run")
    return typing.cast("dict[str, Any]", addresses.kept(renamed(plain(found, str(path)))))


def chosen(choices: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    """Choices of groups of `conf`, as in {"backbone": "mobilefacenet"}, resolved beside the values that they refer to. Raises UserError
    that lists what there is."""
    nodes: dict[str, Any] = dict(values)
    for group, name in choices.items():
        found = {file.name.removesuffix(".yaml"): file for file in files("facenet.conf").joinpath(group).iterdir()}
        if name not in found:
            raise UserError(f"{group}: no {name!r}; one of {', '.join(sorted(found))}")
        nodes[group] = OmegaConf.create(found[name].read_text(encoding="utf-8"))
    return resolve(OmegaConf.create(nodes))


def write(config: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(to_yaml(config), encoding="utf-8")


def to_yaml(config: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(addresses.kept(config)))


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits that two configs share if they describe the same training: where it is recorded and what it goes on from do
    not count."""
    described = {name: value for name, value in config.items() if name not in ("tracking", "resume", "resume_changed")}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


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
            return self.target(**values)
        except UserError:
            raise
        except Exception as error:  # of a constructor of torch, timm, ...: almost any type
            said = str(error).splitlines() or [type(error).__name__]
            named = f"{self.target.__module__}.{self.target.__qualname__}"
            raise UserError(f"config: {self.path}: {named} cannot be built ({said[0]})") from error


def build(node: Any, slot: str = "", *, of_others: bool = False) -> Any:
    """The objects that the `_target_`s of a resolved node describe; dicts and lists keep their shape. `slot`: where the node stands in a config,
    such as "backbone", which decides what may be built; without it the node is a dict of such places. Nothing is built before all of it has been
    looked at. of_others: from a file of somebody else; what opens files or addresses is refused then.

    Raises UserError for what may not be built, or cannot.
    """
    checked = plain(node, slot or "config")
    if not of_others:
        checked = addresses.restored(checked)
    return made(parts_of(checked, slot, of_others=of_others))


COPYING = (
    "TransformerEncoder",
    "TransformerDecoder",
)  # of torch.nn: a part without tensors, which are counted, a billion times


def parts_of(node: Any, path: str, *, of_others: bool) -> Any:
    """A copied node with a Part in place of each dict that has a `_target_`."""
    if isinstance(node, list):
        return [parts_of(value, f"{path}.{index}", of_others=of_others) for index, value in enumerate(node)]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"{path}: {shown(node)!r} may not be built: a resolved config holds no ${{...}}")
    if of_others and isinstance(node, str) and not WORD.fullmatch(node):
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
        if of_others and is_source(key, value):
            if not (inspect.isfunction(target) and key in BEGINNINGS):
                raise opened(at, value)
            value = None if key != "pretrained" else False
        values[key] = parts_of(value, at, of_others=of_others)
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
    """What `parts_of` described."""
    if isinstance(described, Part):
        return described.built()
    if isinstance(described, dict):
        return {key: made(value) for key, value in described.items()}
    return [made(value) for value in described] if isinstance(described, list) else described


def check(config: dict[str, Any], root: Callable[..., Any]) -> None:
    """Binds the config to the signature of `root` and each `_target_` to its own. Raises UserError that lists all problems."""
    problems = problems_of(config, root)
    if problems:
        raise UserError(problem_list(problems))


def problems_of(config: dict[str, Any], root: Callable[..., Any]) -> list[str]:
    return list(unfit(config, root, "", partial=False))


def problem_list(problems: list[str]) -> str:
    return "\n  ".join([f"config: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems])


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts and lists with its dotted path, parents first."""
    yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from walk(value, f"{path}.{key}" if path else str(key))


def unfit(node: dict[str, Any], target: Callable[..., Any], path: str, *, partial: bool) -> Iterator[str]:
    """Every way in which the keys and values of a node do not fit the signature of its target."""
    parameters = dict(inspect.signature(target).parameters)
    if not path:
        parameters = {key: parameter for key, parameter in parameters.items() if key not in RUNTIME}
    hints = annotations_of(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = public_name(target) if path else "this command"
    for key, value in node.items():
        at = f"{path}.{key}" if path else str(key)
        if key in SPECIAL:
            continue
        if key not in parameters:
            if not open_ended:
                yield f"{at}: {named} has no parameter {key!r}{closest(str(key), list(parameters))}{way_without(at)}"
            continue
        yield from unfit_value(value, hints.get(key, Any), at)
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and parameter.kind is not parameter.VAR_POSITIONAL and key not in node and not partial:
            at = f"{path}.{key}" if path else key
            yield f"{at}: {named} needs it; set {at}=..."


set_by: dict[str, str] = {}  # key -> the preset that sets it, of those that this command has read


def way_without(key: str) -> str:
    """How to keep a preset beside a choice that has no such key."""
    preset = set_by.get(key)
    return (
        f"; preset={shown(preset)} sets it for another choice: add {shlex.quote('~' + shown(key))}, or leave the preset"
        if preset
        else ""
    )


def unfit_value(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Problems of one value: built ones by their own signature, plain ones by the annotation."""
    if value == "???":
        yield f"{path}: needs a value; set {path}=..."
    elif isinstance(value, dict) and "_target_" in value:
        try:
            target = locate(value["_target_"], path)
            yield from unfit(value, target, path, partial=bool(value.get("_partial_", False)))
        except UserError as error:
            yield str(error)
        except ValueError:  # builtins without a signature bind when they are built
            return
    elif isinstance(value, float) and math.isinf(value) and path.partition(".")[0] in FINITE:
        yield f"{path}: expected a finite number, got {value!r}"
    elif path.rpartition(".")[2] == "seed" and isinstance(value, int) and value < 0:
        yield f"{path}: expected 0 or more, got {value!r}"
    elif isinstance(value, (dict, list)) and is_built(hint):
        yield f"{path}: has no _target_, by which such a part is built; choose one with {path}=..."
    elif not fits(value, hint):
        yield f"{path}: expected {spell(hint)}, got {value!r}"
    elif isinstance(value, dict):
        keys = annotations_of(hint) if typing.is_typeddict(hint) else {}
        for key in keys:
            if key not in value:
                yield f"{path}: has no {key}; set {path}.{key}=..., with + before it where that is new"
        for key, item in value.items():
            if keys and key not in keys:
                yield f"{path}.{key}: expected {' and '.join(keys)} alone{closest(str(key), list(keys))}"
            yield from unfit_value(item, keys.get(key, item_hint(hint)), f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unfit_value(item, Any, f"{path}.{index}")


def is_built(hint: Any) -> bool:
    """Whether it is a class of ours, one of some, or a partial, which YAML spells with a `_target_` alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(is_built(option) or option is types.NoneType for option in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    ours = isinstance(kind, type) and kind.__module__.partition(".")[0] == "facenet" and not typing.is_typeddict(kind)
    return ours or kind is functools.partial


def item_hint(hint: Any) -> Any:
    """Of the values of a dict."""
    arguments = typing.get_args(hint)
    return arguments[1] if typing.get_origin(hint) is dict and len(arguments) == 2 else Any


def annotations_of(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) and not typing.is_typeddict(target) else target
    try:
        return typing.get_type_hints(function)
    except (
        NameError,
        TypeError,
        AttributeError,
    ):  # annotations of others that name what is not imported: keys are still checked
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
