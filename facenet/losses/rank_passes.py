"""Mean violation over all triplets of a batch, or over all semi-hard ones, without ever holding the triplets.

Anchors go in chunks of C. Each chunk costs one product for its distances to all N rows and one masked pass per positive of an anchor (the
anchor's first other image, its second, ...): memory O(C N), nothing whose shape depends on the data. The loss is piecewise linear in the
distances, so its gradient is one signed count per pair and is formed on the spot, by two more products.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from facenet.losses.mining import CHUNK, Positives, row_products

# Distance to rows of the anchor's own identity: no triplet reaches it. Finite, since it meets counts of 0.
BEYOND = 1e9


class MinedLoss(NamedTuple):
    """0-d each. `loss`: mean violation over the active triplets, 0 where none is; `num_active`, `num_triplets`: exact int64 counts, of
    those that violate and of all in the batch."""

    loss: Tensor
    num_active: Tensor
    num_triplets: Tensor


def batch_all(rows: Tensor, positives: Positives, *, margin: float, squared: bool, chunk: int = CHUNK) -> MinedLoss:
    """Over every triplet with d(a, p) - d(a, n) + margin > 0 (Hermans et al. 2017, eq. 6, "batch all", mean over non-zero terms).

    `rows` (N, D) in float32 or float64, outside of lower precision. `squared`: d is squared L2 instead of L2."""
    return passes(rows, positives, margin, squared, "all", chunk)


def semi_hard(rows: Tensor, positives: Positives, *, margin: float, squared: bool, chunk: int = CHUNK) -> MinedLoss:
    """Does what `batch_all` does, over the triplets whose negative is farther than the positive but by less than the margin (Schroff et al. 2015,
    eq. 4); all of them, not one for each pair."""
    return passes(rows, positives, margin, squared, "semi_hard", chunk)


def passes(rows: Tensor, positives: Positives, margin: float, squared: bool, kind: str, chunk: int) -> MinedLoss:
    loss, num_active = RankPasses.apply(rows, *positives, margin, squared, kind, chunk)  # type: ignore[no-untyped-call]
    num_own = positives.valid.sum(1)
    return MinedLoss(loss, num_active, (num_own * (len(rows) - 1 - num_own)).sum())


class RankPasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        index: Tensor,
        valid: Tensor,
        margin: float,
        squared: bool,
        kind: Literal["all", "semi_hard"],
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        total, num_active = rows.new_zeros((), dtype=torch.float64), rows.new_zeros((), dtype=torch.int64)
        gradient = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            distance, pull = distances(rows, part, index[part], squared)
            weight, sums, count = violations(distance, pull, valid[part], margin, kind)
            total, num_active = total + sums, num_active + count
            if gradient is not None:
                add_gradient(gradient, rows, part, slopes(weight, distance, pull, index[part], squared))
        count = num_active.clamp_min(1)
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
        ctx.mark_non_differentiable(num_active)
        return (total / count).to(rows.dtype), num_active

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None, None, None


def distances(rows: Tensor, part: slice, index: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """(C, N) to all rows, BEYOND for the own identity, and (C, R) to the positives; these are near, so from differences."""
    pull = (rows[part, None] - rows[index]).square().sum(2)
    distance = row_products(rows, part).mul_(-2).add_(rows[part].square().sum(1, keepdim=True)).clamp_min_(0)
    if not squared:
        distance, pull = distance.sqrt_(), pull.sqrt()
    distance.scatter_(1, index, BEYOND)
    distance.diagonal(part.start).fill_(BEYOND)
    return distance, pull


def violations(
    distance: Tensor, pull: Tensor, valid: Tensor, margin: float, kind: str
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """((times each pair is a negative (C, N), times each is a positive (C, R)), sum of the violations, their number)."""
    limit = (pull + margin).masked_fill(~valid, -1)  # below every distance: a filler has no triplets
    negative, active = torch.zeros_like(distance), torch.empty_like(distance)
    above = torch.empty_like(distance) if kind == "semi_hard" else None
    positive = []
    for rank in range(pull.shape[1]):
        torch.lt(distance, limit[:, rank, None], out=active)
        if above is not None:
            active.mul_(torch.gt(distance, pull[:, rank, None], out=above))
        negative.add_(active)
        positive.append(active.sum(1))
    times = torch.stack(positive, 1) if positive else torch.zeros_like(pull)
    sums = (limit.double() * times).sum() - torch.mul(negative, distance, out=active).sum(1).double().sum()
    return (negative, times), sums, times.long().sum()


def slopes(weight: tuple[Tensor, Tensor], distance: Tensor, pull: Tensor, index: Tensor, squared: bool) -> Tensor:
    """(C, N): twice the derivative of the sum by each squared distance; negatives and positives in one matrix."""
    push, own = weight[0].neg_(), weight[1]
    if squared:
        push, own = push.mul_(2), own * 2
    else:  # of a square root, whose gradient at 0 is taken as 0
        push = push.div_(distance.masked_fill_(distance == 0, torch.inf))
        own = own / pull.masked_fill(pull == 0, torch.inf)
    return push.scatter_add_(1, index, own)


def add_gradient(gradient: Tensor, rows: Tensor, part: slice, slope: Tensor) -> None:
    """Of sum slope / 2 * |a - b|^2: slope * (a - b) to the anchor and its opposite to the other row."""
    gradient[part] += slope.sum(1, keepdim=True) * rows[part] - slope @ rows
    gradient += slope.sum(0)[:, None] * rows - slope.T @ rows[part]
