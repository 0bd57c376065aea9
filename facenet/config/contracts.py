"""What a class of somebody else's has to be to stand at a place of a config. Ours are the base classes; docs/extending.md has an example of each."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contract:
    """`base`: the class that it derives from. `methods`: those that it writes itself, and that take what the base's take. `attributes`: what the
    class or one of its methods sets."""

    called: str
    base: str
    methods: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


PART = Contract("part of a network or a loss", "torch.nn.Module", ("forward",))
AUGMENTATION = Contract("augmentation", "albumentations.core.transforms_interface.BasicTransform")
BENCHMARK = "facenet.evaluation.Benchmark"
CONTRACTS = {  # by place, the first that fits; elsewhere nothing of a stranger's is built
    r"loss\.terms\.[^.]+\.loss": Contract("loss term", "facenet.losses.Term", ("forward",)),
    r"loss\..+": Contract("part of a loss", "torch.nn.Module"),
    r"backbone": Contract("backbone", "facenet.backbones.Embedder", ("features",), ("embedding_size",)),
    r"backbone\.trunk": Contract("trunk", "torch.nn.Module", ("forward",), ("num_features",)),
    r"backbone\..+": PART,
    r"sampler": Contract("sampler", "facenet.data.Sampler", ("batches",), ("layout",)),
    r"data": Contract("source of faces", "facenet.data.Data", ("open",)),
    r"benchmark|benchmarks\.\w+": Contract("benchmark", BENCHMARK, ("open",), ("name", "key", "needs_heldout")),
    r"augment\..+": AUGMENTATION,
    r"optimizer": Contract("optimizer", "torch.optim.Optimizer", ("step",)),
    r"tracking": Contract("tracker", "facenet.tracking.NoTracking", ("tracker",)),
    r"schedule": Contract("schedule", "facenet.engine.Schedule", ("rate",)),
    r"schedule\..+": Contract("scheduler of torch", "torch.optim.lr_scheduler.LRScheduler", ("get_lr",)),
}


def contract_at(path: str) -> Contract | None:
    """What a stranger's class has to fit at a place such as "loss.terms.mine.loss"; None where only ours stand."""
    return next((contract for place, contract in CONTRACTS.items() if re.fullmatch(place, path)), None)


def lacking(found: Any, contract: Contract, target: str) -> str | None:
    """The first thing in which it does not fit, as a sentence that names it."""
    return next(misfits(found, contract, target), None)


def misfits(found: Any, contract: Contract, target: str) -> Iterator[str]:
    if not inspect.isclass(found):
        yield f"{target} is no class, which a {contract.called} is"
        return
    module, _, own = contract.base.rpartition(".")
    base: type = getattr(importlib.import_module(module), own)
    alike = getattr(base, "_is_protocol", False)  # what its classes are like, whatever they derive from
    if not alike and not issubclass(found, base):
        yield f"{target} is no {contract.called}: it has to derive from {contract.base}"
        return
    if found is base:
        yield f"{target} is the base of every {contract.called} and does nothing by itself"
    for name in contract.methods:
        expected, written = getattr(base, name), getattr(found, name, getattr(base, name))
        if written is expected:
            yield f"{target} lacks {name}{said(expected)}, which a {contract.called} writes"
        elif (problem := misfit_call(expected, written)) is not None:
            yield f"{target}.{name} {problem}; of a {contract.called} it is {name}{said(expected)}"
    for name in contract.attributes:
        if not sets(found, base, name):
            yield f"{target} does not set {name}, which a {contract.called} says"


def said(method: Any) -> str:
    """Its parameters as one reads them, without their types."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return str(inspect.Signature([each.replace(annotation=each.empty) for each in parameters]))


def misfit_call(expected: Any, written: Any) -> str | None:
    """Why a call as the base's methods are called would fail; None where it would not."""
    wanted, own = (dict(list(inspect.signature(each).parameters.items())[1:]) for each in (expected, written))
    kinds = {each.kind for each in own.values()}
    if any(each.kind is each.VAR_POSITIONAL for each in wanted.values()):  # torch's own forward, which says nothing
        return None
    for name, each in wanted.items():
        swallowed = each.VAR_KEYWORD if each.kind is each.KEYWORD_ONLY else each.VAR_POSITIONAL
        if name not in own and swallowed not in kinds and each.default is each.empty:
            return f"has no parameter {name!r}"
    for name, each in own.items():
        if (
            name not in wanted
            and each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ):
            return f"asks for {name!r}, which nobody gives"
    return None


def sets(found: type, base: type, name: str) -> bool:
    """Whether the class itself, or a method of it, gives the attribute a value."""
    own = found.__mro__.index(base if base in found.__mro__ else object)
    for kind in found.__mro__[:own]:
        if name in kind.__dict__ or name in inspect.get_annotations(kind):
            return True
        codes = [getattr(each, "__code__", None) for each in kind.__dict__.values()]
        if any(code is not None and name in code.co_names for code in codes):
            return True
    return False
