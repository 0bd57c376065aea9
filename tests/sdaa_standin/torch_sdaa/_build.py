"""Compiles the device once per torch, Python and source text, and loads it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

NAME = "torch_sdaa_standin"
SOURCES = sorted((Path(__file__).parent / "csrc").iterdir())


def library() -> ModuleType:
    """The compiled module; the first process to ask compiles it, others wait for that one."""
    folder = build_dir()
    whole = folder / "whole"  # written when the library is: a build that was killed leaves a part of one
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "one_builder").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when its process dies
            if not whole.exists():
                compile_in(folder)
                whole.touch()
    spec = importlib.util.spec_from_file_location(NAME, folder / f"{NAME}.so")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_dir() -> Path:
    text = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]
    root = os.environ.get("SDAA_SIM_BUILD_DIR") or Path.home() / ".cache" / NAME
    return Path(root) / f"torch{torch.__version__}-py{sys.version_info[0]}{sys.version_info[1]}-{text}"


def compile_in(folder: Path) -> None:
    from torch.utils import cpp_extension

    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja's
    (folder / "lock").unlink(missing_ok=True)  # torch's own, left by a killed build: it would be waited for without end
    cpp_extension.load(
        NAME,
        [str(path) for path in SOURCES if path.suffix == ".cpp"],
        extra_cflags=["-O1", "-g0"],  # a quarter of the time of -O2; the arithmetic is torch's
        build_directory=str(folder),
        is_python_module=False,
    )
