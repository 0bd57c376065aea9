"""From composed YAML to Python objects: resolve, check against the signatures, build. OmegaConf ends here."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import inspect
import json
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.atomic import replacing, sync
from facenet.errors import UserError

# A config can come out of somebody else's checkpoint: it may only build classes of these packages, and models of two zoos.
ALLOWED = (
    "facenet.",
    "torch.optim.",
    "torch.nn.",
    "torchvision.",
    "albumentations.",
    "pytorch_metric_learning.",
    "timm.",
)
ZOOS = ("torchvision.models.", "timm.create_model")
RESOLVED, PENDING = "resolved.yaml", "resolved.pending.yaml"
SPECIAL = {"_target_", "_partial_", "_convert_"}
RUNTIME = {"run", "run_dir", "overrides"}  # parameters of the root functions that a command gives, not a config


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain dicts, lists and scalars; a missing value stays "???" for `check` to name."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(problem_list([f"{error.full_key}: {str(error).splitlines()[0]}"])) from None
    return typing.cast("dict[str, Any]", plain)


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
    return typing.cast("dict[str, Any]", OmegaConf.to_container(typing.cast(DictConfig, OmegaConf.load(path))))


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
    return OmegaConf.to_yaml(OmegaConf.create(config))


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits that two configs share if they describe the same training: where it is recorded and what it goes on from do
    not count."""
    described = {name: value for name, value in config.items() if name not in ("tracking", "resume", "resume_changed")}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def build(node: Any) -> Any:
    """The objects that the `_target_`s of a checked, resolved node describe; dicts and lists keep their shape."""
    if not isinstance(node, (dict, list)):
        return node
    for path, value in walk(node):
        if isinstance(value, dict) and "_target_" in value:
            locate(value["_target_"], path)
        # instantiate would follow it, also to a target that was never looked at
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{path}: {value!r} may not be built: a resolved config holds no ${{...}}")
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from None
            cause = cause.__cause__
        raise UserError(f"config: {str(error).splitlines()[0]} ({error.__cause__})") from error


def check(config: dict[str, Any], root: Callable[..., Any]) -> None:
    """Binds the config to the signature of `root` and each `_target_` to its own. Raises UserError that lists all problems."""
    problems = problems_of(config, root)
    if problems:
        raise UserError(problem_list(problems))


def problems_of(config: dict[str, Any], root: Callable[..., Any]) -> list[str]:
    return list(unfit(config, root, "", partial=False))


def problem_list(problems: list[str]) -> str:
    return "\n  ".join([f"config: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems])


def locate(target: Any, path: str) -> Any:
    """The object that a `_target_` names. Raises UserError when it is not allowed or does not exist."""
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise UserError(f"{path}._target_: {target!r} may not be built from a config; allowed: {' '.join(ALLOWED)}")
    parts = target.split(".")
    # torch.optim is no attribute of an unimported torch, and a class's attribute is no module: import the longest prefix.
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:split]).startswith(str(error.name)):
                raise UserError(
                    f"{path}._target_: {target} needs the package {error.name}: pip install {error.name}"
                ) from None
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(f"{path}._target_: {'.'.join(parts[:split])} does not import here: {error}") from None
        for depth, part in enumerate(parts[split:]):
            if part.startswith("_") or not hasattr(found, part):
                near = closest(part, [name for name in dir(found) if not name.startswith("_")])
                raise UserError(f"{path}._target_: no {part!r} in {'.'.join(parts[: split + depth])}{near}")
            found = getattr(found, part)
        # What a module merely imported (`facenet.launch.subprocess.Popen`) and plain functions are no parts to build.
        if not (inspect.isclass(found) or target.startswith(ZOOS)) or not f"{found.__module__}.".startswith(ALLOWED):
            raise UserError(f"{path}._target_: {target} is nothing that a config can build")
        return found
    raise UserError(f"{path}._target_: no module {parts[0]!r} here: pip install {parts[0]}")


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
                yield f"{at}: {named} has no parameter {key!r}{closest(str(key), list(parameters))}"
            continue
        yield from unfit_value(value, hints.get(key, Any), at)
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and parameter.kind is not parameter.VAR_POSITIONAL and key not in node and not partial:
            at = f"{path}.{key}" if path else key
            yield f"{at}: {named} needs it; set {at}=..."


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
    elif not fits(value, hint):
        yield f"{path}: expected {spell(hint)}, got {value!r}"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from unfit_value(item, Any, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unfit_value(item, Any, f"{path}.{index}")


def annotations_of(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
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
        return isinstance(value, (int, float)) and not isinstance(value, bool)
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
    package = importlib.import_module(".".join(module[:-1])) if len(module) > 1 else None
    short = module[:-1] if getattr(package, target.__qualname__, None) is target else module
    return ".".join([*short, target.__qualname__])


def closest(name: str, options: list[str]) -> str:
    near = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
