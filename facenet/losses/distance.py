"""Distances between rows, with gradients that stay finite where two rows meet."""

from __future__ import annotations

import torch


def sqrt_finite(squared: torch.Tensor) -> torch.Tensor:
    """Square root of numbers >= 0, whose gradient at exactly 0 is 0; plain sqrt gives inf there, and inf times a zero
    gradient is NaN."""
    zero = squared == 0
    # Two fills: the first keeps 0 away from sqrt's backward, the second restores the value.
    return squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def squared_l2(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Row by row (..., D), (..., D) -> (...), axes of 1 stretched; in [0, 4] between unit rows (Schroff et al. 2015, eq. 1)."""
    return (left - right).square().sum(dim=-1)


def l2(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The root of `squared_l2`; in [0, 2] between unit rows."""
    return sqrt_finite(squared_l2(left, right))


def pairwise_squared_l2(rows: torch.Tensor) -> torch.Tensor:
    """Every row against every row, (N, D) -> (N, N), by one matrix product.

    The product cancels for near rows (absolute error about 1e-7 between unit rows in float32), so it ranks pairs; a
    loss takes the distances of the chosen pairs from `l2` or `squared_l2`.
    """
    lengths = rows.square().sum(dim=1)
    return (lengths[:, None] + lengths - 2 * rows @ rows.T).clamp_min(0)
