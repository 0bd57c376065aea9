"""Where a run came from: the command that repeats it, code, versions, and the state of the working directory's repository."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from facenet.config.overrides import key_of
from facenet.files import trusted
from facenet.files.typed import command
from facenet.privacy import addresses


def origin(program: str, overrides: list[str], config: dict[str, Any]) -> dict[str, str]:
    """Returns where a run came from: code, machine, versions and the command that repeats it, also of one that a script began."""
    overrides = [*(addresses.mask(override) for override in overrides), *trusted.arguments()]
    alone = [each for each in overrides if not key_of(each).startswith("sweep.")]  # how jobs share a machine
    line = command(program, *alone)
    tags = {
        "command": line,
        "hydra.overrides": " ".join(overrides),
        "mlflow.user": user_name(),
        "mlflow.source.name": program,
        "mlflow.source.type": "LOCAL",
        "python": platform.python_version(),
    }
    for package in ("facenet", "torch", "numpy", "hydra-core", "mlflow", "albumentations"):
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree without an installation
            continue
    tags |= {f"version.{name}": version for name, version in trusted.versions(config).items()}
    git = git_state(Path.cwd())
    commit, dirty = git.get("mlflow.source.git.commit"), " and changes" if git.get("git.dirty") == "true" else ""
    code = f"git {commit[:12]}{dirty}" if commit else f"facenet {tags.get('version.facenet', 'from a source tree')}"
    return {**tags, **git, "code": code}


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        return str(os.getuid())


def git_state(directory: Path) -> dict[str, str]:
    """Commit and cleanliness of the working directory's repository; empty outside one.

    The repository may be anybody's, and its config may name programs (core.fsmonitor, filters, hooks): `status` runs with an empty
    repository in its place, which shares the objects and the index and has of the config only what is said of the file system. What submodules
    hold is not looked at.
    """
    asked = ("HEAD",), ("--show-toplevel",), ("--git-path", "index"), ("--git-path", "objects")
    # One by one, since paths may hold line breaks.
    commit, top, index, objects = (git(directory, "rev-parse", *each) for each in asked)
    if commit is None:
        return {}
    if top is None or index is None or objects is None:  # a bare one
        return {"mlflow.source.git.commit": commit}
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "refs").mkdir()
        (Path(empty) / "HEAD").write_text(commit, encoding="utf-8")
        shared = {"GIT_INDEX_FILE": str(directory / index), "GIT_OBJECT_DIRECTORY": str(directory / objects)}
        place = (f"--git-dir={empty}", f"--work-tree={top}", "--no-optional-locks", *file_system(directory))
        kinds = ("--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        changed = git(Path(top), *place, "status", *kinds, variables=shared)
    dirty = {} if changed is None else {"git.dirty": str(bool(changed)).lower()}
    return {"mlflow.source.git.commit": commit, **dirty}


def file_system(directory: Path) -> list[str]:
    """Options of git for a work tree on a file system that keeps no modes or links, and without the watching daemon that the user's own config may
    ask for."""
    said = git(directory, "config", "--type=bool", "--get-regexp", r"^core\.(filemode|symlinks|ignorecase)$")
    known = [line.split(" ") for line in (said or "").splitlines()]
    options = [f"{each[0]}={each[1]}" for each in known if len(each) == 2 and each[1] in ("true", "false")]
    return [part for option in (*options, "core.fsmonitor=false") for part in ("-c", option)]


def git(directory: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> str | None:
    """Returns what git says with these variables in its environment; None where it fails, is missing or takes long."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, env={**os.environ, **(variables or {})})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout).removesuffix("\n") if done.returncode == 0 else None
