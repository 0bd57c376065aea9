"""Training in one rank: wires data, network, losses, benchmark, checkpoints and tracker together. The launcher's side is `tasks.job`."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.backbones.weights import load_weights
from facenet.data.sampling.sampler import Sampler
from facenet.data.source import Data
from facenet.data.transforms import Augment, Preprocess
from facenet.devices.accelerator import Accelerator, DeviceChoice, Precision
from facenet.devices.updates import leave_compiler_out
from facenet.distributed.choice import Distributed
from facenet.engine import checkpoint as checkpoints
from facenet.engine.run_state import module_state
from facenet.engine.schedule import Schedule
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.engine.watch.choice import Watch
from facenet.engine.watch.watcher import Watcher
from facenet.launch.local import StopFlag
from facenet.losses.mix import LossMix
from facenet.tasks.epochs import Epochs, Run
from facenet.tasks.feed import Feed
from facenet.tasks.plan import Benchmark, divide, make_plan
from facenet.tasks.progress import step_bar
from facenet.tasks.pruning import Pruner
from facenet.tasks.rehearsal import check_input
from facenet.tasks.restore import tell
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.dllogger import opened
from facenet.tracking.tracker import NullTracker

log = logging.getLogger(__name__)


def run(config: dict[str, Any], *, run_dir: Path, run_id: str | None, stop: StopFlag) -> dict[str, Any]:
    """What `train` returns for a checked config."""
    torch.manual_seed(config["seed"])  # the first weights, equal in all ranks
    return train(**configs.build(config), run=Run(run_dir, config, run_id, stop, Pruner.from_environment()))


@contextlib.contextmanager
def told_already() -> Iterator[None]:
    """Inside, what is logged goes into train.log alone, but for errors: of data and benchmark the launcher, which opened them for the plan, has told
    the terminal all."""
    terminals = [handler for handler in logging.root.handlers if getattr(handler, "stream", None) is sys.stderr]
    before = [handler.level for handler in terminals]
    for handler in terminals:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(terminals, before, strict=True):
            handler.setLevel(level)


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
    watch: Watch,
    weights: str | None,
    seed: int,
    resume: str | None,
    resume_changed: bool,
    run: Run,
) -> dict[str, Any]:
    """Trains to the plan's end or a stop signal. Returns {"objective": the selected metric, "checkpoint": path of the best, "metrics":
    of its epoch, "collapsed": why it has none, "pruned": why the sweep's rule ended it, or None, "seconds": how long the epochs took}. The
    parameters are the keys of `conf/train.yaml`; `resume` is a checkpoint here, and `resume_changed` the launcher's."""
    if not trainer.compile:
        leave_compiler_out()
    with Accelerator.start(accelerator, precision, timeout_s=distributed.timeout_s) as device:
        with told_already():
            material = divide(data, benchmark)
        plan = make_plan(
            material,
            data=data,
            sampler=sampler,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            trainer=trainer,
            accelerator=accelerator,
            precision=precision,
            distributed=distributed,
            num_processes=device.world_size,
            rehearse=False,
        )
        if weights is not None and resume is None:
            tell(load_weights(backbone, weights), preprocess)
        if resume is None:
            check_input(backbone, preprocess)
        loss.start(embedding_size=backbone.embedding_size, num_identities=plan.num_identities)
        if sampler.images_per_identity is not None:
            loss.expect_groups(sampler.images_per_identity)
        device.seed(seed)
        first = device.rank == 0
        tracker = tracking.tracker(run.id, run.directory) if first else NullTracker()
        with (
            contextlib.closing(tracker),
            opened(run.directory, device.rank, wanted=tracking.dllogger) as vendor_log,
            step_bar(plan.total_steps, shown=first) as show,
        ):
            module = TrainStep(backbone, loss, preprocess, device).to(device.device)
            watcher = Watcher(
                watch,
                tracker,
                device,
                run_dir=run.directory,
                name=material.train.name,
                origin=lambda: {
                    "config": run.config,
                    "triplets": sampler.layout == "triplet",
                    "identities": plan.num_identities,
                    "embedder": backbone.state_dict(),
                    "loss": module_state(loss, everywhere=True),
                },
            )
            engine = Trainer(
                module,
                device.optimizer(
                    optimizer, [parameter for parameter in module.parameters() if parameter.requires_grad]
                ),
                schedule,
                device,
                tracker,
                trainer,
                batch_size=plan.images_per_step,
                total_steps=plan.total_steps,
                triplets=sampler.layout == "triplet",
                distributed=distributed,
                vendor_log=vendor_log,
                watcher=watcher,
                from_weights=weights is not None,
                stop=lambda: bool(run.stop),
                show=show,
            )
            schedule.start(
                engine.optimizer,
                batch_size=plan.batch_size,
                steps_per_epoch=plan.steps_per_epoch,
                epochs=trainer.epochs,
            )
            feed = Feed(
                material,
                plan,
                data,
                sampler,
                preprocess,
                augment,
                seed=seed,
                rank=device.rank,
                accelerator=device,
                stop=lambda: bool(run.stop),
            )
            epochs = Epochs(engine, feed, material, plan, tracker, run, preprocess, first=first)
            if resume is not None:
                epochs.restore(checkpoints.load(resume), Path(resume))
            return epochs.fit()
