"""The YAML files of a group of `conf` or `experiments`, as text."""

from __future__ import annotations

import functools
import re
from importlib.resources import files

BASE = re.compile(r"^  - (/?)([a-z]\w*)(?:@_here_)?$", re.MULTILINE)  # in a list of defaults


@functools.cache
def built_in(group: str, package: str = "facenet.conf") -> dict[str, str]:
    """Name -> text of each file of a group of a package."""
    folder = files(package).joinpath(group)
    if not folder.is_dir():
        return {}
    found = {each.name: each for each in folder.iterdir() if each.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): found[name].read_text("utf-8") for name in sorted(found)}


def with_bases(group: str, name: str) -> list[str]:
    """The text of a choice of ours behind those of the files that it builds on."""
    text = built_in(group).get(name, "")
    bases = BASE.findall(text.partition("_self_")[0])
    return [*(each for root, base in bases for each in with_bases("." if root else group, base)), text]
