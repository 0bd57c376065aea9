"""What is written of a run's epochs beside its checkpoints: files in its directory, and the same for the tracker."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facenet.data.split import save_split
from facenet.engine.curves import save_curves
from facenet.engine.progress import Progress
from facenet.errors import shown
from facenet.evaluation import report
from facenet.evaluation.contract import Opened, Outcome
from facenet.files.atomic import replacing
from facenet.files.run_dir import RunDir
from facenet.tasks.plan import SPLIT_SEED, Material
from facenet.tracking.tracker import Tracker, publish

log = logging.getLogger(__name__)
Draws = Sequence[Callable[[Path], list[Path]]]  # the pictures of benchmarks, each in its directory


class Records:
    """`written`: the files that MLflow gets at the end."""

    def __init__(self, directory: Path, tracker: Tracker, benchmarks: Sequence[Opened] = ()) -> None:
        self.directory, self.place, self.tracker = directory, RunDir(directory), tracker
        self.own = own_figures(benchmarks)
        self.written: set[Path] = set()

    def split(self, material: Material) -> None:
        """Writes which images validate and which identities are held out."""
        indices = {"val": material.val_indices, "heldout": material.heldout_indices}
        save_split(self.place.split, material.source, seed=SPLIT_SEED, **indices)

    def epoch(
        self,
        progress: Progress,
        best: Mapping[str, float],
        outcomes: Mapping[str, Outcome],
        *,
        more: Mapping[str, float],
    ) -> None:
        """Writes the last epoch's line, metrics, curves and what the benchmarks keep, each replacing those of the epoch before. best: the metrics
        of the best epoch; more: metrics that are no epoch's own."""
        row = progress.history[-1]
        own = {name for names in self.own.values() for name in names}
        shown = {
            name: report.digits(value)
            for name, value in row.items()
            if name in own or name.endswith(("/loss", "/accuracy", "/auc"))
        }
        log.info("epoch %d: %s", progress.epoch, ", ".join(f"{name} {value}" for name, value in shown.items()))
        if best == row:
            for tag, value in [item for name, each in outcomes.items() for item in report.tags(name, each).items()]:
                self.tracker.tag(tag, value)
        tested = {name: value for name, value in row.items() if not name.startswith("train/")}
        means = {f"epoch/{name}": value for name, value in row.items() if name.startswith("train/")}
        of_best = {f"best/{name}": value for name, value in best.items()}
        self.tracker.metrics({**tested, **means, **of_best, **more}, step=progress.step)
        self.write_json(self.place.history, progress.history)
        self.written.update(save_curves(self.directory, progress.history, self.own))
        for file_name, content in report.kept(outcomes).items():
            self.write_json(self.directory / file_name, content)
        if report.save_roc(self.place.roc, outcomes):
            self.written.add(self.place.roc)

    def draw(self, draws: Draws) -> None:
        """Draws the pictures of what a benchmark found."""
        self.written.update(draw_all(draws, self.directory))

    def unreadable(self, found: dict[str, str], *, step: int | None) -> None:
        """Writes name and reason of each image that could not be read; step: at which their number is counted, if it is."""
        if step is not None:
            self.tracker.metrics({"unreadable_images": len(found)}, step=step)
        if found:
            self.write_json(self.place.unreadable, found)
            log.warning(
                "%d images could not be read and were replaced or left out, which data.max_unreadable limits; their names are in %s",
                len(found),
                self.place.unreadable,
            )

    def publish(self) -> None:
        """Once, at the end, so that MLflow holds each picture once; a stopped run's too."""
        batch = self.place.first_batch
        for path in sorted(self.written | {self.place.split} | ({batch} if batch.exists() else set())):
            publish(self.tracker, path)

    def write_json(self, path: Path, content: Any) -> None:
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        self.written.add(path)


def own_figures(benchmarks: Sequence[Opened]) -> dict[str, list[str]]:
    """By name of each benchmark that measures no accuracy: the metrics by which it tells better from worse."""
    return {
        each.name: [f"{each.name}/{figure}" for figure in each.measures]
        for each in benchmarks
        if "accuracy" not in each.measures
    }


def draw_all(draws: Draws, directory: Path) -> list[Path]:
    """Draws pictures and returns their files. One that cannot be drawn or written, a stranger's too, is told and ends nothing."""
    files: list[Path] = []
    for draw in draws:
        try:
            files += draw(directory)
        except Exception as error:
            log.warning("a picture is missing in %s: %s: %s", directory, type(error).__name__, shown(str(error)))
    return files
