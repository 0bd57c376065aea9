"""What another config, or other images, mean for a run that goes on: free, used, begun anew, or another training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facenet import config as configs
from facenet.config.slots import locate
from facenet.data.files import contents
from facenet.data.identities import Subset
from facenet.engine.run_state import misfit
from facenet.errors import UserError
from facenet.evaluation.contract import Opened
from facenet.tasks.plan import Material

OWN_KEYS = ("resume", "resume_changed")  # of the command that goes on, not of the run
# Where the data lie: other places are the same training if the images are the same, which `changed_images` looks at.
PLACES = (
    *("data.root", "data.depth", "data.list", "data.within", "data.path", "data.shards"),
    *("benchmark.root", "benchmark.path", "benchmark.pairs"),  # and of those under benchmarks
)
# By whom, how fast and with which notes: nothing that is trained follows from it.
FREE = (
    *(*OWN_KEYS, "tracking", "watch", "accelerator"),
    *("data.num_workers", "data.feed", "data.cache_dir", "trainer.log_every", "trainer.keep"),
    *("distributed.grace_s", "distributed.timeout_s", *PLACES),
)
# What a score was taken on, beside its benchmark, and which it was: others do not compare with it.
SCORED = ("trainer.select", "data.val_identities", "data.val_images", "data.min_images")


def changes(before: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Returns what makes it another training, a line per value."""
    return [line for key, line in differing(before, config) if not is_free(key)]


def is_free(key: str) -> bool:
    return is_within(key, FREE)


def is_within(key: str, parts: Sequence[str]) -> bool:
    """`benchmarks.agedb.path` is what `benchmark.path` is."""
    head, _, rest = key.partition(".")
    return begins(f"benchmark.{rest.partition('.')[2]}".rstrip(".") if head == "benchmarks" else key, parts)


def begins(key: str, parts: Sequence[str]) -> bool:
    """Whether it is one of these, or lies within one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def list_moved(before: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Which data lie elsewhere, a line per place."""
    return [line for key, line in differing(before, config) if is_within(key, PLACES)]


