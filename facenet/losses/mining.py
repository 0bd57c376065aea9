"""Which rows of a batch make triplets: pure functions of distances and labels. Letters: N rows, T triplets."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 256  # anchors at once: 4 MiB of distances at 4096 rows, which a core's cache still holds


class Triplets(NamedTuple):
    """Row numbers of T triplets. Rows where `valid` is False fill the shape and mean nothing: dropping them would make
    the shape depend on the data, and so the host wait for the device."""

    anchor: Tensor  # (T,) int64
    positive: Tensor  # (T,) int64
    negative: Tensor  # (T,) int64
    valid: Tensor  # (T,) bool


def given_triplets(batch_size: int, device: torch.device) -> Triplets:
    """The triplets a sampler laid out as thirds: row i, its positive i + T and negative i + 2T, T = batch_size / 3."""
    if batch_size % 3:
        raise ValueError(f"a batch of triplets is a multiple of 3 images, got {batch_size}")
    anchor, positive, negative = torch.arange(batch_size, device=device).chunk(3)
    return Triplets(anchor, positive, negative, torch.ones_like(anchor, dtype=torch.bool))


def hardest_triplets(distances: Tensor, labels: Tensor, *, start: int = 0) -> Triplets:
    """Every row as anchor with its farthest positive and nearest negative (Hermans et al. 2017, eq. 5, "batch hard").

    `labels` (N,), `distances` (T, N) of the anchors start..start + T - 1, by default all. Valid where the anchor has both a positive
    and a negative in the batch."""
    anchor = torch.arange(start, start + len(distances), device=labels.device)
    same = labels[anchor, None] == labels
    positives = same.clone()
    positives.diagonal(start).fill_(False)
    return Triplets(
        anchor=anchor,
        positive=distances.masked_fill(~positives, -torch.inf).argmax(dim=1),
        negative=distances.masked_fill(same, torch.inf).argmin(dim=1),
        valid=positives.any(dim=1) & ~same.all(dim=1),
    )


class Positives(NamedTuple):
    """The other rows of each row's identity: R of them, the most that any row has; where a row has fewer, `valid` is False and `rows`
    repeats rows of the identity (the row itself where it is alone)."""

    rows: Tensor  # (N, R) int64
    valid: Tensor  # (N, R) bool


@functools.lru_cache(maxsize=8)
def positives_in_groups(num_rows: int, images_per_identity: int, device: torch.device) -> Positives:
    """Of a P x K batch, by position: rows 0..K-1 are one identity, K..2K-1 the next, and no identity comes twice. Asks no device; kept, for
    every batch has the same."""
    if num_rows % images_per_identity:
        raise ValueError(f"a P x K batch is a multiple of {images_per_identity} images, got {num_rows}")
    row = torch.arange(num_rows, device=device)[:, None]
    place = (row + torch.arange(1, images_per_identity, device=device)) % images_per_identity
    index = row - row % images_per_identity + place
    return Positives(index, torch.ones_like(index, dtype=torch.bool))


def positives_of(labels: Tensor, most: int) -> Positives:
    """Of any labels (N,), where no identity has more than `most` rows; beyond that positives are left out. Asks no device; memory
    O(N most)."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    first, end = torch.searchsorted(ordered, labels), torch.searchsorted(ordered, labels, right=True)
    count = (end - first)[:, None]
    offset = torch.arange(1, most, device=labels.device)
    place = (order.argsort() - first)[:, None]  # of the row within its identity
    return Positives(order[first[:, None] + (place + offset) % count], offset < count)


def row_products(rows: Tensor, part: slice) -> Tensor:
    """(C, N): product of each row of the part with every row, less half that one's squared length; larger is nearer."""
    return torch.addmm(rows.square().sum(1).div(-2), rows[part], rows.T)


@torch.no_grad()
def hardest_in_chunks(rows: Tensor, positives: Positives, *, chunk: int = CHUNK) -> Triplets:
    """`hardest_triplets` by L2 in memory O(chunk N). A positive that is a filler is the same identity's, so only rows alone in theirs are
    not valid, and those without a negative."""
    index, valid = positives
    positive, negative = [], []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        near = row_products(rows, part)
        if index.shape[1]:
            own = near.gather(1, index[part]).masked_fill_(~valid[part], torch.inf)
            positive.append(index[part].gather(1, own.argmin(1, keepdim=True))[:, 0])
        near.scatter_(1, index[part], -torch.inf)
        near.diagonal(start).fill_(-torch.inf)
        negative.append(near.argmax(1))
    anchor = torch.arange(len(rows), device=rows.device)
    num_own = valid.sum(1)
    chosen = torch.cat(positive) if positive else anchor
    return Triplets(anchor, chosen, torch.cat(negative), (num_own > 0) & (num_own < len(rows) - 1))


@torch.no_grad()
def hardest_by_label(rows: Tensor, labels: Tensor, *, chunk: int = CHUNK) -> Triplets:
    """`hardest_in_chunks` for labels in any order; masks instead of positions, so slower."""
    parts = [
        hardest_triplets(-row_products(rows, slice(start, start + chunk)), labels, start=start)
        for start in range(0, len(rows), chunk)
    ]
    return Triplets(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


@torch.no_grad()
def distance_weighted_triplets(rows: Tensor, positives: Positives, *, chunk: int = CHUNK) -> Triplets:
    """For each pair of an anchor and a positive one negative, drawn so that all distances are about equally likely (Wu et al. 2017,
    sec. 4.2). `rows` of length 1; T = N R.

    The weight is the inverse density of the distance between random unit rows, distances below 0.5 counting as 0.5; from 1.4 on, where
    the paper's loss is 0, none is drawn, unless all of an anchor's negatives are that far: then all alike. Draws from torch's stream."""
    index, valid = positives
    size, negative = rows.shape[1], []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        squared = row_products(rows, part).mul_(-2).add_(rows[part].square().sum(1, keepdim=True)).clamp_(0.25, 3.99)
        log_weight = squared.log().mul_((2 - size) / 2) - (1 - squared / 4).log_().mul_((size - 3) / 2)
        log_weight.masked_fill_(squared >= 1.4**2, -1e4)
        log_weight.scatter_(1, index[part], -torch.inf)
        log_weight.diagonal(start).fill_(-torch.inf)
        # The largest weight is 1: where all negatives are far, all have it. NaN where there is none.
        reach = (log_weight - log_weight.amax(1, keepdim=True)).exp_().nan_to_num_(0).cumsum(1)
        at = torch.rand(index[part].shape, device=rows.device, dtype=rows.dtype) * reach[:, -1:]
        negative.append(torch.searchsorted(reach, at, right=True).clamp_max_(len(rows) - 1))
    num_own = valid.sum(1, keepdim=True)
    anchor = torch.arange(len(rows), device=rows.device)[:, None].expand_as(index)
    some = valid & (num_own < len(rows) - 1)
    return Triplets(*(rows.reshape(-1) for rows in (anchor, index, torch.cat(negative), some)))
