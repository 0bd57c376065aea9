"""Going on with a run: which checkpoint, under which config, and never two at a time."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import logging
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facenet import atomic
from facenet import config as configs
from facenet.data.split import replace_text
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError, shown
from facenet.slots import addresses_in, openings
from facenet.tracking.store import masked

log = logging.getLogger(__name__)
OWN_KEYS = ("resume", "resume_changed")  # of the command that goes on, not of the run
STORE = "tracking.json"
BUILT_INSIDE = (
    "backbone",
    "preprocess",
    "loss",
    "optimizer",
    "schedule",
)  # which read no files but for others' networks


@dataclass(frozen=True)
class Earlier:
    """A run that can go on: its directory, config, newest whole checkpoint and MLflow run."""

    run_dir: Path
    config: dict[str, Any]
    checkpoint: Path
    content: dict[str, Any]

    @property
    def run_id(self) -> str | None:
        return self.content.get("run_id")

    def check_data(self, fingerprint: str, *, changed: bool) -> None:
        """Raises UserError for images that are not those of the run, unless `changed` allows it."""
        if self.content["data_fingerprint"] != fingerprint and not changed:
            raise UserError(
                f"resume={self.checkpoint}: the images are not those that the run was trained on (fingerprint {fingerprint}, was "
                f"{self.content['data_fingerprint']}); restore them, or set resume_changed=true"
            )


def find(resume: str | None, run_dir: Path) -> Earlier | None:
    """What `resume=` names: null, nothing; auto, the run in `run_dir` if it left a checkpoint; else the run of that directory or
    checkpoint. Raises UserError where a named one has none that loads."""
    if resume is None:
        return None
    if resume == "auto":
        return earlier_in(run_dir)
    path = Path(resume).expanduser().absolute()
    if not path.exists():
        raise UserError(f"resume={resume}: no such file or directory; name a run directory or a checkpoint in it")
    found = earlier_in(path.parent.parent, path) if path.is_file() else earlier_in(path)
    if found is None:
        raise UserError(f"resume={resume}: no checkpoint in it to go on from; leave resume out to start anew")
    return found


def earlier_in(run_dir: Path, path: Path | None = None) -> Earlier | None:
    """From the newest checkpoint that is whole, or from the one named. A damaged one is passed over, and said."""
    folder = run_dir / "checkpoints"
    candidates = [path] if path else [folder / "last.pt", *sorted(folder.glob("epoch-*.pt"), reverse=True)]
    for candidate in candidates:
        if not candidate.is_file():
            continue
        try:
            content = checkpoints.load(candidate)
        except UserError as error:
            if path:
                raise
            log.warning("%s; an earlier one is tried", error)
            continue
        training = content.get("training")
        if not (isinstance(training, dict) and "progress" in training and "data_fingerprint" in content):
            raise UserError(
                f"resume={candidate}: holds no state of training; give it as weights={candidate} to start from it"
            )
        if not (run_dir / "resolved.yaml").is_file():
            raise UserError(
                f"resume={candidate}: {run_dir} has no resolved.yaml, so it is not the run of this checkpoint"
            )
        return Earlier(run_dir, configs.read(run_dir / "resolved.yaml"), candidate, content)
    return None


def config_of(earlier: Earlier, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The config to go on with. `resume=auto` repeats a command, so that is the command's; else it is the run's with the values that the
    command line gives.

    Raises UserError that shows the difference to the run's, unless `resume_changed=true` asks for it.
    """
    wanted = config if config["resume"] == "auto" else overlaid(earlier.config, config, overrides)
    check_sources(wanted, config, earlier.run_dir)
    different = changes(earlier, wanted)
    if different and not config["resume_changed"]:
        lines = [
            f"resume={config['resume']}: the config is not that of {earlier.run_dir}",
            *different,
            "leave these out to go on as it was, or set resume_changed=true",
        ]
        raise UserError("\n  ".join(lines))
    if different:
        log.warning("goes on under another config: %s", "; ".join(different))
    return with_store({**wanted, **{name: config[name] for name in OWN_KEYS}}, earlier.run_dir)


def check_sources(wanted: dict[str, Any], config: dict[str, Any], run_dir: Path) -> None:
    """Raises UserError for files and addresses that only the directory's config would have opened, beside its images and lists."""
    said = {*sources_of(config)}
    for path, value in sources_of(wanted):
        if (path, value) not in said:
            raise UserError(
                f"resume={config['resume']}: {path}={shown(value)} is what the config in {run_dir} would open, and a directory's word is not enough; "
                f"say it again on the command line: {path}=..."
            )


def sources_of(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, node in config.items():
        found = openings(node, name) if name in BUILT_INSIDE else addresses_in(node, name) if name == "data" else ()
        yield from ((path, str(value)) for path, value in found)


def changes(earlier: Earlier, config: dict[str, Any]) -> list[str]:
    """What makes it another training, a line per value."""
    free = (*OWN_KEYS, "tracking", "watch")
    return differences(without(earlier.config, free), without(config, free))


def overlaid(stored: dict[str, Any], config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The stored config with those values of `config` that the overrides name. An override that names more than a value, a choice of a
    group, makes it the whole `config`."""
    result = copy.deepcopy(stored)
    keys = [item.lstrip("+~").split("=")[0] for item in overrides]
    for *path, name in (key.split(".") for key in keys if key not in OWN_KEYS):
        try:
            target, source = (functools.reduce(operator.getitem, path, part) for part in (result, config))
            if isinstance(target[name], dict) or isinstance(source[name], dict):
                return config
            target[name] = source[name]
        except (KeyError, TypeError):
            return config
    return result


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """`key: was A, is B` for every value that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for key in dict.fromkeys([*before, *now]):
            inner = f"{path}.{key}" if path else str(key)
            lines.extend(differences(before.get(key, "absent"), now.get(key, "absent"), inner))
        return lines
    return [] if before == now else [f"{path}: was {before}, is {now}"]


def without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


def remember_store(run_dir: Path, uri: str | None, run_id: str | None) -> None:
    """Where the run is recorded: a command in another directory would look into another default store. Not an address with a password."""
    told = uri if uri is not None and masked(uri) == uri else None
    replace_text(run_dir / STORE, json.dumps({"uri": told, "run_id": run_id}) + "\n")


def stored_in(run_dir: Path) -> str | None:
    """The address that `remember_store` left, if it did."""
    with contextlib.suppress(OSError, ValueError):
        uri: str | None = json.loads((run_dir / STORE).read_text(encoding="utf-8"))["uri"]
        return uri
    return None


def with_store(config: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The config with the store that the run is recorded in, where neither config nor environment name one."""
    uri, tracking = stored_in(run_dir), config["tracking"]
    if uri is None or tracking.get("uri", uri) is not None or "MLFLOW_TRACKING_URI" in os.environ:
        return config
    return {**config, "tracking": {**tracking, "uri": uri}}


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Raises UserError while another command trains in this directory."""
    with atomic.alone_in(run_dir, "hydra.run.dir", "trains"):
        atomic.tidy(run_dir)
        yield
