"""A network and its preprocessing, from a checkpoint alone or from weights made elsewhere."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.backbones.published import advice
from facenet.backbones.weights import LoadReport, load_weights
from facenet.data.transforms import Preprocess
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError, shown
from facenet.files.home import expand_home
from facenet.files.run_dir import Checkpoints, RunDir, told_runs_in
from facenet.privacy.addresses import masked_address
from facenet.tasks.rehearsal import LARGEST_SIDE, check_input, check_preprocess

log = logging.getLogger(__name__)
RUN_ID = re.compile("[0-9a-f]{32}")
# Making one of ours takes 2.5 operations a tensor and 3 times its bytes; what a zoo's adds are tables and masks.
TIMES, SPARE_TENSORS, SPARE_BYTES = 10, 2000, 2**28


@dataclass(frozen=True)
class Restored:
    """`content` is the whole checkpoint, empty for weights made elsewhere."""

    embedder: Embedder
    preprocess: Preprocess
    content: dict[str, Any]


class AsLargeAs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, a network is made that has not many times the tensors or the bytes of these: a few numbers of a config could ask for any."""

    def __init__(self, tensors: dict[str, Any], path: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        found = [tensor for tensor in tensors.values() if isinstance(tensor, torch.Tensor)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
        self.path = path
        self.tensors = TIMES * len(found) + SPARE_TENSORS
        self.bytes = TIMES * sum(storages.values()) + SPARE_BYTES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.tensors -= 1
            self.bytes -= made.untyped_storage().nbytes()
            if self.tensors < 0 or self.bytes < 0:
                raise UserError(
                    f"checkpoint={self.path}: damaged, its config makes a far larger network than its weights are"
                )
        return made


def checkpoint_in(path: str | os.PathLike[str]) -> Path:
    """The file itself, or of a run directory its best checkpoint, else its last. Raises UserError for a directory without one."""
    place = Path(path)
    if not place.is_dir():
        return place
    found = [file for each in (RunDir(place).checkpoints, Checkpoints(place)) for file in (each.best, each.last)]
    if (first := next((file for file in found if file.is_file()), None)) is None:
        need = "neither a checkpoint nor a run directory with checkpoints/best.pt or checkpoints/last.pt"
        raise UserError(f"{place}: {need}{told_runs_in(place)}")
    return first


def checkpoint_named(name: str | os.PathLike[str], uri: str | None = None) -> Path:
    """The checkpoint of a file, a run directory or an MLflow run, which the store at `uri` (None: that of commands) has on record. Raises UserError
    where there is none."""
    place = expand_home(str(name))
    if os.path.exists(place) or not RUN_ID.fullmatch(str(name)):
        return checkpoint_in(place)
    from facenet.tracking import reading
    from facenet.tracking.store import where

    store = where(uri)
    try:
        directory = reading.run(store, str(name)).tags.get("run_dir", "")
    except UserError as error:
        raise UserError(
            f"checkpoint={name}: no file or directory here, and no run in MLflow at {masked_address(store)}; "
            "set tracking.uri or MLFLOW_TRACKING_URI to the store that has it"
        ) from error
    if not os.path.isdir(directory):
        raise UserError(
            f"checkpoint={name}: its run directory {shown(directory)!r} is not here; name the checkpoint's file"
        )
    return checkpoint_in(directory)


def from_checkpoint(path: str) -> Restored:
    """Strict: the file's own config builds the network, and every tensor must fit. Raises UserError for a damaged or foreign file."""
    return restored(checkpoints.load(path), path)


def restored(content: dict[str, Any], path: str) -> Restored:
    """The same of a file that has been loaded."""
    try:
        return network_in(content, path)
    except UserError:
        raise
    except Exception as error:  # values that no facenet wrote surface as almost any type, RecursionError too
        raise UserError(f"checkpoint={path}: damaged, its network cannot be built ({type(error).__name__})") from None


def network_in(content: dict[str, Any], path: str) -> Restored:
    nodes = {}
    for name, kind in (("backbone", Embedder), ("preprocess", Preprocess)):
        with AsLargeAs(content["embedder"], path):
            nodes[name] = configs.build(content["config"].get(name), name, of_others=True)
        if not isinstance(nodes[name], kind):
            raise UserError(f"checkpoint={path}: damaged, its config has no {name}")
    if max(nodes["preprocess"].size) > LARGEST_SIDE:
        raise UserError(
            f"checkpoint={path}: damaged, its preprocess.size={list(nodes['preprocess'].size)} is no size of a face"
        )
    try:
        nodes["backbone"].load_state_dict(content["embedder"])
    except RuntimeError as error:
        raise UserError(
            f"checkpoint={path}: its weights do not fit its own network ({str(error).splitlines()[1].strip()})"
        ) from None
    return Restored(nodes["backbone"], nodes["preprocess"], content)


def tell(report: LoadReport, preprocess: Preprocess) -> None:
    """Says what was loaded, and warns where a file that is known was made for other images than it will get."""
    log.info("%s", report)
    if (told := advice(report.path, report.layout, preprocess.as_dict())) is not None:
        log.warning("weights: %s", told)


def from_weights(path: str, backbone: Embedder, preprocess: Preprocess) -> Restored:
    """Raises UserError when the file does not fill the whole network."""
    check_preprocess(preprocess)
    tell(load_weights(backbone, path, whole=True), preprocess)
    check_input(backbone, preprocess)
    return Restored(backbone, preprocess, {})
