"""The YAML files of a group of `conf` or `experiments`, as text."""

from __future__ import annotations

import functools
from importlib.resources import files


@functools.cache
def built_in(group: str, package: str = "facenet.conf") -> dict[str, str]:
    """Name -> text of each file of a group of a package."""
    folder = files(package).joinpath(group)
    if not folder.is_dir():
        return {}
    found = {each.name: each for each in folder.iterdir() if each.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): found[name].read_text("utf-8") for name in sorted(found)}
