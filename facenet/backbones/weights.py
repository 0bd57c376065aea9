"""Weights that were made elsewhere: strict about the trunk, liberal about names, wrapping dicts and the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from facenet.backbones.embedder import Embedder
from facenet.backbones.published import layout_of, made_for
from facenet.errors import UserError
from facenet.files import tensor_file
from facenet.files.pickled_values import Refused

WRAPPERS = (  # the fifth is insightface's
    *("state_dict", "model", "model_state_dict", "net_state_dict", "state_dict_backbone"),
    *("embedder", "net", "backbone", "encoder", "network"),
)
DEEPEST = 10  # wrapping dicts
PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
# How modules of others call the network that they hold.
HOLDERS = {"model", "backbone", "net", "network", "encoder", "embedder"}
MOST_HOLDERS, MOST_PREFIXES = 4, 8  # one within the other; that are tried


@dataclass(frozen=True)
class LoadReport:
    """Tensor names: loaded and missing as the network calls them, skipped as the file does."""

    path: Path
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    """In the file, not in the network or of another shape there: a classifier, mostly."""
    missing: tuple[str, ...]
    """In the network, not in the file: these keep the values they had. Counters of batches are not listed."""
    layout: str = ""
    """Of the names and shapes in the file, by which it may be known."""

    def __str__(self) -> str:
        parts = [f"{self.path.name}: {len(self.loaded)} tensors loaded"]
        parts += [f"{len(self.skipped)} of the file skipped ({shorten(self.skipped)})"] if self.skipped else []
        parts += (
            [f"{len(self.missing)} of the network not in the file ({shorten(self.missing)})"] if self.missing else []
        )
        return ", ".join(parts)


def load_weights(embedder: Embedder, path: str | Path, *, whole: bool = False) -> LoadReport:
    """Copies a weight file into the network and says what was copied.

    Every tensor of the trunk must be in the file, under a known name and in the same shape; counters of batches may be
    absent. Those behind the trunk (`embedder.head_prefixes`) may be absent or differ, as in a fine-tune, unless `whole`
    is set, as for a test of the weights as they are.

    UserError, and the network unchanged: no such file, an unreadable one, one that holds more than tensors and plain
    values (nothing in it is executed), the weights of another network."""
    path = Path(path)
    own = embedder.state_dict()
    tensors = tensors_of(read(path), path)
    found = own_tensors(tensors, embedder, own, path)
    names = embedder.own_names(list(found))
    matched = {names[name]: tensor for name, tensor in found.items() if fits(own.get(names[name]), tensor)}
    missing = tuple(name for name in own if name not in matched and not name.endswith("num_batches_tracked"))
    needed = [name for name in missing if whole or not name.startswith(embedder.head_prefixes)]
    if needed:
        shapes = {names[name]: tuple(tensor.shape) for name, tensor in found.items()}
        raise UserError(another_network(path, needed, own, shapes, next(iter(found))) + made_for(layout_of(tensors)))
    embedder.load_state_dict(matched, strict=False)
    skipped = tuple(name for name in found if names[name] not in matched)
    return LoadReport(path, tuple(matched), skipped, missing, layout_of(tensors))


def reference_state_dict(embedder: Embedder, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the reference saves: the network, then its classifier's weight (I, D) and bias (I,), for I identities."""
    return {**embedder.state_dict(), "classifier.weight": weight.detach(), "classifier.bias": bias.detach()}


def read(path: Path) -> Any:
    if not os.path.isfile(path):
        raise UserError(f"weights: no file at {path}; give the path of a weight file")
    try:
        return tensor_file.load(path)
    except OSError as error:
        raise UserError(f"weights: cannot read {path}: {error.strerror or error}") from error
    except Refused as error:
        problem = f"is damaged or holds more than tensors and plain values ({error})"
        raise UserError(f"weights: {path} {problem}; save its state_dict() again") from error


def tensors_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a state dict, however deep a training script wrapped it."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            if tensors := {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}:
                return tensors
            break
        content = inner
    raise UserError(
        f"weights: {path} holds no named tensors, neither directly nor under {', '.join(WRAPPERS)}; "
        "save the state_dict() of a network"
    )


def own_tensors(
    tensors: Mapping[str, torch.Tensor], embedder: Embedder, own: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """The tensors without what modules around the network put before their names: of the prefixes that occur the one without which most tensors fit.
    Raises UserError where two parts of the file fit alike."""
    plain = {plain_name(name): tensor for name, tensor in tensors.items()}
    stripped = {prefix: without_prefix(plain, prefix) for prefix in ("", *prefixes_in(plain))}
    counts = {prefix: num_fitting(found, embedder, own) for prefix, found in stripped.items()}
    best = max(counts, key=lambda prefix: counts[prefix])  # the first of equals
    rivals = [each for each in counts if counts[each] == counts[best] and not each.startswith(best)]
    if rivals:
        raise UserError(
            f"weights: {path} holds two networks that fit, {best}* and {rivals[0]}*; save the state_dict() of one of them"
        )
    return stripped[best]


def prefixes_in(names: Iterable[str]) -> list[str]:
    """The commonest beginnings of names that are made of HOLDERS, shorter ones first."""
    found = Counter[str]()
    for name in names:
        prefix = ""
        for part in name.split(".", MOST_HOLDERS)[:MOST_HOLDERS]:
            if part not in HOLDERS and f"{part}." not in PREFIXES:
                break
            prefix += f"{part}."
            found[prefix] += 1
    return sorted((prefix for prefix, _ in found.most_common(MOST_PREFIXES)), key=len)


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors under other names keep these, unless one of the prefix takes it."""
    inside = {name: plain_name(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix)}
    taken = {*inside.values()}
    return {inside.get(name, name): tensor for name, tensor in tensors.items() if name in inside or name not in taken}


def num_fitting(found: Mapping[str, torch.Tensor], embedder: Embedder, own: Mapping[str, torch.Tensor]) -> int:
    names = embedder.own_names(list(found))
    return sum(fits(own.get(names[name]), tensor) for name, tensor in found.items())


def plain_name(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def fits(own: torch.Tensor | None, found: torch.Tensor) -> bool:
    return own is not None and own.shape == found.shape


def another_network(
    path: Path,
    needed: list[str],
    own: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    first_name: str,
) -> str:
    """The message for a trunk that the file does not fill."""
    absent = [name for name in needed if name not in shapes]
    differ = [f"{name} {shapes[name]} instead of {tuple(own[name].shape)}" for name in needed if name in shapes]
    problems = [f"{len(absent)} of its tensors are absent, first {absent[0]}"] if absent else []
    problems += [f"{len(differ)} have another shape, first {differ[0]}"] if differ else []
    advice = f"the file begins with {first_name}; choose the backbone, width and input size that it was made for"
    return f"weights: {path} does not fill this network: {'; '.join(problems)}; {advice}"


def shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
