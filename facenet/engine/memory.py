"""What to do when a device has no memory left: the batch that would have fit, found by trying."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from facenet.data.feed.loader import Batch
from facenet.devices.table import out_of_memory
from facenet.engine.train_step import TrainStep


def largest_fitting(fits: Callable[[int], bool], size: int, unit: int) -> int:
    """The largest multiple of `unit` below `size` for which `fits` holds, by bisection; 0 where none does. `fits` is monotone."""
    good, bad = 0, -(-size // unit)
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle * unit):
            good = middle
        else:
            bad = middle
    return good * unit


def advice(size: int, fitting: int | None, *, unit: int, num_processes: int, accumulate: int) -> str:
    """What to set, for `size` images that a process computed at once and `fitting` that it could have; None where that was not tried."""
    if fitting is None:
        return "lower data.batch_size, or raise trainer.accumulate to compute the same batch in parts"
    if fitting == 0:
        return "not even the smallest batch fits; use a smaller data.image_size or backbone"
    whole = size * accumulate
    parts = next(n for n in range(accumulate, whole + 1) if whole % (n * unit) == 0 and whole // n <= fitting)
    return (
        f"{fitting} at once fit: set data.batch_size={fitting * accumulate * num_processes}, "
        f"or trainer.accumulate={parts} to compute the same batch in parts"
    )


def told_of(batch: Batch, words: str, module: TrainStep, optimizer: torch.optim.Optimizer, *, accumulate: int) -> str:
    """What a user is told whose device had no memory for a batch, in `words` of its own. Smaller parts of the batch are tried out as steps, which
    spoils what was learnt."""
    device, size = module.accelerator, len(batch.labels)
    peak = device.memory().peak or 0
    fitting, unit = None, module.loss.layout.multiple
    if steps_alone(module):
        fitting = largest_fitting(lambda smaller: fits(batch, smaller, module, optimizer, accumulate), size, unit)
    told = advice(size, fitting, unit=unit, num_processes=device.world_size, accumulate=accumulate)
    return (
        f"{device.device} ran out of memory with {size} images at once, at a peak of {peak / 2**20:,.0f} MiB "
        f"(its words: {words}); {told}"
    )


def steps_alone(module: TrainStep) -> bool:
    """Whether the module without its wrapper waits for no other process, which may have found its memory."""
    return module.accelerator.world_size == 1 or not any(
        isinstance(part, nn.SyncBatchNorm) or getattr(part, "gather", False) or getattr(part, "sharded", False)
        for part in module.modules()
    )


def fits(batch: Batch, size: int, module: TrainStep, optimizer: torch.optim.Optimizer, accumulate: int) -> bool:
    """Whether a step on the first `size` images of the batch finds memory."""
    device = module.accelerator
    optimizer.zero_grad(set_to_none=True)
    device.free_cache()
    try:
        loss, _ = module(device.to_device(batch.images[:size]), device.to_device(batch.labels[:size]))
        device.backward(loss / accumulate)
        device.step(optimizer)
    except ValueError:  # batch statistics of one image
        return False
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
    return True
