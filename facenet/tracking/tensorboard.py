"""The same metrics for TensorBoard, by torch's own writer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from facenet.errors import UserError, shown
from facenet.tracking.facts import safe_name
from facenet.tracking.tracker import Tracker

FILES = "events.out.tfevents.*"
LARGEST = 2**30  # bytes of a file that is looked at
FLUSH_S = 10  # a killed run lacks what was not flushed


def check_writer(wanted: bool) -> None:
    """Raises UserError where TensorBoard is wanted and its package is not there."""
    if wanted and find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard=true: tensorboard is not installed; it comes with an extra: pip install 'facenet[tensorboard]'"
        )


class TensorboardTracker:
    """What goes to another tracker, whose metrics are written as scalars as well. A resumed run writes no step twice."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        if folder.is_symlink():
            raise UserError(f"{shown(str(folder))}: is a link, and a run writes through none; remove it")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{shown(str(folder))}: is no folder, as tracking.tensorboard=true needs it; remove it")
        from torch.utils.tensorboard import SummaryWriter

        self.tracker, self.last_steps = tracker, last_steps(folder)
        self.writer: Any = SummaryWriter(str(folder), flush_secs=FLUSH_S)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        self.tracker.metrics(values, step=step)
        for name, value in values.items():
            name = safe_name(name)
            if step > self.last_steps.get(name, -1):
                self.last_steps[name] = step
                self.writer.add_scalar(name, value, step, new_style=True, double_precision=True)

    def artifact(self, path: Path, folder: str = "") -> None:
        self.tracker.artifact(path, folder)

    def tag(self, name: str, value: str) -> None:
        self.tracker.tag(name, value)

    def close(self) -> None:
        self.writer.close()
        self.tracker.close()


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of all that is written there, in the order of writing. A file that a crash cut off is read up to there."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    return [
        (value.tag, event.step, float(make_ndarray(value.tensor)))
        for path in sorted(folder.glob(FILES))
        if path.is_file() and path.stat().st_size <= LARGEST  # no pipe, on which reading would wait
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]


def last_steps(folder: Path) -> dict[str, int]:
    """Name of a metric -> the highest step that is written."""
    steps: dict[str, int] = {}
    for name, step, _ in scalars(folder) if folder.is_dir() else ():
        steps[name] = max(step, steps.get(name, 0))
    return steps
