"""Computes what a run will do before it does it: divides the data, and finds sizes, learning rate and device."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from facenet.data.identities import Faces, Subset
from facenet.data.layout import Layout
from facenet.data.sampling.sampler import Sampler
from facenet.data.source import Data
from facenet.data.split import Indices, split_identities, split_images
from facenet.devices.table import check_exchange, check_precision, is_host
from facenet.engine.muon import Muon
from facenet.errors import UserError
from facenet.evaluation.contract import Benchmark, Opened
from facenet.losses.mix import LossMix
from facenet.tasks.numbers import NEXT, Batches, Images, Machine, Plan, Steps
from facenet.tasks.recipe import Planned
from facenet.tasks.rehearsal import (
    check_parts,
    check_rates,
    loss_without_triplets,
    tell,
    tell_never_drawn,
    tell_no_triplets,
    trial,
)
from facenet.tasks.tested import opened_of, select_metric, unresolved

SPLIT_SEED = 10101  # the reference's; not the run's seed, so that runs of several seeds are tested on the same images
DEFAULT_HELDOUT = 0.1
BY_NUMBER = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, Muon)  # Muon gives such heads to its AdamW


@dataclass(frozen=True)
class Material:
    """A data source, divided. `val` keeps the labels of `train`; the indices are positions in `source`, which is read from `location`, if it is."""

    source: Faces
    location: str | None
    train: Faces
    val: Faces
    heldout: Faces | None
    val_indices: Indices
    heldout_indices: Indices
    benchmarks: tuple[Opened, ...]


def divide(data: Data, *benchmarks: Benchmark) -> Material:
    """Opens the source and the benchmarks and divides the images; reads no pixels. Raises UserError for data that cannot train or be tested."""
    source = data.open()
    default = DEFAULT_HELDOUT if any(each.needs_heldout for each in benchmarks) else 0.0
    share = default if data.val_identities is None else data.val_identities
    rest, heldout = split_identities(source, share, SPLIT_SEED)
    training = Subset(source, rest)
    in_order = data.in_order  # whole shards validate: scattered images would take a pass over all of them
    train, val = split_images(training, data.val_images, None if in_order else SPLIT_SEED)
    held = Subset(source, heldout) if len(heldout) else None
    return Material(
        source=source,
        location=data.location,
        train=Subset(training, train, keep_labels=True),
        val=Subset(training, val, keep_labels=True),
        heldout=held,
        val_indices=rest[val],
        heldout_indices=heldout,
        benchmarks=tuple(opened_of(benchmarks, held, data)),
    )


def make_plan(material: Material, recipe: Planned, *, num_processes: int, rehearse: bool = True) -> Plan:
    """Raises UserError for a batch size that does not divide, data too small for one step, an absent device or one that
    lacks what is asked of it. rehearse: play the schedule through, 5 us a step, and tell what is odd; ranks obey a plan that was played."""
    data, sampler, trainer, schedule = recipe.data, recipe.sampler, recipe.trainer, recipe.schedule
    check_terms(recipe.loss, sampler.layout, in_order=data.in_order)
    device, reason = device_of(recipe, num_processes)
    images_per_step = sampler.images_per_step(data.batch_size, num_processes, trainer.accumulate)
    steps_per_epoch = len(material.train) // data.batch_size
    scheduled = steps_per_epoch * trainer.epochs
    total_steps = min(scheduled, trainer.max_steps or scheduled)
    check_batches(material, recipe, images_per_step, num_processes)
    tried = trial(recipe.optimizer, on_host=is_host(device))  # before a rank does: too long a schedule is refused now
    schedule.start(tried, batch_size=data.batch_size, steps_per_epoch=steps_per_epoch, epochs=trainer.epochs)
    if rehearse:
        check_rates(schedule, steps=total_steps)
        tell_never_drawn(sampler, material.train)
    val_batch_size, num_val_batches = validation_of(material.val, recipe, images_per_step, num_processes, tell=rehearse)
    select, lower = select_metric(trainer.select, material.benchmarks, num_val_batches)
    if rehearse and (why := unresolved(material.benchmarks).get(select)):
        tell(f"trainer.select={select}: cannot be resolved, since {why}; take more pairs, or select another figure")
    return Plan(
        machine=Machine(device, reason, recipe.precision.dtype, num_processes),
        images=Images(
            num_identities=len(material.train.identities),
            num_images=len(material.train),
            num_val_images=len(material.val),
            num_heldout_identities=0 if material.heldout is None else len(material.heldout.identities),
            data_fingerprint=material.source.fingerprint,
        ),
        benchmark=NEXT.join(map(str, material.benchmarks)) or "none",
        batches=Batches(
            layout=sampler.layout.kind,
            batch_size=data.batch_size,
            images_per_step=images_per_step,
            batch_size_per_process=images_per_step // num_processes,
            accumulate=trainer.accumulate,
            val_batch_size=val_batch_size,
            num_val_batches=num_val_batches,
        ),
        steps=Steps(trainer.epochs, steps_per_epoch, total_steps),
        lr=schedule.effective(float(recipe.optimizer.keywords["lr"]), data.batch_size),
        select=select,
        lower_is_better=lower,
    )


def device_of(recipe: Planned, num_processes: int) -> tuple[str, str]:
    """The device's name and why it was chosen. Raises UserError for an absent one, or one that lacks what is asked of it."""
    device, reason = recipe.accelerator.resolve()
    check_precision(device, recipe.precision)
    if num_processes > 1:
        check_exchange(device, recipe.distributed)
    return device, reason


