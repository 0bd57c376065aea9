"""The watchdogs of one process: the trainer tells it what happens, and it looks at log points and after epochs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facenet.data.feed.loader import Batch
from facenet.devices.accelerator import Accelerator
from facenet.distributed import collectives
from facenet.engine.observer import FinishedEpoch, LogPoint, Observer
from facenet.engine.train_step import TrainStep
from facenet.engine.watch import nonfinite, signs
from facenet.engine.watch.alarm import Alarm, way_out_of_collapse
from facenet.engine.watch.choice import Watch
from facenet.engine.watch.hang import Hang
from facenet.engine.watch.nonfinite import Skipped
from facenet.engine.watch.repeats import Repeats
from facenet.files.run_dir import RunDir
from facenet.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class Watcher(Observer):
    key = "watch"

    def __init__(
        self,
        watch: Watch,
        tracker: Tracker,
        accelerator: Accelerator,
        *,
        run_dir: Path,
        name: Callable[[int], str] = str,
        origin: Callable[[], dict[str, Any]] = dict,
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        """name: of an image by its index in a batch; origin: what a dump needs beside the batch to be replayed; backbone: the network's config."""
        self.watch, self.accelerator, self.run_dir = watch, accelerator, run_dir
        self.name, self.origin, self.backbone = name, origin, backbone or {}
        self.alarm = Alarm(watch, tracker)
        self.guards = watch.looks("nonfinite")
        self.skipped, self.told_skipped = Skipped(accelerator.device), 0
        self.repeats, self.hang = Repeats(), Hang(self.alarm, run_dir=run_dir, rank=accelerator.rank)
        self.parts: list[Batch] = []  # of the step under way, or of the last one
        self.step_done = True
        self.norms: Tensor | None = None
        self.weights: list[nn.Parameter] = []
        self.weights_of: TrainStep | None = None
        self.in_row: Counter[str] = Counter()
        self.waited_s, self.logged_at = 0.0, time.perf_counter()

    @contextlib.contextmanager
    def watching(self, batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
        self.repeats.start()
        self.waited_s, self.logged_at = 0.0, time.perf_counter()
        with self.hang.watching() if self.watch.looks("hang") else contextlib.nullcontext():
            yield self.seen(batches)

    def seen(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        end = object()
        while True:
            asked_at = time.perf_counter()
            batch = next(batches, end)
            self.waited_s += time.perf_counter() - asked_at
            if not isinstance(batch, Batch):
                return
            self.hang.beat()
            self.repeats.add(batch.indices)
            if self.step_done:
                self.parts, self.step_done = [], False
            self.parts.append(batch)
            yield batch

    def on_step(self, finite: Tensor | None, loss: Tensor) -> None:
        self.step_done = True
        if finite is not None:
            self.skipped.add(finite, loss)

    def on_log(self, point: LogPoint) -> dict[str, float]:
        """Raises Halted where a watchdog stops the run."""
        found: dict[str, float] = {}
        if self.guards:
            found.update(self.look_at_gradients(point.step))
        if self.watch.looks("scaler") and self.accelerator.scaler is not None:
            self.look_at_scale(self.accelerator.scaler.get_scale())
        if self.watch.looks("collapse"):
            found.update(self.look_at_embeddings(point.figures, point.module))
        if self.watch.looks("frozen"):
            if self.weights_of is not point.module:  # to find them takes as long as to look at them
                self.weights_of, self.weights = point.module, [*point.module.embedder.parameters()]
            self.look_at_weights(signs.weights_norms(self.weights), point.step)
        if self.watch.looks("dead_triplets"):
            self.look_at_triplets(point.figures, point.steps)
        if self.watch.looks("repeats"):
            self.look_at_repeats()
        if self.watch.looks("loader"):
            found.update(self.look_at_loader())
        self.waited_s, self.logged_at = 0.0, time.perf_counter()
        return found

    def look_at_gradients(self, step: int) -> dict[str, float]:
        counts = self.skipped.read()
        new, self.told_skipped = counts.skipped - self.told_skipped, counts.skipped
        if new > 0:
            log.warning(
                "step %d: %d steps left out, their gradients were not finite (%d in all); lower optimizer.lr or set trainer.clip_grad_norm; "
                "%d in a row end the run (watch.nonfinite_in_row)",
                step,
                new,
                counts.skipped,
                self.watch.nonfinite_in_row,
            )
        if counts.in_row >= self.watch.nonfinite_in_row:
            names = [self.name(index) for batch in self.parts for index in batch.indices.tolist()]
            path = RunDir(self.run_dir).nonfinite(self.accelerator.rank)
            nonfinite.dump(path, self.parts, names, {"step": step, "loss_finite": counts.loss, **self.origin()})
            self.alarm.fire(
                "nonfinite",
                f"{counts.in_row} steps in a row up to step {step} had gradients that are not finite and were left out; the last batch "
                f"of process {self.accelerator.rank} (its loss {'was' if counts.loss else 'was not'} finite) is "
                f"{nonfinite.shortened(names)}; python -m facenet.tools.replay {path} repeats it",
            )
        return {"train/skipped_steps": float(counts.skipped)} if counts.skipped else {}

    def look_at_scale(self, scale: float) -> None:
        if scale < self.watch.scale_floor:
            self.alarm.fire("scaler", f"the loss scale fell to {scale:g}: gradients overflow whatever it is")

    def look_at_embeddings(self, figures: Mapping[str, float], module: TrainStep) -> dict[str, float]:
        if module.features is None:
            return {}
        variance, rank = collectives.mean(signs.spread(module.features)).tolist()
        margins = {name: float(getattr(term, "margin", 0.0)) for name, term in module.loss.terms.items()}
        term = signs.at_margin(figures, margins)
        told = f"of a batch's embeddings the variance is {variance:.2g} (0..1) and the effective rank {rank:.2g}"
        if term is not None:
            told += f", and the loss of {term} sits at its margin {margins[term]:g}"
        collapsed = variance < self.watch.min_variance or rank < self.watch.min_rank or term is not None
        if self.counted("collapse", collapsed) >= self.watch.patience:
            self.alarm.fire("collapse", told, way_out_of_collapse(figures, self.backbone))
        return {"train/embedding_variance": variance, "train/embedding_rank": rank}

    def look_at_weights(self, norms: Tensor, step: int) -> None:
        same = self.norms is not None and torch.equal(norms, self.norms)
        self.norms = norms
        if self.counted("frozen", same) >= self.watch.patience:
            self.alarm.fire(
                "frozen", f"no weight of the network has changed for {self.watch.patience} log points up to step {step}"
            )

    def look_at_triplets(self, figures: Mapping[str, float], steps: int) -> None:
        dead = signs.dead(figures)
        for name in signs.terms_with_triplets(figures):
            count = self.counted(f"dead {name}", name in dead, steps)
            if count >= self.watch.dead_steps:
                self.alarm.fire(
                    "dead_triplets", f"{name} had no active triplet in {count} steps, so it teaches nothing"
                )

    def look_at_repeats(self) -> None:
        share = self.repeats.share
        if share > self.watch.max_repeats and self.repeats.repeated > 1:
            self.alarm.fire("repeats", f"{share:.0%} of the batches of this epoch were there before, image by image")

    def look_at_loader(self) -> dict[str, float]:
        share = self.waited_s / max(time.perf_counter() - self.logged_at, 1e-9)
        if self.counted("loader", share > self.watch.max_loader_share) >= self.watch.patience:
            self.alarm.fire("loader", f"training waited for images in {share:.0%} of its time, so the device starves")
        return {"system/loader_share": share}

    def on_epoch(self, finished: FinishedEpoch) -> None:
        """Raises Halted where a watchdog stops the run."""
        row, collapsed = finished.row, finished.collapsed
        in_row = 0 if not finished.tested else self.counted("collapsed in a test", collapsed is not None)
        accuracies = {
            name: value for name, value in row.items() if name.startswith("train/") and name.endswith("/accuracy")
        }
        if in_row >= 2 and self.watch.looks("collapse"):
            self.alarm.fire(
                "collapse", f"in two tests in a row {collapsed}", way_out_of_collapse(accuracies, self.backbone)
            )
        trained = list(accuracies.values())
        found = [(row[f"{name}/accuracy"], name) for name in finished.tested if f"{name}/accuracy" in row]
        if not found or not trained or not self.watch.looks("generalisation"):
            return
        tested, benchmark = max(found)  # hard sets come near chance where labels are right
        apart = max(trained) >= self.watch.train_accuracy and tested <= self.watch.benchmark_accuracy
        if self.counted("generalisation", apart) >= 2:
            self.alarm.fire(
                "generalisation",
                f"accuracy is {max(trained):.3f} on training identities and {tested:.3f} on {benchmark}",
            )

    def counted(self, sign: str, seen: bool, weight: int = 1) -> int:
        """How often in a row the sign was seen."""
        self.in_row[sign] = self.in_row[sign] + weight if seen else 0
        return self.in_row[sign]

    def state(self) -> list[int]:
        """Steps left out, in all and in a row. The other watchdogs start anew."""
        return self.skipped.state()

    def load_state(self, state: list[int]) -> None:
        self.skipped.load_state(state)
        self.told_skipped = state[0]
