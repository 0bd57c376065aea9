"""What may be built at each place of a config, decided before anything is imported for it or built; and what a config of others may not say."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from facenet.config.contracts import contract_at, lacking
from facenet.errors import UserError, shown
from facenet.files import trusted
from facenet.files.renamed import current


@dataclass(frozen=True)
class Takes:
    """names: how its targets are spelled; a whole module's end with a dot. kinds: classes that what they name must be, or derive from; a model of
    a zoo is made by a function. within: what stands anywhere inside it."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    within: Takes | None = None


MODULE = "torch.nn.Module"
ZOOS = ("timm.create_model", "torchvision.models.")  # the only functions
NETWORKS = Takes(
    (*ZOOS, "facenet.backbones.", "timm.models.", "timm.layers.", "torchvision.ops.", "torch.nn."), (MODULE,)
)
TERMS = Takes(("facenet.losses.",), ("facenet.losses.Term",))
TRANSFORMS = Takes(
    ("albumentations.",),
    ("albumentations.core.transforms_interface.BasicTransform", "albumentations.core.composition.BaseCompose"),
)
SCHEDULERS = Takes(("torch.optim.lr_scheduler.",), ("torch.optim.lr_scheduler.LRScheduler",))
BENCHMARKS = tuple(f"facenet.evaluation.{name}" for name in ("Lfw", "Bin", "HeldOut", "NoBenchmark"))

TRACKING = ("facenet.tracking.MlflowTracking", "facenet.tracking.NoTracking")


def one(name: str, within: Takes | None = None) -> Takes:
    return Takes((name,), (name,), within)


SLOTS = {
    "backbone": Takes(("facenet.backbones.",), ("facenet.backbones.Embedder",), NETWORKS),
    "loss": one("facenet.losses.LossMix", TERMS),
    "data": Takes(("facenet.data.",), ("facenet.data.Data",)),
    "sampler": Takes(("facenet.data.",), ("facenet.data.Sampler",)),
    "augment": one("facenet.data.Augment", TRANSFORMS),
    "preprocess": one("facenet.data.Preprocess"),
    "optimizer": Takes(("torch.optim.", "timm.optim.", "facenet.engine.Muon"), ("torch.optim.Optimizer",)),
    "schedule": Takes(("facenet.engine.",), ("facenet.engine.Schedule",), SCHEDULERS),
    "benchmark": Takes(BENCHMARKS, BENCHMARKS, one("facenet.evaluation.Protocol")),
    "tracking": Takes(TRACKING, TRACKING),
    "watch": one("facenet.engine.Watch"),
    "accelerator": one("facenet.devices.DeviceChoice"),
    "precision": one("facenet.devices.Precision"),
    "distributed": one("facenet.distributed.Distributed"),
    "trainer": one("facenet.engine.Settings"),
    "sweep": one("facenet.sweeps.Sweep"),
}
ROWS = [row for slot in SLOTS.values() for row in (slot, slot.within) if row is not None]
ANY = Takes(tuple(dict.fromkeys(name for row in ROWS for name in row.names)), ())  # where no slot is said

# Parameters by which a constructor reads a file or an address: timm's, torchvision's and the usual ones.
SOURCES = re.compile(
    r"pretrained.*|weights|weights_.+|url|uri|file|filename|path|hub.*|repo.*|.+_(path|file|filename|url|uri|dir)s?",
    re.IGNORECASE,
)
# Of these those by which a zoo's function fills a network that it has made. A checkpoint brings all its weights, so there they are left out.
BEGINNINGS = ("pretrained", "checkpoint_path", "weights", "weights_backbone")
LOCAL = re.compile(r"(sqlite|file):///((?!://|::).)*", re.DOTALL)
WORD = re.compile(r"(?!\.+$)[\w.+\- ]*")  # "relu", "resnet18.a1_in1k", "batch_hard": no path, no address, no hub's name


def takes(path: str) -> Takes | None:
    """The row of a place such as "loss.terms.ce.loss"; None where nothing is built. Raises nothing."""
    head, _, inside = path.partition(".")
    if head == "benchmarks":  # each under a name
        if not inside:
            return None
        head, inside = "benchmark", inside.partition(".")[2]
    row = SLOTS.get(head, ANY)
    return row if row is ANY or not inside else row.within