def check_batches(material: Material, recipe: Planned, images_per_step: int, num_processes: int) -> None:
    """Raises UserError for images that make no step, or batches that the losses and batch norms cannot use."""
    data, sampler, loss, trainer = recipe.data, recipe.sampler, recipe.loss, recipe.trainer
    if len(material.train) < data.batch_size:
        raise UserError(
            f"data.batch_size={data.batch_size}: more than the {len(material.train)} training images; lower it or add images"
        )
    try_batch(sampler, material.train, images_per_step // trainer.accumulate, num_processes)
    check_heads(loss, recipe.optimizer, len(material.train.identities), num_processes, trainer.accumulate)
    sizes = {"images_per_step": images_per_step, "num_processes": num_processes}
    check_parts(loss, sampler, material.train, trainer=trainer, distributed=recipe.distributed, **sizes)


def validation_of(
    val: Faces, recipe: Planned, images_per_step: int, num_processes: int, *, tell: bool
) -> tuple[int, int]:
    """(batch size, number of batches) of the validation loss; (0, 0) where there is none, or it would be 0 in every epoch, which would make the
    first one the best. tell: warn of terms that find no triplets there."""
    size, count = validation_batches(val, recipe.sampler, images_per_step, num_processes)
    if not count:
        return 0, 0
    batches = {"batch_size": size, "num_batches": count, "world_size": num_processes}
    mined = loss_without_triplets(recipe.loss, recipe.sampler, val, **batches)
    if len(mined) == len(recipe.loss.terms):
        size, count = 0, 0
    if mined and tell:
        tell_no_triplets(mined, count)
    return size, count


def check_heads(
    loss: LossMix, optimizer: functools.partial[Any], num_identities: int, num_processes: int, accumulate: int
) -> None:
    """Raises UserError where heads over processes would train to something else than one that is whole, or sampled identities to nothing."""
    for name in loss.sharded_terms():
        if num_identities < num_processes:
            raise UserError(
                f"loss.terms.{name}: {num_identities} identities are fewer than {num_processes} processes; lower distributed.num_processes"
            )
        if optimizer.func not in BY_NUMBER:
            known = ", ".join(each.__name__ for each in BY_NUMBER)
            raise UserError(
                f"loss.terms.{name}: a sharded head wants an optimizer that moves each number by its own gradients ({known}); "
                f"optimizer={optimizer.func.__name__} is not known to; set optimizer=adamw"
            )
    if accumulate > 1 and (names := loss.sampled_terms()):
        raise UserError(
            f"loss.terms.{names[0]}: a step has one draw of identities, and trainer.accumulate={accumulate} asks for as many; "
            f"set trainer.accumulate=1 or loss.terms.{names[0]}.loss.sample=1.0"
        )


def check_terms(loss: LossMix, layout: Layout, *, in_order: bool) -> None:
    """Raises UserError for batches that a term of the loss cannot use, or that images read `in_order`, from shards, cannot make."""
    if not isinstance(layout, Layout):
        raise UserError(f"sampler: its layout has to be a facenet.data.Layout, got {layout!r}")
    if in_order and layout.kind != "shuffle":
        raise UserError(
            f"data=shards: {layout.kind} batches take images from anywhere, and shards are read in order; set sampler=shuffle with a loss over "
            "identities such as loss=arcface, or use data=record"
        )
    for name, why in loss.misfits(layout).items():
        if in_order:
            why = (
                "needs several images of each identity in a batch, which shards, read in order, do not give; set a loss over identities such as "
                "loss=arcface, or use data=record"
            )
        raise UserError(f"loss.terms.{name}: {why}")


def try_batch(sampler: Sampler, faces: Faces, batch_size: int, num_processes: int) -> None:
    """Draws one, so that faces which the sampler cannot use are refused now and not by a rank."""
    options = {"batch_size": batch_size, "num_batches": 1, "world_size": num_processes}
    next(sampler.batches(faces.labels, epoch=0, seed=0, rank=0, **options))


def validation_batches(val: Faces, sampler: Sampler, batch_size: int, num_processes: int) -> tuple[int, int]:
    """(batch size, number of batches): whole batches, or one smaller one; (0, 0) where these images make none."""
    unit = num_processes * sampler.layout.multiple
    size = min(batch_size, len(val) // unit * unit)
    if size == 0:
        return 0, 0
    count = len(val) // size
    try:
        try_batch(sampler, val, size, num_processes)
    except UserError:  # too few images of one identity among them
        return 0, 0
    return size, count
