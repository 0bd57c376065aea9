"""Choices for the config groups that installed packages bring, as YAML: an entry point of the group `facenet.plugins` names a folder of a package.

These files are read as those of a directory are, and nothing of the package is imported for them: their targets need `trust=`.
"""

from __future__ import annotations

import logging
import os
from importlib import metadata
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from facenet.errors import shown
from facenet.files.trusted import find_installed

log = logging.getLogger(__name__)
GROUP = "facenet.plugins"


class PluginFolders(SearchPathPlugin):
    """Hydra's plugin. They come after facenet's own, so that a choice of theirs never takes the place of one of ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if all(element.path != "pkg://facenet.conf" for element in search_path.get_path()):
            return  # another program's, which uses facenet as a library
        for name, folder in folders().items():
            search_path.append(provider=f"{GROUP}: {name}", path=f"file://{folder}")


def folders() -> dict[str, Path]:
    """The folder of each plugin; one whose folder is missing is said, and costs nothing else."""
    found = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda each: each.name):
        folder = folder_of(point.value)
        if folder is None:
            log.warning(
                "%s: %s names no folder of an installed package: %s", GROUP, shown(point.name), shown(point.value)
            )
        else:
            found[point.name] = folder
    return found


def folder_of(value: str) -> Path | None:
    """Of "my_faces.conf"; None where there is none."""
    root, *inside = value.split(".")
    spec = find_installed(root) if all(part.isidentifier() for part in (root, *inside)) else None
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((folder for place in places if os.path.isdir(folder := Path(place, *inside))), None)
