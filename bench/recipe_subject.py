"""The recipes that README recommends, as recommended, from files to updated weights, against the reference as shipped with the same network,
image size and batch; and what of a step is Muon's. Goals 11.1 to 11.3."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_module

from bench.context import Context, Outcome
from bench.data_subject import BATCH
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure, num_cores
from bench.step_subject import ready, reference_end_to_end, reference_training
from facenet import config as configs
from facenet.commands import composed as cli
from facenet.data.feed.loader import Batch
from facenet.data.files.annotation import annotate
from facenet.data.identities import FolderFaces
from facenet.devices.accelerator import Accelerator
from facenet.devices.host_memory import keep_freed_memory
from facenet.engine.progress import Progress
from facenet.engine.trainer import Trainer
from facenet.sweeps.settings import split
from facenet.tasks.auto import settle
from facenet.tasks.feed import Feed
from facenet.tasks.job import prepare
from facenet.tasks.recipe import Recipe
from facenet.tasks.train import network_and_losses, start_schedule

# Name -> the reference's name of its network, and what README has people say. Pairs of held-out identities stand in for LFW, which times nothing.
RECIPES = {
    "real_faces": ("mobilenet", ["preset=real_faces", "data.root={faces}"]),
    "single_card": (
        "inception_resnetv1",
        ["preset=single_card", "distributed.num_processes=1", "precision=auto", "data.list={list}"],
    ),
}
COMMON = ["benchmark=heldout", "tracking=none", f"data.batch_size={BATCH}", "data.cache_dir={scratch}"]


@dataclass
class Recommended:
    """A recipe's trainer and feed, as `facenet-train` makes them. `chosen`: what `auto` became, and why."""

    trainer: Trainer
    feed: Feed
    chosen: str

    def train(self, steps: int) -> None:
        self.trainer.train_epoch(first(self.feed.train(0), steps), Progress())


def first(batches: Iterator[Batch], steps: int) -> Iterator[Batch]:
    with contextlib.closing(batches):  # type: ignore[type-var]
        yield from itertools.islice(batches, steps)


def run(context: Context) -> Outcome:
    torch.set_num_threads(1 if context.quick else num_cores())
    tables, goals = [], []
    for number, name in enumerate(["real_faces"] if context.quick else RECIPES, 1):
        recipe = made(context, name)
        table = compared(context, name, recipe)
        tables.append(table)
        against = table.has("reference, 2 workers")
        text = f"{name} as recommended, from files to updated weights against the reference, wall"
        ratio = table.row(f"facenet, {name}").wall_ratio if against else None
        goals.append(Goal(f"11.{number}", text, 2.0, ratio, limit="convolutions"))
        if name == "real_faces":
            tables.append(parts(context, recipe))
            step, update = (row.cpu_s for row in tables[-1].rows)
            goals.append(Goal("11.3", "Muon's share of a step of real_faces, CPU", 0.08, update / step, at_most=True))
    return Outcome(tables, goals)


def made(context: Context, name: str) -> Recommended:
    """The config of the command, settled for this machine, and its parts put together as `tasks.train` does."""
    assert cli.own_experiments  # its import registers a resolver of the config
    listed = context.scratch / "cls_train.txt"
    if not listed.is_file():
        annotate(context.faces, listed)
    places = {"faces": context.faces, "list": listed, "scratch": context.scratch / "cache"}
    with initialize_config_module("facenet.conf", version_base="1.3"):
        composed = compose("train", overrides=[each.format(**places) for each in (*RECIPES[name][1], *COMMON)])
    config, chosen = settle(split(configs.resolve(composed))[0])
    material, plan = prepare(config)
    torch.manual_seed(config["seed"])
    recipe = Recipe(**configs.build(config))
    device = Accelerator(plan.machine.device, recipe.precision, rank=0, local_rank=0, world_size=1)
    device.start_precision()
    module = network_and_losses(recipe, plan, device)
    trainer = Trainer(
        device.prepare(module),
        device.optimizer(recipe.optimizer, list(module.parameters())),
        recipe.schedule,
        device,
        recipe.trainer,
        total_steps=10**9,
    )
    start_schedule(recipe, plan, trainer.optimizer)
    feed = Feed(material, plan, recipe, rank=0, accelerator=device)
    return Recommended(trainer, feed, f"{plan.machine.device}, feed {feed.kind}" + (f"; {chosen}" if chosen else ""))


def compared(context: Context, name: str, recipe: Recommended) -> Table:
    network, steps = RECIPES[name][0], 1 if context.quick else 2
    faces = FolderFaces(context.faces)
    trained = reference_training(context, network, len(faces.identities))
    candidates = reference_end_to_end(context, faces, trained, steps)
    before = ready(keep_freed_memory, functools.partial(recipe.train, 1))
    ours = functools.partial(recipe.train, steps)
    candidates.append(Candidate(f"facenet, {name}", ours, BATCH * steps, before=before))
    title = f"{name} as recommended, {network}, batch {BATCH}, {torch.get_num_threads()} threads"
    return measure("recipe", title, "image", candidates, rounds=context.rounds, notes=[recipe.chosen])


def parts(context: Context, recipe: Recommended) -> Table:
    """A step on a batch that lies ready, and its update alone, on the gradients that it left."""
    keep_freed_memory()
    trainer = recipe.trainer
    (batch,) = first(recipe.feed.train(0), 1)
    forward, update = stepped(trainer, batch), trainer.optimizer.step

    def whole() -> None:
        forward()
        update()

    candidates = [Candidate("step", whole, 1), Candidate("of it the update", update, 1)]
    title = f"A step of real_faces, batch {BATCH}, {torch.get_num_threads()} threads"
    return measure("recipe", title, "step", candidates, rounds=context.rounds)


def stepped(trainer: Trainer, batch: Batch) -> Callable[[], None]:
    device = trainer.accelerator
    images, labels = (device.to_device(each) for each in (batch.images, batch.labels))
    trainer.step_module.train()

    def work() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        loss, _ = trainer.step_module(images, labels)
        device.backward(loss)
        device.synchronize()

    return work
