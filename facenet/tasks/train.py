"""Training in one rank: wires data, network, losses, benchmark, checkpoints and tracker together. The launcher's side is `tasks.job`."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from facenet import config as configs
from facenet.accelerator import Accelerator, DeviceChoice, Precision, host_copy
from facenet.backbones.embedder import Embedder
from facenet.backbones.weights import load_weights
from facenet.data.identities import Faces
from facenet.data.loader import Batch, Loader
from facenet.data.sampler import Sampler
from facenet.data.source import Data
from facenet.data.split import save_split
from facenet.data.transforms import Augment, Preprocess
from facenet.engine.checkpoint import Keeper
from facenet.engine.curves import save_curves
from facenet.engine.schedule import Schedule
from facenet.engine.step import TrainStep
from facenet.engine.tracking import MlflowTracking, NoTracking, NullTracker, Tracker
from facenet.engine.trainer import Progress, Settings, Trainer
from facenet.errors import UserError
from facenet.evaluation import report
from facenet.evaluation.run import run_benchmark
from facenet.evaluation.verification import Verification
from facenet.launch import Distributed, StopFlag
from facenet.losses.mix import LossMix
from facenet.tasks.plan import SPLIT_SEED, Benchmark, Material, Plan, divide, make_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Where a rank's run lives: its directory, resolved config, MLflow run and stop flag."""

    directory: Path
    config: dict[str, Any]
    id: str | None
    stop: StopFlag


def run(config: dict[str, Any], *, run_dir: Path, run_id: str | None, stop: StopFlag) -> dict[str, Any]:
    """What `train` returns for a checked config."""
    torch.manual_seed(config["seed"])  # the first weights, equal in all ranks
    return train(**configs.build(config), run=Run(run_dir, config, run_id, stop))


def train(
    *,
    backbone: Embedder,
    loss: LossMix,
    data: Data,
    sampler: Sampler,
    augment: Augment,
    preprocess: Preprocess,
    optimizer: functools.partial[Any],
    schedule: Schedule,
    benchmark: Benchmark,
    tracking: MlflowTracking | NoTracking,
    accelerator: DeviceChoice,
    precision: Precision,
    distributed: Distributed,
    trainer: Settings,
    weights: str | None,
    seed: int,
    run: Run,
) -> dict[str, Any]:
    """Trains to the plan's end or a stop signal. Returns {"objective": the selected metric, "checkpoint": path of the best, "metrics":
    of its epoch}. The parameters are the keys of `conf/train.yaml`."""
    with Accelerator.start(accelerator, precision, timeout_s=distributed.timeout_s) as device:
        material = divide(data, benchmark)
        plan = make_plan(
            material,
            data=data,
            sampler=sampler,
            optimizer=optimizer,
            schedule=schedule,
            trainer=trainer,
            accelerator=accelerator,
            precision=precision,
            distributed=distributed,
            num_processes=device.world_size,
        )
        if weights is not None:
            log.info("%s", load_weights(backbone, weights))
        loss.start(embedding_size=backbone.embedding_size, num_identities=plan.num_identities)
        device.seed(seed)
        first = device.rank == 0
        tracker = tracking.tracker(run.id) if first else NullTracker()
        with contextlib.closing(tracker), progress_bar(plan.total_steps, shown=first) as show:
            module = TrainStep(backbone, loss, preprocess, device).to(device.device)
            engine = Trainer(
                module,
                optimizer([parameter for parameter in module.parameters() if parameter.requires_grad]),
                schedule,
                device,
                tracker,
                trainer,
                batch_size=plan.batch_size,
                total_steps=plan.total_steps,
                triplets=sampler.layout == "triplet",
                sync_batch_norm=distributed.sync_batch_norm,
                stop=lambda: bool(run.stop),
                show=show,
            )
            schedule.start(
                engine.optimizer,
                batch_size=plan.batch_size,
                steps_per_epoch=plan.steps_per_epoch,
                epochs=trainer.epochs,
            )
            feed = Feed(material, plan, data, sampler, preprocess, augment, seed=seed, rank=device.rank)
            return Training(engine, feed, material, plan, tracker, run, preprocess, first=first).fit()


