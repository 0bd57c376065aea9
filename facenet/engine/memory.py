"""What to do when a device has no memory left: the batch that would have fit, found by trying."""

from __future__ import annotations

from collections.abc import Callable


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
