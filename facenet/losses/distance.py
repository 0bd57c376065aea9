"""Distances between rows, with gradients that stay finite where two rows meet."""

from __future__ import annotations

from torch import Tensor


def sqrt_finite(squared: Tensor) -> Tensor:
    """Square root of numbers >= 0, whose gradient at exactly 0 is 0; plain sqrt gives inf there, and inf times a zero
    gradient is NaN."""
    zero = squared == 0
    # Two fills: the first keeps 0 away from sqrt's backward, the second restores the value.
    return squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def squared_l2(left: Tensor, right: Tensor) -> Tensor:
    """Row by row (..., D), (..., D) -> (...), axes of 1 stretched; in [0, 4] between unit rows (Schroff et al. 2015, eq. 1)."""
    return (left - right).square().sum(dim=-1)


def l2(left: Tensor, right: Tensor) -> Tensor:
    """The root of `squared_l2`; in [0, 2] between unit rows."""
    return sqrt_finite(squared_l2(left, right))
