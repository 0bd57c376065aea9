"""Folds of pairs that have none of their own, or none that can be judged. NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dealt(same: NDArray[np.bool_], num_folds: int) -> NDArray[np.int64]:
    """Each kind of pair is dealt out in turn, so that a fold holds as many of either as any other, give or take one."""
    folds = np.empty(len(same), np.int64)
    for kind in (same, ~same):
        folds[kind] = np.arange(kind.sum()) % num_folds
    return folds


def consecutive(num_pairs: int, num_folds: int) -> NDArray[np.int64]:
    sizes = [len(part) for part in np.array_split(np.arange(num_pairs), num_folds)]
    return np.repeat(np.arange(num_folds), sizes)


def have_both(same: NDArray[np.bool_], folds: NDArray[np.int64]) -> bool:
    """Whether every fold holds pairs of one identity and of two."""
    return all(len(np.unique(same[folds == fold])) == 2 for fold in np.unique(folds))