def differing(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key with its line."""
    if isinstance(before, dict) and isinstance(now, dict):
        unsaid = unsaid_values(before, now, path)
        for key in dict.fromkeys([*before, *now]):
            inner, default = f"{path}.{key}" if path else str(key), unsaid.get(key, "absent")
            yield from differing(before.get(key, default), now.get(key, default), inner)
    elif before != now:
        yield path, f"{path}: was {before}, is {now}"


def unsaid_values(before: dict[str, Any], now: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns what their one target takes where a node does not say it: an option that is newer than a run makes no other training of it."""
    target = now.get("_target_")
    if target is None or target != before.get("_target_") or before.keys() == now.keys():
        return {}
    try:
        parameters = inspect.signature(locate(target, path)).parameters
    except (UserError, ValueError):  # another part of a config than those that are built; a builtin without a signature
        return {}
    return {
        name: each.default
        for name, each in parameters.items()
        if isinstance(each.default, bool | int | float | str | None)
    }


def samples(material: Material, seed: int) -> dict[str, Any]:
    """Returns what a checkpoint records of the images and pairs, so that they are known again elsewhere."""
    tested = {
        each.key: {**contents.sample(each.faces, seed), "pairs": each.fingerprint} for each in own_images(material)
    }
    return {"data": contents.sample(material.source, seed), **tested}


def changed_images(material: Material, before: Any) -> list[str]:
    """Says in which of the `samples` other pixels are now; empty for a run that left none."""
    before = before if isinstance(before, dict) else {}
    found = {"data": contents.find_changed(material.source, before.get("data"))}
    found.update({each.key: contents.find_changed(each.faces, before.get(each.key)) for each in own_images(material)})
    return [f"{name}: {line}" for name, line in found.items() if line is not None]


def other_pairs(material: Material, before: Any) -> bool:
    """Whether a run that noted the pairs it is tested on noted others."""
    noted = [(each, before.get(each.key)) for each in own_images(material)] if isinstance(before, dict) else []
    return any(isinstance(was, dict) and was.get("pairs") != each.fingerprint for each, was in noted)


def own_images(material: Material) -> list[Opened]:
    """The benchmarks that have images of their own; held-out ones are the data's."""
    return [each for each in material.benchmarks if not of_heldout(each, material)]


def of_heldout(tested: Opened, material: Material) -> bool:
    """Whether its images are those of the run's data that were held out."""
    return isinstance(tested.faces, Subset) and tested.faces.parent is material.heldout


def check_fits(content: dict[str, Any], path: Path, config: dict[str, Any], identities: Sequence[str]) -> None:
    """Raises UserError where what the run has learned does not fit this network, loss or set of identities: the network's part may be what
    another run begins with."""
    way = f"start another run from what this one learned: weights={path} instead of resume, in a new directory"
    if content["loss"] and content["identities"] != list(identities):
        told = f"{len(content['identities'])} identities, which are not the {len(identities)} of these data"
        raise UserError(f"resume={path}: the loss has learned {told}; restore them, or {way}")
    before = content["config"]
    if all(before.get(name) == config[name] for name in ("backbone", "loss")):
        return
    backbone, loss = empty_parts(config, len(identities))
    if problem := misfit(backbone, content["embedder"]):
        raise UserError(
            f"resume={path}: backbone: another network than the run's ({problem}); leave it as it was, or {way}"
        )
    if problem := misfit(loss, content["loss"]):
        raise UserError(
            f"resume={path}: loss: other parameters than the run's ({problem}); leave it as it was, or {way}"
        )


def empty_parts(config: dict[str, Any], num_identities: int) -> tuple[nn.Module, nn.Module]:
    """Network and loss without memory."""
    with torch.device("meta"):
        backbone, loss = (configs.build(config[name], name) for name in ("backbone", "loss"))
        loss.start(embedding_size=backbone.embedding_size, num_identities=num_identities)
    return backbone, loss


def begun_anew(content: dict[str, Any], config: dict[str, Any], material: Material, select: str) -> dict[str, str]:
    """Parts of the state of training in a checkpoint that do not go on under this config, and why: `optimizer`, `scale` (of the loss), `random`
    (streams) and `best` (score), which `select` chooses: benchmarks beside its own change nothing."""
    before = content["config"]
    found = {"optimizer": without_moments(before.get("optimizer"), config["optimizer"])}
    scales = [node.get("init_scale") for node in (before.get("precision") or {}, config["precision"])]
    if scales[0] != scales[1]:
        found["scale"] = f"begins at precision.init_scale={scales[1]:g}"
    if before.get("seed") != config["seed"]:
        found["random"] = f"begin at seed={config['seed']}"
    selecting = [each.key for each in material.benchmarks if each.name == select.partition("/")[0]]
    taken_on = (*SCORED, *selecting)
    scored = [line for key, line in differing(before, config) if begins(key, taken_on) and not is_free(key)]
    if not selecting and content["identities"] != list(material.train.identities):
        scored.append("the identities of the loss are others")
    if scored:
        found["best"] = scored[0]
    return {name: reason for name, reason in found.items() if reason is not None}


def without_moments(before: Any, now: dict[str, Any]) -> str | None:
    """Why an optimizer cannot go on with the state of the run's; None where it can."""
    if before == now:
        return None
    if before.get("_target_") != now["_target_"]:
        return f"{before.get('_target_')} left no state for {now['_target_']}"
    lacking = sorted({name for _, name in state_names(now) - state_names(before)})
    return f"the run's has no {', '.join(lacking)}" if lacking else None


def state_names(node: Any) -> set[tuple[int, str]]:
    """Names of what the optimizer remembers of a convolution, a matrix and a vector."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 4, 3, 3), (4, 4), (4,))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = configs.build(node, "optimizer")(parameters)
    optimizer.step()
    states = [optimizer.state[parameter] for parameter in parameters]
    return {(kind, name) for kind, state in enumerate(states) for name, value in state.items() if value is not None}
