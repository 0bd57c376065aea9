"""A small project of the user's own: a package with a loss, its config, a preset, and a test."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from facenet.errors import UserError, shown
from facenet.files.folders import written_whole
from facenet.files.trusted import Package, check_package
from facenet.files.typed import quoted


def run_new(directory: str) -> str:
    """Writes the project as a directory that does not exist yet. Returns what to do next. Raises UserError where there is one, and for a name that no
    package can have."""
    root = Path(os.path.abspath(directory))
    name = re.sub(r"\W+", "_", root.name, flags=re.ASCII).strip("_").lower()
    if not name.isidentifier():
        raise UserError(
            f"{shown(directory)}: the package in it is called as the directory, so that begins with a letter"
        )
    try:
        check_package(Package(name, os.path.realpath(root / name)), name)
    except UserError:  # it says so of a command that trusts it
        raise UserError(f"{shown(directory)}: there is a package {name} already; choose another name") from None
    template = files("facenet.tools").joinpath("project.txt").read_text("utf-8").replace("NAME", name)
    with written_whole(root) as partial:
        for path, text in parts_of(template):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
    return f"wrote {shown(directory)}; go on with\n  cd {quoted(directory)}\n  facenet train preset=first trust=./{name}\n  python -m pytest"


def parts_of(text: str) -> list[tuple[str, str]]:
    """Path and text of each file of the template."""
    _, *parts = re.split(r"^== (\S+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))
