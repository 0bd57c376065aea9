"""The epochs of a run in one rank: train, validate, test, and write down what came of it."""

from __future__ import annotations

import functools
import json
import logging
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facenet.config import adopt_pending
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import host_copy
from facenet.distributed import collectives
from facenet.engine.checkpoint import Keeper
from facenet.engine.observer import FinishedEpoch
from facenet.engine.progress import Progress
from facenet.engine.run_state import module_state
from facenet.engine.trainer import Trainer
from facenet.engine.watch.alarm import way_out_of_collapse
from facenet.engine.writer import Writer, size_of
from facenet.errors import UserError
from facenet.evaluation import report
from facenet.evaluation.contract import Outcome
from facenet.evaluation.embed import Interrupted
from facenet.evaluation.run import run_benchmarks
from facenet.files.atomic import writable
from facenet.files.run_dir import RunDir
from facenet.files.trusted import versions
from facenet.tasks.changed import begun_anew, changed_images, changes, samples
from facenet.tasks.feed import Feed
from facenet.tasks.numbers import Plan
from facenet.tasks.own_runs import mark
from facenet.tasks.plan import Material
from facenet.tasks.progress import image_bar
from facenet.tasks.records import Draws, Records
from facenet.tasks.run import Run
from facenet.tracking.run import CHANGED
from facenet.tracking.tracker import Tracker

log = logging.getLogger(__name__)
PARTS = {"optimizer": "optimizer", "scale": "scale of the loss", "random": "random streams", "best": "best score"}
SLOW_DISK = 20e6  # bytes per second: what a stop allows for a checkpoint before one has been measured