def locate(target: Any, path: str) -> Any:
    """The object that a `_target_` names. Raises UserError when it is not one for this place or does not exist."""
    row = takes(path)
    names = row.names if row is not None else ()
    target = current(target) if type(target) is str else target
    ours = type(target) is str and named_by(names, target)
    stranger = None if ours or contract_at(path) is None else trusted.package_holding(target)
    if not ours and stranger is None:
        allowed = f"allowed: {' '.join(names)}" if names else "nothing is built here"
        said = shown(target) if isinstance(target, str) else type(target).__name__
        way = way_to_trust(target) if contract_at(path) is not None else ""
        raise UserError(f"{path}._target_: {said!r} may not be built from a config; {allowed}{way}")
    parts = target.split(".")
    for depth, part in enumerate(parts):
        if part.startswith("_") or not part.isidentifier():
            raise UserError(f"{path}._target_: no {shown(part)!r} in {'.'.join(parts[:depth])}")
    if stranger is not None:
        return of_stranger(parts, path, stranger)
    found = imported(parts, path)
    assert row is not None
    if not fits_slot(found, target, row):
        what = (
            "nothing that a config can build" if row is ANY else f"no part for {path}; it takes {' '.join(row.kinds)}"
        )
        raise UserError(f"{path}._target_: {target} is {what}")
    return found


def way_to_trust(target: Any) -> str:
    """How to allow a target that is of somebody else's package, as the end of a refusal; empty where nothing would allow it."""
    parts = target.split(".") if type(target) is str else []
    strange = len(parts) > 1 and all(part.isidentifier() and not part.startswith("_") for part in parts)
    if not strange or parts[0] in trusted.KNOWN or parts[0] in sys.stdlib_module_names:
        return ""
    name = shown(parts[0])
    near = next((place for place in (name, f"{name}.py") if os.path.exists(place)), None)
    said = f"{trusted.KEY}={os.path.join('.', near)}" if near else f"{trusted.KEY}={name} or {trusted.KEY}=PATH/{name}"
    meant = closest(name, [each.root for each in trusted.packages()])
    return f"; if you trust all code of {name}, say on the command line: {said}; from Python: {trusted.KEY}=, with flags: --{trusted.KEY}{meant}"


def of_stranger(parts: list[str], path: str, package: trusted.Package) -> Any:
    """The class of a trusted package, if it is one for this place."""
    target = ".".join(parts)
    trusted.make_ready(package)
    try:
        found = imported(parts, path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a module of a stranger's raises
        said = " ".join(str(error).split())
        raise UserError(f"{path}._target_: {package} does not import here: {type(error).__name__}: {said}") from error
    contract = contract_at(path)
    assert contract is not None
    problem = lacking(found, contract, target)
    if problem is None and trusted.package_holding(f"{found.__module__}.{found.__qualname__}") is None:
        problem = f"{target} is a class of {found.__module__}, which {package} merely imports"
    if problem is not None:
        raise UserError(f"{path}._target_: {problem}")
    return found


def imported(parts: list[str], path: str) -> Any:
    target = ".".join(parts)
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
            if not hasattr(found, part):
                modules = [each.name for each in pkgutil.iter_modules(getattr(found, "__path__", ()))]
                near = closest(part, [name for name in [*dir(found), *modules] if not name.startswith("_")])
                raise UserError(f"{path}._target_: no {part!r} in {'.'.join(parts[: split + depth])}{near}")
            found = getattr(found, part)
        return found
    raise UserError(f"{path}._target_: no module {parts[0]!r} here: pip install {parts[0]}")


def strangers_in(node: Any) -> bool:
    """Whether a class of somebody else's is named anywhere in a plain node."""
    return any(not named_by(ANY.names, current(target)) for target in trusted.targets_in(node))


def fits_slot(found: Any, target: str, row: Takes) -> bool:
    """What a module merely imported (`facenet.launch.local.subprocess.Popen`) is no part to build, nor is a function but that of a zoo."""
    if not inspect.isclass(found):
        return inspect.isfunction(found) and target.startswith(ZOOS) and of_zoo(found)
    kinds = tuple(class_of(kind) for kind in row.kinds)
    return stands_in(target.rpartition(".")[0], found, row.names) and (not kinds or issubclass(found, kinds))


def stands_in(package: str, found: type, names: tuple[str, ...]) -> bool:
    """Whether a class was defined in the package by which it was named, or under one of the names."""
    own = f"{found.__module__}.{found.__qualname__}"
    return own.startswith(f"{package}.") or named_by(names, own)


def named_by(names: tuple[str, ...], target: str) -> bool:
    return any(target.startswith(name) if name.endswith(".") else target == name for name in names)


def of_zoo(function: Any) -> bool:
    """Whether it makes a network. torchvision's modules hold other functions too, one of them for networks by name, which hides what it fetches."""
    if function.__module__.startswith("timm."):
        return bool(function.__name__ == "create_model")
    models = importlib.import_module("torchvision.models")
    return function.__module__.startswith("torchvision.models.") and function.__name__ in models.list_models()


def class_of(name: str) -> type:
    module, _, own = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), own)
    return found


