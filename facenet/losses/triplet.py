"""Triplet loss: an anchor nearer to its positive than to its negative by a margin (Schroff et al. 2015, sec. 3.1)."""

from __future__ import annotations

from typing import Literal

import torch

from facenet.errors import UserError
from facenet.losses.distance import l2, pairwise_squared_l2, squared_l2
from facenet.losses.mining import Triplets, given_triplets, hardest_triplets
from facenet.losses.term import Term


class TripletLoss(Term):
    """Mean of d(a, p) - d(a, n) + margin over the triplets where that is above 0; 0 with zero gradient where none is.

    `margin` is in the unit of `distance`: plain L2 (0..2 between unit rows) or squared L2 (0..4); 0.2 is not the same
    demand in both. `mining`: "given" takes the sampler's triplets, "batch_hard" each row's farthest positive and
    nearest negative in the batch, "auto" the sampler's where the batch has them, else batch-hard. `gather`: the batch is that of all
    processes instead of this one's, so that hard negatives come from all of it and the mean is over all its active triplets.
    Figures: `active`, the share of triplets that violate the margin; `positive_distance` and `negative_distance`, means
    over all triplets; all three 0 where a batch holds no triplet.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        distance: Literal["l2", "squared_l2"] = "l2",
        mining: Literal["auto", "given", "batch_hard"] = "auto",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if margin < 0:
            raise UserError(f"triplet: margin is a distance ({distance}) and cannot be below 0, got {margin}")
        self.margin = margin
        self.distance = {"l2": l2, "squared_l2": squared_l2}[distance]
        self.mining = mining
        self.gather = gather
        self.needs_triplets = mining == "given"

    def forward(
        self, features: torch.Tensor, embedding: torch.Tensor, labels: torch.Tensor, *, triplets: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        anchor, positive, negative, valid = self.choose(embedding, labels, triplets)
        pull = self.distance(embedding[anchor], embedding[positive])  # (T,)
        push = self.distance(embedding[anchor], embedding[negative])  # (T,)
        violation = pull - push + self.margin
        active = valid & ~(violation <= 0)  # not "> 0": a NaN distance must reach the loss, where the trainer sees it
        loss = violation.masked_fill(~active, 0).sum() / active.sum().clamp_min(1)
        return loss, {
            "active": mean_over(active.to(pull.dtype), valid),
            "positive_distance": mean_over(pull.detach(), valid),
            "negative_distance": mean_over(push.detach(), valid),
        }

    def choose(self, embedding: torch.Tensor, labels: torch.Tensor, triplets: bool) -> Triplets:
        if self.mining == "given" and not triplets:
            raise UserError(
                "triplet: mining=given needs batches of triplets, and this sampler makes none; "
                "choose sampler=triplet, or mining: auto or batch_hard in the loss"
            )
        if triplets and self.mining != "batch_hard":
            return given_triplets(len(labels), labels.device)
        return hardest_triplets(pairwise_squared_l2(embedding.detach()), labels)


def mean_over(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values (T,) where the mask is set, 0-d; 0 where it is set nowhere."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)
