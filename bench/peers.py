"""Other projects, imported from where the user keeps them. Nothing of theirs is in this repository."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REFERENCE = "reference"  # bubbliiiing/facenet-pytorch
ARCFACE = "arcface"  # deepinsight/insightface, its recognition/arcface_torch
LIBRARIES = {"pml": "pytorch_metric_learning", "webdataset": "webdataset", "albumentations": "albumentations"}


class Peers:
    """`given`: NAME=PATH of the command line. `skipped` collects what was asked for and is absent."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.paths = {name: Path(path).expanduser() for name, path in (each.split("=", 1) for each in given)}
        self.skipped: list[str] = []

    def reference(self, module: str) -> Any | None:
        """A module of the reference repository, such as `nets.facenet`."""
        return self.module(REFERENCE, self.paths.get(REFERENCE), module)

    def arcface(self, module: str) -> Any | None:
        root = self.paths.get(ARCFACE)
        inner = root / "recognition" / "arcface_torch" if root is not None else None
        return self.module(ARCFACE, inner if inner is not None and inner.is_dir() else root, module)

    def module(self, name: str, root: Path | None, module: str) -> Any | None:
        if root is None or not root.is_dir():
            self.skip(f"{name}: {'no such folder: ' + str(root) if root else f'no --against {name}=PATH'}")
            return None
        absent_torchvision()
        sys.path.insert(0, str(root))
        try:
            return importlib.import_module(module)
        except ImportError as error:
            self.skip(f"{name}: {module} does not import ({error})")
            return None
        finally:
            sys.path.remove(str(root))

    def library(self, name: str) -> Any | None:
        try:
            return importlib.import_module(LIBRARIES[name])
        except ImportError:
            self.skip(f"{name}: {LIBRARIES[name]} is not installed")
            return None

    def skip(self, what: str) -> None:
        if what not in self.skipped:
            self.skipped.append(what)


def absent_torchvision() -> None:
    """The reference's loader module derives its LFW class, which is never used here, from one of torchvision's."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    package, datasets = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    datasets.ImageFolder = object  # type: ignore[attr-defined]
    package.datasets = datasets  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": package, "torchvision.datasets": datasets})
