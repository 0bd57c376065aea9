"""What every part of a loss mix offers. Letters: B images in the batch, D numbers in an embedding, I identities."""

from __future__ import annotations

import torch
from torch import nn


class Term(nn.Module):
    """One named part of a loss mix. Subclasses write `forward`; those with parameters make them in `start`, when the
    identities are known."""

    needs_triplets = False
    """True where only batches of given triplets will do."""
    needs_groups = False
    """True where a batch has to hold several images of each identity, P x K."""
    images_per_identity: int | None = None
    """K where batches are P x K by position; None where only the labels tell."""
    gather = False
    """True where the rows of all processes are wanted instead of this one's, which makes the loss that of one process on the whole
    batch. Each process computes it alike."""

    sharded = False
    """True where each process holds the rows of its share of the identities. The loss is then that of the batch of all processes."""
    sampled = False
    """True where a training step computes some identities only, drawn anew for each batch."""

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        """Creates the parameters, before the model moves to its device; most terms have none."""

    def forward(
        self, features: torch.Tensor, embedding: torch.Tensor, labels: torch.Tensor, *, triplets: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss (0-d) of one batch, and 0-d figures to log, detached and still on the device: reading them is the
        caller's moment.

        `features` (B, D) float32 before normalisation, `embedding` (B, D) its unit rows, `labels` (B,) int64.
        `triplets` says that the rows are thirds: anchors, then their positives, then their negatives.
        """
        raise NotImplementedError
