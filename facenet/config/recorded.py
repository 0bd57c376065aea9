"""Configs in run directories: written whole, and read as files that anybody may have changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import typing
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facenet.errors import UserError
from facenet.files.atomic import replacing, sync
from facenet.files.plain import plain, yaml_text
from facenet.files.renamed import renamed
from facenet.files.run_dir import RunDir
from facenet.privacy import addresses


def of_job(run_dir: Path) -> dict[str, Any]:
    """The config under which a job runs there; the pending one until its first checkpoint is in place, if others are there."""
    place = RunDir(run_dir)
    return read(place.pending if place.pending.is_file() else place.resolved)


def adopt_pending(run_dir: Path) -> None:
    """Makes a pending config the directory's."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(RunDir(run_dir).pending, RunDir(run_dir).resolved)
        sync(run_dir)


def read(path: Path) -> dict[str, Any]:
    """A config that `write` left, which others may have changed since: plain values, references as they are spelled. Raises UserError for what is
    no config, OSError where there is none."""
    text = yaml_text(path)
    try:
        found = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: no config ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: no config of a run")
    return typing.cast("dict[str, Any]", addresses.hide_secrets(renamed(plain(found, str(path)))))


def write(config: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(to_yaml(config), encoding="utf-8")


def to_yaml(config: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(addresses.hide_secrets(config)))


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits that two configs share if they describe the same training: where it is recorded and what it goes on from do
    not count."""
    described = {name: value for name, value in config.items() if name not in ("tracking", "resume", "resume_changed")}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