class Feed:
    """The batches of this rank, by epoch."""

    def __init__(
        self,
        material: Material,
        plan: Plan,
        data: Data,
        sampler: Sampler,
        preprocess: Preprocess,
        augment: Augment,
        *,
        seed: int,
        rank: int,
    ) -> None:
        self.material, self.plan, self.sampler, self.seed, self.rank = material, plan, sampler, seed, rank
        options: dict[str, Any] = {"num_workers": data.num_workers, "seed": seed, "max_unreadable": data.max_unreadable}
        self.loader = Loader(material.train, preprocess, augment, **options)
        self.val_loader = Loader(material.val, preprocess, **options)

    def train(self, epoch: int) -> Iterator[Batch]:
        count = self.plan.steps_per_epoch * self.plan.accumulate
        indices = self.indices(self.material.train, self.plan.batch_size // self.plan.accumulate, count, epoch)
        return self.loader.epoch(indices, epoch=epoch, rank=self.rank)

    def val(self) -> Iterator[Batch]:
        """The same batches after every epoch."""
        return self.val_loader.epoch(
            self.indices(self.material.val, self.plan.val_batch_size, self.plan.num_val_batches, 0), rank=self.rank
        )

    def indices(self, faces: Faces, batch_size: int, num_batches: int, epoch: int) -> Iterator[Any]:
        return self.sampler.batches(
            faces.labels,
            batch_size=batch_size,
            num_batches=num_batches,
            epoch=epoch,
            seed=self.seed,
            rank=self.rank,
            world_size=self.plan.num_processes,
        )


class Training:
    """The epochs of a run and what is written after each."""

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
        self.keeper = Keeper(run.directory / "checkpoints", keep=engine.settings.keep)
        self.best_row: dict[str, float] = {}
        self.verification: Verification | None = None

    def fit(self) -> dict[str, Any]:
        if self.first:
            save_split(
                self.run.directory / "split.json",
                self.material.source,
                seed=SPLIT_SEED,
                val=self.material.val_indices,
                heldout=self.material.heldout_indices,
            )
        while self.progress.step < self.plan.total_steps:
            row = self.engine.train_epoch(self.feed.train(self.progress.epoch), self.progress)
            if self.engine.stopped:
                self.save(score=None, finished_epoch=False)
                break
            self.progress.epoch += 1
            self.after_epoch(row)
        if self.first:
            self.report_unreadable()
        return {
            "objective": self.best_row.get(self.plan.select),
            "checkpoint": str(self.keeper.directory / ("best.pt" if self.best_row else "last.pt")),
            "metrics": self.best_row,
        }

    def after_epoch(self, row: dict[str, float]) -> None:
        """Validates and tests, then writes checkpoint, curves and metrics."""
        if self.plan.num_val_batches:
            row.update(self.engine.validate(self.feed.val()))
        last = self.progress.step >= self.plan.total_steps
        if self.material.pair_set is not None and (
            last or self.progress.epoch % self.engine.settings.evaluate_every == 0
        ):
            self.verification = run_benchmark(
                self.engine.tested(), self.material.pair_set, self.preprocess, self.engine.accelerator
            )
            row.update(report.metrics(self.material.pair_set.name, self.verification))
        row["epoch"] = float(self.progress.epoch)
        self.progress.history.append(row)
        score = self.score(row)
        if score is not None and (self.keeper.best is None or score > self.keeper.best):
            self.best_row = dict(row)
        if self.first:
            self.save(score=score, finished_epoch=True)
            self.record(row)
        self.engine.accelerator.barrier()

    def score(self, row: dict[str, float]) -> float | None:
        """The selected metric, turned so that higher is better; None where this epoch did not measure it."""
        value = row.get(self.plan.select)
        if value is None:
            if self.engine.settings.evaluate_every == 1 and self.engine.settings.select is not None:
                raise UserError(
                    f"trainer.select={self.plan.select}: not measured; this run has {', '.join(sorted(row))}"
                )
            return None
        lower_is_better = self.plan.select.rsplit("/", 1)[-1] in ("loss", "eer")
        return -value if lower_is_better else value

    def save(self, *, score: float | None, finished_epoch: bool) -> None:
        if not self.first:
            return
        threshold = None if self.verification is None else self.verification.threshold.as_dict()
        content = {
            "config": self.run.config,
            "identities": list(self.material.train.identities),
            "embedder": host_copy(self.engine.tested().state_dict()),
            "loss": host_copy(self.engine.loss.state_dict()),
            "training": host_copy(self.engine.state()),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "metrics": self.progress.history[-1] if self.progress.history else {},
            "threshold": threshold,
            "data_fingerprint": self.plan.data_fingerprint,
            "run_id": self.run.id,
        }
        path = self.keeper.save(content, score=score, finished_epoch=finished_epoch)
        if not finished_epoch:
            log.info("stopped at step %d; the state is in %s", self.progress.step, path)

    def record(self, row: dict[str, float]) -> None:
        shown = {name: value for name, value in row.items() if name.endswith(("/loss", "/accuracy", "/auc"))}
        log.info("epoch %d: %s", self.progress.epoch, ", ".join(f"{name} {value:.4f}" for name, value in shown.items()))
        best = {f"best/{name}": value for name, value in self.best_row.items() if name != "epoch"}
        tested = {name: value for name, value in row.items() if not name.startswith("train/")}
        means = {f"epoch/{name}": value for name, value in row.items() if name.startswith("train/")}
        self.tracker.metrics({**tested, **means, **best}, step=self.progress.step)
        history = self.run.directory / "history.json"
        history.write_text(json.dumps(self.progress.history, indent=1), encoding="utf-8")
        pictures = save_curves(self.run.directory, self.progress.history)
        if self.verification is not None and self.material.pair_set is not None:
            name = self.material.pair_set.name
            pictures.append(self.run.directory / "roc.png")
            report.save_roc(pictures[-1], {name: self.verification})
            verification = self.run.directory / f"{name}.json"
            verification.write_text(json.dumps(report.as_dict(name, self.verification), indent=1), encoding="utf-8")
            pictures.append(verification)
        if (
            self.progress.step >= self.plan.total_steps
        ):  # each epoch's pictures replace the last's: MLflow gets the final ones
            for path in (*pictures, history, self.run.directory / "split.json"):
                self.tracker.artifact(path, "curves" if path.suffix == ".png" else "records")

    def report_unreadable(self) -> None:
        unreadable = {**self.feed.loader.unreadable, **self.feed.val_loader.unreadable}
        self.tracker.metrics({"unreadable_images": len(unreadable)}, step=self.progress.step)
        if unreadable:
            path = self.run.directory / "unreadable.json"
            path.write_text(json.dumps(unreadable, indent=1), encoding="utf-8")
            self.tracker.artifact(path, "records")
            log.warning("%d images could not be read and were replaced; their names are in %s", len(unreadable), path)


@contextlib.contextmanager
def progress_bar(total_steps: int, *, shown: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar on a terminal (images/s, loss terms, time left), a line now and then where output is no terminal."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    terminal = sys.stderr.isatty()
    with tqdm(total=total_steps, unit="step", disable=not (shown and terminal), dynamic_ncols=True) as bar:

        def show(step: int, figures: dict[str, float]) -> None:
            terms = {
                name: f"{value:.3g}" for name, value in figures.items() if "/" not in name and name != "images_per_s"
            }
            text = f"{figures['images_per_s']:.0f} images/s, " + ", ".join(
                f"{name} {value}" for name, value in terms.items()
            )
            bar.n = step
            bar.set_postfix_str(text)
            if not terminal and shown:
                log.info("step %d of %d: %s", step, total_steps, text)

        with logging_redirect_tqdm() if shown and terminal else contextlib.nullcontext():
            yield show
