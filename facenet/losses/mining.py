"""Which rows of a batch make triplets: pure functions of distances and labels. Letters: N rows, T triplets."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Triplets(NamedTuple):
    """Row numbers of T triplets. Rows where `valid` is False fill the shape and mean nothing: dropping them would make
    the shape depend on the data, and so the host wait for the device."""

    anchor: torch.Tensor  # (T,) int64
    positive: torch.Tensor  # (T,) int64
    negative: torch.Tensor  # (T,) int64
    valid: torch.Tensor  # (T,) bool


def given_triplets(batch_size: int, device: torch.device) -> Triplets:
    """The triplets a sampler laid out as thirds: row i, its positive i + T and negative i + 2T, T = batch_size / 3."""
    if batch_size % 3:
        raise ValueError(f"a batch of triplets is a multiple of 3 images, got {batch_size}")
    anchor, positive, negative = torch.arange(batch_size, device=device).chunk(3)
    return Triplets(anchor, positive, negative, torch.ones_like(anchor, dtype=torch.bool))


def hardest_triplets(distances: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """Every row as anchor with its farthest positive and nearest negative (Hermans et al. 2017, eq. 5, "batch hard").

    `distances` (N, N), `labels` (N,). T = N; valid where the anchor has both a positive and a negative in the batch.
    """
    same = labels[:, None] == labels
    positives = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return Triplets(
        anchor=torch.arange(len(labels), device=labels.device),
        positive=distances.masked_fill(~positives, -torch.inf).argmax(dim=1),
        negative=distances.masked_fill(same, torch.inf).argmin(dim=1),
        valid=positives.any(dim=1) & ~same.all(dim=1),
    )


def batch_hard(distances: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Only the valid rows of `hardest_triplets`, as (anchor, positive, negative). Its shape depends on the data, so a
    device must be waited for: for looking at batches, not for the training step."""
    anchor, positive, negative, valid = hardest_triplets(distances, labels)
    return anchor[valid], positive[valid], negative[valid]
