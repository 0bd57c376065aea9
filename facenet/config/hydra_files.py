"""How Hydra reads YAML files: those of directories only as far as `overlays` takes them, and of packages nothing but their files."""

from __future__ import annotations

import copy
import os
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.config import named_in, set_by, walk
from facenet.config.overlays import Untrusted, files_read, problems_of
from facenet.config.plugins import PluginFolders
from facenet.errors import UserError
from facenet.files.plain import plain, yaml_text
from facenet.files.trusted import targets_in

PRESETS = "preset/"
packaged: dict[str, ConfigResult] = {}  # what was read of packages, by place


def install() -> None:
    """Makes Hydra read files of directories through this module, those of --config-dir, hydra.searchpath and plugins too, and of packages only
    files."""
    Plugins.instance().register(PluginFolders)
    SourcesRegistry.instance().types |= {"file": DirectoryFiles, "pkg": PackageFiles}


class DirectoryFiles(FileConfigSource):
    """Hydra's source of YAML files, which composes what has passed `problems_of` and nothing else. Raises UserError."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            text = yaml_text(path)
            config = OmegaConf.create(text)
        except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
        header = self._get_header_dict(text[:512])
        content = plain(OmegaConf.to_container(config), str(path))
        for problem in problems_of(content, config_path.removesuffix(".yaml"), header.get("package")):
            if not isinstance(problem, Untrusted):
                raise UserError(f"{path}: {problem}")
        files_read.append(path)
        named_in.update(dict.fromkeys(targets_in(content), str(path)))
        note_preset(config_path, content)
        return ConfigResult(config=config, path=f"{self.scheme()}://{self.path}", provider=self.provider, header=header)


def note_preset(config_path: str, content: Any) -> None:
    """Which keys it sets, for messages about those that another choice does not have."""
    if config_path.startswith(PRESETS):
        name = config_path.removeprefix(PRESETS).removesuffix(".yaml")
        set_by.update({path: name for path, _ in walk(content) if path})


class PackageFiles(ImportlibResourcesConfigSource):
    """Hydra's source of files in packages, without a way out of them."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads a file once a process: Hydra asks for it two or three times for each command, and again for each job of a sweep."""
        place = f"{resources.files(self.path)} {self.provider} {config_path}"
        if place not in packaged:
            packaged[place] = super().load_config(config_path)
        found = copy.deepcopy(packaged[place])  # Hydra takes the list of defaults out of it
        if config_path.startswith(PRESETS):
            note_preset(config_path, OmegaConf.to_container(found.config))
        return found

    def is_config(self, config_path: str) -> bool:
        inside = not os.path.isabs(config_path) and ".." not in Path(config_path).parts
        return inside and bool(super().is_config(config_path))


# Hydra hands the sources on to processes of other launchers, where it registers its own anew and takes those of one name for the same.
DirectoryFiles.__name__ = FileConfigSource.__name__
PackageFiles.__name__ = ImportlibResourcesConfigSource.__name__
