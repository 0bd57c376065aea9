"""Training in one rank: wires data, network, losses, benchmark, checkpoints and tracker together. The launcher's side is `tasks.job`."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from facenet import config as configs
from facenet.backbones.weights import load_weights
from facenet.devices.accelerator import Accelerator
from facenet.devices.updates import leave_compiler_out
from facenet.engine import checkpoint as checkpoints
from facenet.engine.batch_picture import BatchPicture
from facenet.engine.observer import Observer, Recorder, VendorLines
from facenet.engine.run_state import module_state
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Trainer
from facenet.engine.watch.watcher import Watcher
from facenet.files.run_dir import RunDir
from facenet.tasks.epochs import Epochs
from facenet.tasks.feed import Feed
from facenet.tasks.numbers import Plan
from facenet.tasks.plan import divide, make_plan
from facenet.tasks.progress import step_bar
from facenet.tasks.recipe import Recipe
from facenet.tasks.rehearsal import check_input
from facenet.tasks.restore import tell
from facenet.tasks.run import Run
from facenet.tracking.dllogger import VendorLog
from facenet.tracking.tensorboard import TensorboardTracker
from facenet.tracking.tracker import NullTracker, Tracker


def run(run: Run) -> dict[str, Any]:
    """Trains its checked config and returns what `train` returns."""
    torch.manual_seed(run.config["seed"])  # the first weights, equal in all ranks
    return train(Recipe(**configs.build(run.config)), run)


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


def train(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Trains to the plan's end or a stop signal. Returns {"objective": the selected metric, "checkpoint": path of the best, "metrics":
    of its epoch, "collapsed": why it has none, "way_out": of that, "pruned": why the sweep's rule ended it, or None, "seconds": how long the
    epochs took}."""
    if not recipe.trainer.compile:
        leave_compiler_out()
    with Accelerator.start(recipe.accelerator, recipe.precision, timeout_s=recipe.distributed.timeout_s) as device:
        with told_already():
            material = divide(recipe.data, *recipe.tested)
        plan = make_plan(material, recipe, num_processes=device.world_size, rehearse=False)
        module = network_and_losses(recipe, plan, device)
        with observing(recipe, run, plan, device, name=material.train.name) as (tracker, observers):
            trainer = Trainer(
                device.prepare(module, recipe.distributed),
                device.optimizer(recipe.optimizer, [each for each in module.parameters() if each.requires_grad]),
                recipe.schedule,
                device,
                recipe.trainer,
                total_steps=plan.steps.total_steps,
                observers=observers,
                stop=lambda: bool(run.stop),
                from_weights=recipe.weights is not None,
            )
            start_schedule(recipe, plan, trainer.optimizer)
            feed = Feed(material, plan, recipe, rank=device.rank, accelerator=device, stop=lambda: bool(run.stop))
            epochs = Epochs(trainer, feed, material, plan, tracker, run, recipe.preprocess, first=device.rank == 0)
            if recipe.resume is not None:
                epochs.restore(checkpoints.load(recipe.resume), Path(recipe.resume))
            return epochs.fit()


@contextlib.contextmanager
def observing(
    recipe: Recipe, run: Run, plan: Plan, device: Accelerator, *, name: Callable[[int], str]
) -> Iterator[tuple[Tracker, list[Observer]]]:
    """Where this process records the run, and who is told of its steps; name: of an image of training, by its index. All are closed at the end."""
    first, rank = device.rank == 0, device.rank
    with contextlib.ExitStack() as opened:
        tracker = recipe.tracking.tracker(run.id, run.directory) if first else NullTracker()
        if first and recipe.tracking.tensorboard:
            tracker = TensorboardTracker(tracker, RunDir(run.directory).tensorboard)
        opened.enter_context(contextlib.closing(tracker))
        origin = functools.partial(origin_of_batches, recipe, run, plan)
        watcher = Watcher(
            *(recipe.watch, tracker, device),
            run_dir=run.directory,
            name=name,
            origin=origin,
            backbone=run.config["backbone"],
        )
        observers = [
            watcher,
            Recorder(tracker),
            opened.enter_context(
                step_bar(plan.steps.total_steps, plan.steps.steps_per_epoch, plan.steps.epochs, shown=first)
            ),
        ]
        if first:
            observers.append(BatchPicture(run.directory, triplets=recipe.sampler.layout.kind == "triplet"))
        if recipe.tracking.dllogger:
            vendor_log = VendorLog(RunDir(run.directory).vendor_log(rank), rank)
            observers.append(VendorLines(opened.enter_context(contextlib.closing(vendor_log))))
        yield tracker, observers


def network_and_losses(recipe: Recipe, plan: Plan, device: Accelerator) -> TrainStep:
    """Returns what one process computes for a batch, on its device, with the weights that the run begins from; seeds the device's random streams.
    Raises UserError for weights that do not fit, or a network that cannot take its images."""
    if recipe.resume is None:
        if recipe.weights is not None:
            tell(load_weights(recipe.backbone, recipe.weights), recipe.preprocess)
        check_input(recipe.backbone, recipe.preprocess)
    sizes = {"embedding_size": recipe.backbone.embedding_size, "num_identities": plan.images.num_identities}
    recipe.loss.start(**sizes, layout=recipe.sampler.layout)
    device.seed(recipe.seed)
    module = TrainStep(recipe.backbone, recipe.loss, recipe.preprocess, device).to(device.device)
    if recipe.trainer.compile:
        device.compile(module.embedder, mode=recipe.trainer.compile_mode)
    return module


def start_schedule(recipe: Recipe, plan: Plan, optimizer: torch.optim.Optimizer) -> None:
    sizes = {
        "batch_size": plan.batches.batch_size,
        "steps_per_epoch": plan.steps.steps_per_epoch,
        "epochs": plan.steps.epochs,
    }
    recipe.schedule.start(optimizer, **sizes)


def origin_of_batches(recipe: Recipe, run: Run, plan: Plan) -> dict[str, Any]:
    """Returns what is needed to repeat a batch, beside its images: the config, and the weights as they are now."""
    return {
        "config": run.config,
        "identities": plan.images.num_identities,
        "embedder": recipe.backbone.state_dict(),
        "loss": module_state(recipe.loss, everywhere=True),
    }