def is_word(text: str, *, of_stranger: bool) -> bool:
    """Whether it is no more than a word. of_stranger: for a class of somebody else's, which may open whatever it is given: there a name of what lies
    in the working directory is none."""
    return WORD.fullmatch(text) is not None and not (of_stranger and text != "" and os.path.lexists(text))


def openings(node: Any, path: str, *, of_stranger: bool = False) -> Iterator[tuple[str, Any]]:
    """Place and value of all by which building a plain node could open a file or an address."""
    if type(node) is dict:
        for key, value in node.items():
            at = f"{path}.{shown(key)}"
            if is_source(key, value):
                yield at, value
            elif not is_word(key, of_stranger=of_stranger):
                yield at, key
            elif key != "_target_":
                yield from openings(value, at, of_stranger=of_stranger)
    elif type(node) is list:
        for index, value in enumerate(node):
            yield from openings(value, f"{path}.{index}", of_stranger=of_stranger)
    elif type(node) is str and not is_word(node, of_stranger=of_stranger):
        yield path, node


def openings_of_strangers(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Those within classes of somebody else's that are trusted; others are never built."""
    if type(node) is dict and "_target_" in node and strangers_in({"_target_": node["_target_"]}):
        yield from openings(node, path, of_stranger=True) if trusted.package_holding(node["_target_"]) else ()
    elif type(node) in (dict, list):
        for key, value in node.items() if type(node) is dict else enumerate(node):
            yield from openings_of_strangers(value, f"{path}.{key}".lstrip("."))


def is_source(key: str, value: Any) -> bool:
    """A share such as drop_path=0.1 is none, nor are sizes and counts, nor is what is switched off."""
    if key.startswith("num_") or (
        isinstance(value, (list, tuple)) and all(type(each) in (int, float) for each in value)
    ):
        return False
    return SOURCES.fullmatch(key) is not None and not (value is None or type(value) is float or value == 0)


def unsaid_sources(target: Any, said: dict[str, Any]) -> dict[str, None]:
    """{parameter: None} for those that a target has by default: some of torchvision's networks fetch weights unless told not to."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(target).parameters.items()}
    return {
        name: None
        for name, default in defaults.items()
        if name not in said and default is not inspect.Parameter.empty and is_source(name, default)
    }


def addresses_in(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Place and text of all values of a plain node that lead to another machine, also as a pattern of shards that only becomes an address."""
    if type(node) is dict:
        for key, value in node.items():
            yield from addresses_in(value, f"{path}.{shown(key)}" if path else shown(key))
    elif type(node) is list:
        for index, value in enumerate(node):
            yield from addresses_in(value, f"{path}.{index}")
    elif type(node) is str and leads_elsewhere(node, pattern=path.endswith("shards")):
        yield path, node


def leads_elsewhere(text: str, *, pattern: bool) -> bool:
    return LOCAL.fullmatch(text) is None and ("://" in text or (pattern and ":" in text and "{" in text))


def nearest(name: str, options: list[str]) -> str | None:
    """The option that is spelled nearly so; None where none is."""
    return next(iter(difflib.get_close_matches(name, options, n=1)), None)


def closest(name: str, options: list[str]) -> str:
    near = nearest(name, options)
    return f"; did you mean {near!r}?" if near else ""
