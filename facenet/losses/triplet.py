"""Triplet loss: an anchor nearer to its positive than to its negative by a margin (Schroff et al. 2015, sec. 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from facenet.data.layout import Layout
from facenet.errors import UserError
from facenet.losses import rank_passes
from facenet.losses.distance import l2, squared_l2
from facenet.losses.mining import (
    Positives,
    Triplets,
    distance_weighted_triplets,
    given_triplets,
    hardest_by_label,
    hardest_in_chunks,
    positives_in_groups,
    positives_of,
)
from facenet.losses.term import Term


class TripletLoss(Term):
    """Mean of d(a, p) - d(a, n) + margin over the triplets where that is above 0; 0 with zero gradient where none is.

    `margin` is in the unit of `distance`: plain L2 (0..2 between unit rows) or squared L2 (0..4); 0.2 is not the same
    demand in both. `mining`: "given" takes the sampler's triplets, "batch_hard" each row's farthest positive and
    nearest negative in the batch, "auto" the sampler's where the batch has them, else batch-hard; "all" every triplet of
    the batch, "semi_hard" those of them whose negative is the farther one, "distance_weighted" a negative per pair, drawn
    evenly over distances. `gather`: the batch is that of all processes instead of this one's, so that hard negatives come
    from all of it and the mean is over all its active triplets.
    Figures: `active`, the share of triplets that violate the margin; `positive_distance` and `negative_distance`, means
    over all triplets; all three 0 where a batch holds no triplet. "all" and "semi_hard" have `active` and
    `active_triplets`, their number."""

    def __init__(
        self,
        *,
        margin: float = 0.2,
        distance: Literal["l2", "squared_l2"] = "l2",
        mining: Literal["auto", "given", "batch_hard", "semi_hard", "all", "distance_weighted"] = "auto",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if margin < 0:
            raise UserError(f"triplet: margin is a distance ({distance}) and cannot be below 0, got {margin}")
        self.margin = margin
        self.distance = {"l2": l2, "squared_l2": squared_l2}[distance]
        self.mining, self.gather = mining, gather

    def misfit(self, layout: Layout, key: str) -> str | None:
        if self.mining == "given" and layout.kind != "triplet":
            need = f"mining=given needs batches of triplets, and {layout.kind} batches have none"
            return f"{need}; set sampler=triplet, or {key}.mining=batch_hard"
        if self.mining in ("semi_hard", "all", "distance_weighted") and layout.kind != "pk":
            need = "this mining needs several images of each identity in a batch"
            return f"{need}, which {layout.kind} batches do not have; set sampler=identity, or {key}.mining=auto"
        return None

    def mines(self, layout: Layout) -> bool:
        return not self.takes_given(layout)

    def takes_given(self, layout: Layout) -> bool:
        """Whether the triplets that the sampler laid out are used, and none is mined."""
        return self.mining == "given" or (self.mining == "auto" and layout.kind == "triplet")

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.mining in ("all", "semi_hard"):
            return self.over_all(embedding, labels)
        anchor, positive, negative, valid = self.choose(embedding, labels)
        rows = embedding[torch.stack([anchor, positive, negative])]  # (3, T, D); one gather, so one scatter backward
        pull, push = self.distance(rows[:1], rows[1:])  # (T,) each
        violation = pull - push + self.margin
        active = valid & ~(violation <= 0)  # not "> 0": a NaN distance must reach the loss, where the trainer sees it
        loss = violation.masked_fill(~active, 0).sum() / active.sum().clamp_min(1)
        figures = torch.stack([active.to(pull.dtype), pull.detach(), push.detach()])
        means = figures.masked_fill(~valid, 0).sum(dim=1) / valid.sum().clamp_min(1)  # (3,)
        return loss, dict(zip(("active", "positive_distance", "negative_distance"), means, strict=True))

    def choose(self, embedding: Tensor, labels: Tensor) -> Triplets:
        """(anchor, positive, negative, valid), each (T,): numbers of rows that make a triplet, by `mining`; where `valid` is False they mean
        nothing."""
        if self.takes_given(self.layout):
            return given_triplets(len(labels), labels.device)
        if self.mining == "distance_weighted":
            return distance_weighted_triplets(embedding, self.positives(labels))
        if self.layout.images_per_identity is None:
            return hardest_by_label(embedding, labels)
        return hardest_in_chunks(embedding, self.positives(labels))

    def over_all(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (0-d) and figures over all triplets of the batch, for `mining` all and semi_hard."""
        mined = {"all": rank_passes.batch_all, "semi_hard": rank_passes.semi_hard}[self.mining]
        squared = self.distance is squared_l2
        loss, num_active, num_triplets = mined(embedding, self.positives(labels), margin=self.margin, squared=squared)
        count = num_active.to(loss.dtype)
        return loss, {"active": count / num_triplets.clamp_min(1), "active_triplets": count}

    def positives(self, labels: Tensor) -> Positives:
        """Which rows of a batch share an identity; by position where all batches are P x K."""
        if self.layout.images_per_identity is None:
            return positives_of(labels, most=len(labels))
        return positives_in_groups(len(labels), self.layout.images_per_identity, labels.device)
