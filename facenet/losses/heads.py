"""Classification over the training identities. A head lives in the loss: nobody needs it to compare faces."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet.errors import UserError
from facenet.losses.distance import sqrt_finite
from facenet.losses.term import Term


class SoftmaxHead(Term):
    """Mean cross entropy of a linear layer on the features before normalisation.

    Parameters `weight` (I, D) and `bias` (I,), initialised as torch.nn.Linear. `label_smoothing` is the share of the
    target spread evenly over all identities (Szegedy et al. 2016, sec. 7). Figure: `accuracy`, the share of images
    whose largest logit is their identity."""

    weight: Tensor
    bias: Tensor

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"softmax head: label_smoothing is a share from 0 to below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        linear = nn.Linear(embedding_size, num_identities)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = functional.linear(features, self.weight, self.bias)  # (B, I)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": accuracy(logits, labels)}


class MarginHead(Term):
    """Mean cross entropy of scaled cosines between embeddings and one direction per identity, where the own identity
    must win by a margin.

    `kind` "arcface": cos(t + margin) for the angle t, margin in radians (Deng et al. 2019, eq. 3). Past
    t = pi - margin, where that would rise again, cos(t) - margin * sin(margin): the loss keeps falling as t shrinks.
    `kind` "cosface": cos(t) - margin, margin a difference of cosines (Wang et al. 2018, eq. 4).
    `scale` multiplies the cosines (the papers' s). The margin rises from 0 over the first `warmup_steps` training
    batches.
    Parameter `weight` (I, D). Figure: `accuracy` of the plain cosines, without the margin."""

    weight: Tensor
    num_batches: Tensor

    def __init__(
        self, *, kind: Literal["arcface", "cosface"], scale: float = 64.0, margin: float = 0.5, warmup_steps: int = 0
    ) -> None:
        super().__init__()
        limit, unit = {"arcface": (math.pi, "an angle in radians"), "cosface": (2.0, "a difference of cosines")}[kind]
        if not 0 <= margin < limit:
            raise UserError(f"{kind} head: margin is {unit}, from 0 to below {limit:.4g}, got {margin}")
        if scale <= 0:
            raise UserError(f"{kind} head: scale multiplies cosines and is above 0, got {scale}")
        if warmup_steps < 0:
            raise UserError(f"{kind} head: warmup_steps is a number of batches, 0 or more, got {warmup_steps}")
        self.kind, self.scale, self.margin, self.warmup_steps = kind, scale, margin, warmup_steps
        # A buffer: it is saved with the run, and lives on the device so that reading it makes nobody wait.
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        # Rows of about unit length whatever I and D: only their direction counts, and a longer row turns slower.
        self.weight = nn.Parameter(torch.randn(num_identities, embedding_size) / math.sqrt(embedding_size))

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cosine = functional.linear(embedding, functional.normalize(self.weight))  # (B, I)
        own = labels[:, None]
        logits = self.scale * cosine.scatter(1, own, self.with_margin(cosine.gather(1, own)))
        return functional.cross_entropy(logits, labels), {"accuracy": accuracy(cosine, labels)}

    def with_margin(self, cosine: Tensor) -> Tensor:
        """The cosines to the own identity, lowered by the margin of this moment; same shape."""
        margin = self.margin * self.ramp(cosine)
        if self.kind == "cosface":
            return cosine - margin
        sine = sqrt_finite((1 - cosine.square()).clamp_min(0))  # rounding takes a cosine past 1
        turned = cosine * margin.cos() - sine * margin.sin()  # cos(t + margin)
        return torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())

    def ramp(self, like: Tensor) -> Tensor:
        """Share of the margin in force (0-d); each training batch raises it by 1 / warmup_steps."""
        if self.warmup_steps == 0:
            return like.new_ones(())
        share = (self.num_batches / self.warmup_steps).clamp(max=1)
        if self.training:
            self.num_batches += 1
        return share.to(like.dtype)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows (B, I) whose largest entry is at the label, 0-d, without gradient."""
    return (logits.detach().argmax(dim=1) == labels).float().mean()
