"""What is tried before a run starts, on numbers of no weight: one step of the optimizer, the schedule to its end, and whether batches can teach."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facenet.backbones.embedder import Embedder
from facenet.data.identities import Faces, UnreadableImage
from facenet.data.sampling.sampler import Sampler
from facenet.data.transforms import Augment, Preprocess
from facenet.distributed.choice import Distributed
from facenet.engine.schedule import Schedule, TorchSchedule
from facenet.engine.trainer import Settings
from facenet.errors import UserError
from facenet.evaluation.embed import evaluating
from facenet.losses.mix import LossMix

log = logging.getLogger(__name__)
OF_DEVICES = ("fused", "capturable")  # what another device than this process's may have
LARGEST_SIDE = 4096  # pixels of a preprocessed face
FLAT = 0.05  # of what a pixel can be: the difference of black and white
DEAD = 1e-6  # of the highest lr: no weight moves
MOST_DEAD = 0.02  # of the steps: half a cosine spends less below DEAD
# Parameters of torch's schedules that say how long or how fast, by which a dead one is mended.
LENGTHS = ("total_iters", "T_max", "step_size", "milestones", "gamma")


def trial(optimizer: functools.partial[Any], *, on_host: bool = True) -> torch.optim.Optimizer:
    """The optimizer on stand-ins of a convolution, a matrix and a bias, after one step. Raises UserError where it cannot be made or cannot step;
    `on_host`: here, as the run will."""
    name = optimizer.func.__name__
    if not isinstance(optimizer.keywords.get("lr"), (int, float)):
        raise UserError(f"optimizer.lr: {name} needs a number, got {optimizer.keywords.get('lr')}")
    options = {key: value for key, value in optimizer.keywords.items() if on_host or key not in OF_DEVICES}
    if options.get("differentiable"):
        raise UserError(
            f"optimizer.differentiable=true: {name} then asks for gradients of the update itself, which no run takes; leave it out"
        )
    if options.get("foreach") and optimizer.keywords.get("fused"):
        raise UserError("optimizer.foreach: an update is either foreach or fused; leave one out")
    for key in ("momentum", "rho", *(["alpha"] if name != "ASGD" else [])):  # ASGD's is a power
        if isinstance(options.get(key), (int, float)) and not 0 <= options[key] < 1:
            raise UserError(
                f"optimizer.{key}={options[key]:g}: {name} keeps this share of its average; 0 or more, below 1"
            )
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((8, 4, 3, 3), (8, 4), (8,))]
    for each in weights:
        each.grad = torch.full_like(each, 0.1)
    try:
        made: torch.optim.Optimizer = optimizer.func(weights, **options)
        with torch.no_grad():  # the update itself: torch's wrapper of it imports the compiler, 1.6 s of the launcher
            inspect.unwrap(type(made).step)(made)
    except UserError:
        raise
    except Exception as error:  # of anybody's optimizer, asked for by the config alone: almost any type
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{find_key(said, options)}: {name} cannot step with it ({said})") from None
    if not all(bool(each.isfinite().all()) for each in weights):
        said = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UserError(f"optimizer: the first step of {name} gives NaN or infinity ({said}); lower optimizer.lr")
    return made


def find_key(said: str, options: dict[str, Any]) -> str:
    """The option that the words of an optimizer are about, with its value; "optimizer" where they tell of none."""
    spoken = {key: "learning rate" if key == "lr" else key.rstrip("s") for key in options}
    key = next((key for key, word in spoken.items() if word in said), None)
    return "optimizer" if key is None else f"optimizer.{key}={options[key]}"


def check_rates(schedule: Schedule, *, steps: int) -> None:
    """Plays a schedule that has started to its end. Raises UserError where it fails on the way, or leaves the run without a learning rate."""
    rates = np.array([rate_at(schedule, step) for step in at_most(steps)])
    if not np.isfinite(rates).all() or rates.min() < -(DEAD**2) * rates.max():  # torch's reach 0 but for rounding
        step = at_most(steps)[int(np.argmin(np.isfinite(rates) & (rates >= 0)))]
        raise UserError(f"schedule: the lr of step {step:,} is {rate_at(schedule, step):g}; {way_out(schedule)}")
    if rates.max() == 0:
        raise UserError("optimizer.lr: the learning rate is 0 at every step, so nothing is learnt; set optimizer.lr")
    if rates.max() < DEAD * schedule.base_lrs[0]:
        raise UserError(
            f"schedule: the lr is {rates.max():g} at most, below {DEAD:g} of optimizer.lr={schedule.base_lrs[0]:g}: nothing is learnt; "
            f"{way_out(schedule)}"
        )
    peak = int(rates.argmax())
    dead = rates[peak:] < DEAD * rates[peak]
    if dead.sum() > max(1, MOST_DEAD * len(dead)):  # the last step's may be 0
        first = at_most(steps)[peak + int(dead.argmax())]
        raise UserError(
            f"schedule: from step {first:,} of {steps:,} on the lr is below {DEAD:g} of its peak {rates[peak]:g} (down to {rates[peak:].min():g}), "
            f"in {dead.mean():.0%} of the steps after that: nothing is learnt there; {way_out(schedule)}"
        )


def at_most(steps: int, most: int = 2000) -> list[int]:
    """All steps, or so many of them, in order."""
    found: list[int] = np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int)).tolist()
    return found


def rate_at(schedule: Schedule, step: int) -> float:
    try:
        return schedule.lr_at(step)
    except UserError:
        raise
    except Exception as error:  # of torch's past their own length, and of anybody's options
        said = str(error) or type(error).__name__
        raise UserError(f"schedule: has no lr for step {step:,} ({said}); {way_out(schedule)}") from None


def way_out(schedule: Schedule) -> str:
    if not isinstance(schedule, TorchSchedule):
        return "raise schedule.min_lr_ratio" if hasattr(schedule, "min_lr_ratio") else "set schedule=warmup_cosine"
    known = inspect.signature(schedule.scheduler.func).parameters
    length = schedule.length
    keys = [name for name in LENGTHS if name in known]
    ways = [
        f"set schedule.scheduler.{key}={length}"
        if key in ("total_iters", "T_max")
        else f"raise schedule.scheduler.{key}"
        for key in keys[:1]
    ]
    if schedule.every == "step" and "total_iters" not in keys and "T_max" not in keys:
        ways.append("set schedule.every=epoch")
    return ", or ".join(ways) or "set schedule=warmup_cosine"


def check_input(backbone: Embedder, preprocess: Preprocess) -> None:
    """Raises UserError for a network that cannot take images of the size that it would be given."""
    height, width = preprocess.size
    with torch.no_grad(), evaluating(backbone):
        try:
            backbone(torch.zeros(1, 3, height, width))
        except Exception as error:  # of anybody's network
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"data.image_size: the network of backbone= cannot take images of {height} x {width} ({said}); set data.image_size to the size "
                "that it is made for"
            ) from None


def check_augment(augment: Augment, faces: Faces) -> None:
    """Raises UserError for a pipeline that does not give images of these, tried on one: the first of the first few that can be read."""
    if augment.pipeline and (image := first_of(faces)) is not None:
        augment.rehearse(image)


def check_preprocess(preprocess: Preprocess) -> None:
    """Raises UserError for images that no network can be given. A warning where all pixels would be about one number: a mean of 127.5 is meant for
    0..255."""
    if max(preprocess.size) > LARGEST_SIDE:
        raise UserError(f"preprocess.size: at most {LARGEST_SIDE} pixels a side, got {list(preprocess.size)}")
    black, white = preprocess.normalize(
        torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(-1, -1, -1, 3)
    ).unbind(3)
    if not bool((white - black).isfinite().all()):
        raise UserError(
            f"preprocess.std={list(preprocess.std)}: pixels become infinite; set it to a share of white, such as 0.5"
        )
    flat = (white - black) < FLAT * torch.maximum(black.abs(), white.abs()).clamp_min(1)
    if bool(flat.any()):
        channel = int(flat.flatten().int().argmax())
        log.warning(
            "preprocess.mean=%s and std=%s: black becomes %.4g and white %.4g; they are in units where white is 1, so 127.5 of 255 is 0.5",
            list(preprocess.mean),
            list(preprocess.std),
            black.flatten()[channel],
            white.flatten()[channel],
        )


def first_of(faces: Faces, *, tried: int = 8) -> NDArray[np.uint8] | None:
    """None where none of them can be read: training looks at each image."""
    for index in range(min(tried, len(faces))):
        with contextlib.suppress(UnreadableImage):
            return faces.load(index)
    return None


def check_parts(
    loss: LossMix,
    sampler: Sampler,
    faces: Faces,
    *,
    images_per_step: int,
    trainer: Settings,
    distributed: Distributed,
    num_processes: int,
) -> None:
    """Raises UserError for a part of a batch, as one process computes it, that batch norm or a mined triplet loss can do nothing with."""
    part = images_per_step // num_processes // trainer.accumulate
    numbers = {"trainer.accumulate": trainer.accumulate, "distributed.num_processes": num_processes}
    keys = ["data.batch_size", *(key for key, number in numbers.items() if number > 1)]
    sizes = f"data.batch_size={images_per_step} in {trainer.accumulate} part(s) over {num_processes} process(es)"
    if part == 1 and not (distributed.sync_batch_norm and num_processes > 1):
        raise UserError(
            f"{sizes}: one image at a time has no batch statistics, and batch norm fails; change {' or '.join(keys)} to have 2 or more"
        )
    for name in loss.mining_terms(sampler.layout):
        rows = part * (num_processes if loss.terms[name].gather else 1)
        if reason := no_triplet(sampler, faces, rows):
            raise UserError(
                f"loss.terms.{name}: no batch can hold a triplet, so its loss would be 0 at every step: {reason}"
            )


def no_triplet(sampler: Sampler, faces: Faces, rows: int) -> str | None:
    """Why no batch with so many rows has an anchor, a positive and a negative; None where some may."""
    each = sampler.layout.images_per_identity
    if each == 1:
        return "sampler.images_per_identity=1 gives no positive; set it to 2 or more"
    if each is not None and rows < 2 * each:
        return (
            f"{rows} images are one identity of sampler.images_per_identity={each}; raise data.batch_size or lower it"
        )
    if rows < 3:
        return f"{rows} images at a time; raise data.batch_size to 3 or more"
    if not (np.bincount(faces.labels) >= 2).any():
        return "no identity has two images; add images, or set loss=arcface"
    return None


def loss_without_triplets(
    loss: LossMix, sampler: Sampler, faces: Faces, *, batch_size: int, num_batches: int, world_size: int
) -> list[str]:
    """Names of the terms that look for triplets, where none of these batches holds one: their loss is 0 whatever the network does."""
    names = loss.mining_terms(sampler.layout)
    together = world_size if any(loss.terms[name].gather for name in names) else 1
    sizes = {"batch_size": batch_size, "num_batches": num_batches, "world_size": world_size}
    ranks = [
        sampler.batches(faces.labels, epoch=0, seed=0, rank=rank, **sizes) for rank in range(together if names else 0)
    ]
    some = any(has_triplet(faces.labels[np.concatenate(rows)]) for rows in zip(*ranks, strict=True))
    return [] if some else names


def has_triplet(labels: NDArray[np.int64]) -> bool:
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and bool((counts > 1).any())


def tell_no_triplets(names: list[str], num_batches: int) -> None:
    what = f"val/{names[0]} is 0 and says nothing" if num_batches else "there is no validation loss"
    tell(
        f"loss.terms.{names[0]}: no batch of the validation images holds a triplet, so {what}; raise data.val_images, or set it to 0"
    )


def tell_never_drawn(sampler: Sampler, faces: Faces) -> None:
    alone = np.bincount(faces.labels) == 1
    if (sampler.layout.images_per_identity or 1) > 1 and alone.any():
        tell(
            f"sampler=identity: {alone.sum():,} of {len(alone):,} identities have one image to train on and are never drawn; "
            "leave them out with data.min_images=2, or set sampler=shuffle with a loss over identities"
        )


@functools.cache
def tell(message: str) -> None:
    """A warning, once: the jobs of a sweep have it in common."""
    log.warning("%s", message)
