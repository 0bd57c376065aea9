"""What a directory says about the job or the sweep that ran in it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facenet import config as configs
from facenet.data.split import replace_text
from facenet.errors import UserError
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.launch.failure import cause, noted_failures, one_line
from facenet.tasks.auto import as_recorded
from facenet.tasks.changed import changes, list_moved
from facenet.tasks.resume import same_images

RECORD = "sweep.json"
LARGEST = 1_000_000  # bytes of it


@dataclass(frozen=True)
class State:
    """`kind` of a job, its objective if it is finished, and in `note` why it failed or what is different."""

    kind: Literal["new", "finished", "half-done", "failed", "changed"]
    objective: float | None = None
    note: str = ""


def state_of(job_dir: Path, config: dict[str, Any]) -> State:
    """The state of the job with this config. A job of another config that ran here is `changed`. Raises UserError for a link: the directory of a
    sweep may be anybody's, and what its jobs write stays in it."""
    if job_dir.is_symlink():
        raise UserError(
            f"{job_dir}: is a link, which a sweep does not follow; put the folder itself there, or set hydra.sweep.dir"
        )
    place = RunDir(job_dir)
    try:
        before = configs.read(place.resolved)
    except OSError:
        return State("new")
    config = as_recorded(config, before)
    if different := changes(before, config):
        return State("changed", note="; ".join(different))
    with contextlib.suppress(OSError, ValueError):
        objective = objective_in(place.result)
        elsewhere = list_moved(before, config)  # of a job that goes on its own command looks at the images
        if elsewhere and not same_images(job_dir, config):
            return State("changed", note="; ".join(elsewhere))
        return State("finished", objective)
    if failures := noted_failures(job_dir):
        return State("failed", note=one_line(cause(failures).text))
    begun = place.checkpoints.last.is_file()
    return State("half-done", note="" if begun else "ended before its first checkpoint")


def objective_in(path: Path) -> float | None:
    """Raises OSError and ValueError for what is no result of a job."""
    try:
        return finite(json.loads(text_of(path))["objective"])
    except (TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: no result of a job") from error


def finite(objective: float | None) -> float | None:
    """None for a value that is no number: a search could not compare it."""
    return objective if objective is not None and math.isfinite(objective) else None


def write_command(sweep_dir: Path, arguments: Sequence[str]) -> None:
    """Notes the command that started the sweep, for `sweep.resume`."""
    replace_text(sweep_dir / RECORD, json.dumps({"arguments": list(arguments)}, indent=1) + "\n")


def read_command(sweep_dir: Path) -> list[str]:
    """The arguments that `write_command` noted; empty where there are none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        record = sweep_dir / RECORD
        if record.is_file() and record.stat().st_size <= LARGEST:
            arguments = json.loads(record.read_text(encoding="utf-8"))["arguments"]
            if isinstance(arguments, list) and all(isinstance(argument, str) for argument in arguments):
                return arguments
    return []