class Epochs:
    """`fit` runs them. Only the first rank writes."""

    def __init__(
        self,
        engine: Trainer,
        feed: Feed,
        material: Material,
        plan: Plan,
        tracker: Tracker,
        run: Run,
        preprocess: Preprocess,
        *,
        first: bool,
    ) -> None:
        self.engine, self.feed, self.material, self.plan = engine, feed, material, plan
        self.tracker, self.run, self.preprocess, self.first = tracker, run, preprocess, first
        self.progress = Progress()
        self.records = Records(run.directory, tracker, material.benchmarks)
        self.keeper, self.writer = Keeper(RunDir(run.directory).folder, keep=engine.settings.keep), Writer()
        self.best_score: float | None = None
        self.best_row: dict[str, float] = {}
        self.untested: dict[str, float] | None = None  # training figures of an epoch whose tests are still to be made
        self.unreadable_tested: dict[str, str] = {}
        self.pruned: str | None = None
        self.samples: dict[str, Any] = {}
        self.run_id = run.id
        self.to_tell: dict[str, str] = {}  # tags of what is not as it was, for when a checkpoint has been written so
        self.resumed = self.settled = False

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Goes on from a checkpoint of this run, read from `path`, possibly under another config. With another number of steps per epoch or of
        processes, the epoch under way starts again from its first batch, at the step number that this has in the new plan."""
        self.resumed, before = True, content["config"]
        self.run_id = self.run.id or content.get("run_id")  # tracking=none for a while does not make it another run
        anew = begun_anew(content, self.run.config, self.material, self.plan.select)
        best = content["best"]
        known = self.plan.select in best["row"]
        if known and repr(best["score"]) != repr(self.score(best["row"])):  # by code that chose another metric
            anew.setdefault("best", f"was not scored by {self.plan.select}")
        for part, reason in anew.items():
            log.warning("%s: starts anew, the rest goes on (%s)", PARTS[part], reason)
        self.progress = self.engine.load_state(content["training"], content["loss"], anew=anew)
        changed = changes(before, self.run.config)
        if self.first:
            changed += changed_images(self.material, content.get("samples"))
        if changed:
            self.to_tell[CHANGED] = "; ".join(changed)
        self.untested = content.get("untested")
        if "best" not in anew:
            self.best_score, self.best_row = content["best"]["score"], content["best"]["row"]
        if self.first and not self.keeper.restore(content, path, best_anew="best" in anew):
            lost = f"epoch {self.best_row['epoch']:.0f}, the best until now"
            log.warning("the network of %s, is in no file here; best.pt will be the best of the epochs to come", lost)
            self.best_score, self.best_row = None, {}
        own = (self.plan.steps.steps_per_epoch, self.plan.machine.num_processes, self.plan.batches.accumulate)
        if own != tuple(content["steps"]):
            epoch, history = self.progress.epoch, self.progress.history
            self.progress = Progress(epoch=epoch, step=epoch * self.plan.steps.steps_per_epoch, history=history)
            names = ("steps per epoch", "processes", "accumulate")
            pairs = zip(names, content["steps"], own, strict=True)
            told = ", ".join(f"{name} {before} -> {now}" for name, before, now in pairs if before != now)
            log.warning("the plan is another one (%s): goes on at the start of epoch %d", told, epoch + 1)
            self.to_tell["resumed_plan"] = f"{told}; from the start of epoch {epoch + 1}, step {self.progress.step}"
        log.info("goes on at step %d, in epoch %d", self.progress.step, self.progress.epoch + 1)

    def fit(self) -> dict[str, Any]:
        """Trains to the end, and leaves nothing unwritten. What the run returns to its launcher, `seconds` of it spent here."""
        begun = time.monotonic()
        with self.writer:
            return {**self.all_epochs(), "seconds": time.monotonic() - begun}

    def all_epochs(self) -> dict[str, Any]:
        if self.first:
            self.keeper.open()
            self.samples = samples(self.material, self.run.config["seed"])
            if not self.resumed:
                self.records.split(self.material)
        while self.untested is not None or self.progress.step < self.plan.steps.total_steps or self.progress.batches:
            if self.untested is None:
                rest = self.feed.train(self.progress.epoch, first=self.progress.batches)
                row = self.engine.train_epoch(rest, self.progress)
                self.untested = None if self.engine.stopped else row
            if self.untested is None:
                state = self.state()
                self.run.stop.expect(self.writer.longest_s or size_of(state) / SLOW_DISK)
                self.save(state)
            else:
                self.after_epoch(self.untested)
            if self.engine.stopped:
                self.run.stop.set(signal.SIGTERM)  # told by another rank, this one ends with the same kind of code
                self.writer.finish()
                log.info("stopped at step %d; the state is in %s", self.progress.step, self.keeper.files.last)
                break
            if self.hopeless():
                break
        self.writer.finish()
        unreadable = self.unreadable()
        if self.first:
            self.records.unreadable(unreadable, step=None if self.engine.stopped else self.progress.step)
            self.records.publish()
        trained = {name for row in self.progress.history for name in row if name.startswith("train/")}
        if (collapsed := self.collapsed()) and not self.engine.stopped:
            self.tracker.tag("collapsed", collapsed)
        return {
            "objective": self.best_row.get(self.plan.select),
            "checkpoint": str(self.keeper.files.best if self.best_row else self.keeper.files.last),
            "metrics": self.best_row,
            "collapsed": collapsed,
            "way_out": collapsed and way_out_of_collapse(trained, self.run.config["backbone"]),
            "pruned": self.pruned,
        }

    def collapsed(self) -> str | None:
        """Why a run has no best epoch where that is because its network collapsed, by the last test."""
        reasons = [why for row in self.progress.history if (why := report.collapse_in(row))]
        return reasons[-1] if reasons and not self.best_row else None

    def hopeless(self) -> bool:
        """Whether the rule of the sweep ends the run here, in all processes; the first asks."""
        if self.run.pruner is None or self.progress.step >= self.plan.steps.total_steps:
            return False
        if self.first:
            images, lower = self.plan.images_per_epoch, self.plan.lower_is_better
            self.pruned = self.run.pruner.hopeless(self.progress.history, self.plan.select, images, lower=lower)
        if self.pruned is not None:
            log.info("pruned: %s", self.pruned)
            self.tracker.tag("pruned", self.pruned)
            self.tracker.metrics({"pruned_at_epoch": self.progress.epoch}, step=self.progress.step)
        return self.engine.accelerator.any(self.pruned is not None)

    def after_epoch(self, row: dict[str, float]) -> None:
        """Validates and tests, then writes checkpoint, curves and metrics. The state is saved before, too: tests take long, and may end the run
        for an image that cannot be read. A stop signal meanwhile leaves it at that."""
        due = self.progress.epoch % self.engine.settings.evaluate_every == 0
        tested = bool(self.material.benchmarks) and (due or self.progress.step >= self.plan.steps.total_steps)
        state, row = self.state(), dict(row)
        if tested or self.plan.batches.num_val_batches:
            self.save(state)
        validation = self.engine.validate(self.feed.val()) if self.plan.batches.num_val_batches else None
        row.update({} if validation is None else validation.figures)
        outcomes = self.test() if tested and not self.engine.stopped else {}
        if self.engine.stopped:
            return
        for name, each in outcomes.items():
            row.update({f"{name}/{figure}": float(value) for figure, value in each.metrics.items()})
            if each.collapsed:
                log.warning("epoch %d: %s; it is not ranked", self.progress.epoch, each.collapsed)
        why = report.collapsed(outcomes)
        row["epoch"] = float(self.progress.epoch)
        self.progress.history.append(row)
        finished = FinishedEpoch(
            epoch=self.progress.epoch,
            step=self.progress.step,
            row=row,
            validation=validation,
            tested=tuple(outcomes),
            collapsed=why,
        )
        for observer in self.engine.observers:
            observer.on_epoch(finished)
        score = None if why else self.score(row)  # whatever selects: such a network is nothing to offer
        if score is not None and (self.best_score is None or score > self.best_score):
            self.best_score, self.best_row = score, dict(row)
        if self.first:  # before the checkpoint: a run that goes on from it does not come here again
            with writable(self.run.directory):
                more = {"samples_seen": float(self.progress.step * self.plan.batches.images_per_step)}
                if (peak := self.engine.accelerator.memory().peak) is not None:
                    more["system/peak_memory_mib"] = peak / 2**20
                self.records.epoch(self.progress, self.best_row, outcomes, more=more)
        self.untested = None
        self.save(state, score=score, outcomes=outcomes, finished_epoch=True)

    def test(self) -> dict[str, Outcome]:
        """By benchmark; nothing where a stop signal came before the end."""
        # Each process has seen other images, so its batch statistics differ; rank 0's are those that are saved.
        collectives.broadcast(self.engine.tested().buffers())
        try:
            with image_bar(shown=self.first) as progress:
                return run_benchmarks(
                    self.engine.tested(),
                    self.material.benchmarks,
                    self.preprocess,
                    self.engine.accelerator,
                    progress=progress,
                    stop=self.engine.stop,
                    unreadable=self.unreadable_tested,
                )
        except Interrupted:
            self.engine.stopped = True
            return {}

    def score(self, row: dict[str, float]) -> float | None:
        """The selected metric, turned so that higher is better; None where this epoch did not measure it, or measured no number."""
        value = row.get(self.plan.select)
        if value is None:
            source = self.plan.select.split("/")[0]
            measured = sorted(name for name in row if name.startswith(f"{source}/"))
            # The plan knows the sources of metrics, but a loss may report any figure. A collapsed network's benchmark has none.
            if measured and report.collapse_of(source, row) is None:
                raise UserError(f"trainer.select={self.plan.select}: not among {', '.join(measured)}")
            return None
        turned = -value if self.plan.lower_is_better else value
        return None if math.isnan(value) else turned  # nothing compares with NaN: as the first it would stay the best

    def state(self) -> dict[str, Any]:
        """The tensors of a checkpoint, in host memory. All processes call it together."""
        heads = module_state(self.engine.loss)
        embedder = host_copy(self.engine.tested().state_dict()) if self.first else {}
        return {"training": self.engine.state(self.progress), "loss": heads, "embedder": embedder}

    def save(
        self,
        state: dict[str, Any],
        *,
        score: float | None = None,
        outcomes: Mapping[str, Outcome] | None = None,
        finished_epoch: bool = False,
    ) -> None:
        """`state`, with all else as it is now, as `last.pt`, which the first process writes in the background. The threshold is stored with
        the weights it was chosen for."""
        training = {**state["training"], **self.engine.besides(self.progress)}
        if not self.first:
            return
        content = {
            "config": self.run.config,
            "own": mark(self.run.config),
            "identities": list(self.material.train.identities),
            **state,
            "training": training,
            "untested": self.untested,
            "trusted": versions(self.run.config),
            "best": {"score": self.best_score, "row": self.best_row},
            "steps": [self.plan.steps.steps_per_epoch, self.plan.machine.num_processes, self.plan.batches.accumulate],
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "metrics": self.progress.history[-1] if finished_epoch else {},
            "threshold": self.threshold(outcomes or {}),
            "data_fingerprint": self.plan.images.data_fingerprint,
            "samples": self.samples,
            "run_id": self.run_id,
        }
        draws = [each.draw for each in (outcomes or {}).values() if each.draw and self.best_row == content["metrics"]]
        write = functools.partial(self.write, content, draws, score=score, finished_epoch=finished_epoch)
        self.writer.start(write, instead=finished_epoch)  # of the same epoch before it was tested

    def threshold(self, outcomes: Mapping[str, Outcome]) -> dict[str, Any] | None:
        """That of the benchmark that selects, else of the first."""
        selecting = outcomes.get(self.plan.select.partition("/")[0])
        found = selecting or next(iter(outcomes.values()), None)
        return None if found is None or found.threshold is None else found.threshold.as_dict()

    def write(self, content: dict[str, Any], draws: Draws, *, score: float | None, finished_epoch: bool) -> None:
        """Writes checkpoint and pictures, and after the first checkpoint what it was written under: a run that ends before is what it was."""
        self.keeper.save(content, score=score, finished_epoch=finished_epoch)
        self.records.draw(draws)
        if self.settled:
            return
        with writable(self.run.directory):
            adopt_pending(self.run.directory)
        if self.resumed:
            self.records.split(self.material)
        for name, value in self.to_tell.items():
            self.tracker.tag(name, value)
        self.settled = True

    def unreadable(self) -> dict[str, str]:
        """Name and reason of each image that some process met and could not read."""
        own = {**self.feed.loader.unreadable, **self.feed.val_loader.unreadable, **self.unreadable_tested}
        met = collectives.gather_texts(json.dumps(own), self.engine.accelerator.device)
        return {name: reason for text in met for name, reason in json.loads(text).items()}
