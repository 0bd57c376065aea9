"""Heads for identities that one process cannot hold, or does not want to compute all of, at each step (An et al. 2021, Partial FC).

Each process has the rows of its share of the identities, gets the features of all processes, and computes the logits of all images with its own
identities. What is added up over processes are two numbers an image, and on the way back the gradients of the features. With nothing sampled, loss,
gradients and first weights are those of the heads in `heads`.

Letters: N images of all processes, D numbers in an embedding, I identities, R of them this process's, n of these drawn for a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet.distributed import collectives
from facenet.distributed.spread_rows import draw, mark
from facenet.errors import UserError
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.term import Term

CHUNK = 65536  # rows at once of a draw of first weights: 32 MiB at D = 128
WORD = 0xFFFFFFFF
BITS = 24  # of a random number, which float32 holds exactly


class Places(NamedTuple):
    """Where the own identities of N images are: `mine` (N,), whether in this process; `column` (N,) of its logits, 0 where not."""

    mine: Tensor
    column: Tensor
    num_identities: int


class Rows(nn.Module):
    """The identities of this process, and which of them a training step computes.

    `sample` below 1: the batch's own and others at random, max(sample * R, N) in all, at most R. The others are those with the largest of
    random numbers keyed by (seed, step, identity): nothing is drawn twice after a resume, and nobody waits for the device. The seed is torch's
    at the start, the run's. The loss is then cross entropy over the drawn of all processes, and accuracy among them; validation takes all.
    An optimizer step is for the rows drawn: others keep value and state, so momentum and weight decay rest too, and Adam's correction of its
    first steps counts steps of the run (`facenet.distributed.spread_rows`)."""

    key: Tensor
    num_draws: Tensor

    def __init__(self, sample: float) -> None:
        super().__init__()
        if not 0 < sample <= 1:
            raise UserError(f"sharded head: sample is a share of the identities, above 0 up to 1, got {sample}")
        self.sample = sample
        if sample < 1:  # buffers are saved with the run
            self.register_buffer("key", torch.zeros((), dtype=torch.int64))
            self.register_buffer("num_draws", torch.zeros((), dtype=torch.int64))

    def start(self, num_identities: int) -> None:
        """Raises UserError for fewer identities than processes."""
        if num_identities < collectives.world_size():
            raise UserError(
                f"sharded head: {num_identities} identities for {collectives.world_size()} processes; lower distributed.num_processes"
            )
        self.num_identities, self.own = num_identities, collectives.share(num_identities)
        if self.sample < 1:
            self.key.fill_(torch.initial_seed() & (2**63 - 1))

    def fill_rows(self, fill: Callable[[Tensor], Any], *shape: int) -> nn.Parameter:
        """This process's rows (R, *shape) of what `fill` would give to all. All are drawn, so that any number of processes starts from the
        same weights, but no more than a chunk of others' is held."""
        rows = torch.empty(self.own.stop - self.own.start, *shape)
        for first in range(0, self.num_identities, CHUNK):
            chunk = torch.empty(min(CHUNK, self.num_identities - first), *shape)
            fill(chunk)
            start, stop = (min(max(end - first, 0), len(chunk)) for end in (self.own.start, self.own.stop))
            rows[first + start - self.own.start :][: stop - start] = chunk[start:stop]
        return mark(nn.Parameter(rows), self.num_identities)

    def of_step(self, labels: Tensor) -> tuple[Tensor | None, Places]:
        """Which rows of this process to compute for the labels (N,), ascending, None for all; and where among them the labels are."""
        local = labels - self.own.start
        num_rows = self.own.stop - self.own.start
        mine = (local >= 0) & (local < num_rows)
        drawn = None
        if self.training and self.sample < 1:
            drawn = self.drawn(local.where(mine, num_rows), num_rows)
            local = torch.searchsorted(drawn, local)
        return drawn, Places(mine, local.where(mine, 0), self.num_identities)

    def drawn(self, wanted: Tensor, num_rows: int) -> Tensor:
        """Ascending places (n,) of one more step; wanted: (N,) places that must be among them, num_rows for none."""
        count = min(num_rows, max(math.ceil(self.sample * num_rows), len(wanted)))
        word = mix(mix(mix(self.key & WORD) ^ (self.key >> 32)) ^ self.num_draws)
        self.num_draws += 1
        # One more, for the labels of others.
        identities = torch.arange(self.own.start, self.own.stop + 1, device=wanted.device)
        chances = (mix(identities ^ word) >> (32 - BITS)).float().index_fill(0, wanted, 2.0**BITS)
        return chances[:num_rows].topk(count, sorted=False).indices.sort().values


class Spread(Term):
    """What the heads below share."""

    sharded = True
    rows: Rows

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Spread:
        """A move to some devices makes new parameters: what is known of the old ones goes with them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for parameter in self.parameters(recurse=False):
            mark(parameter, self.rows.num_identities)
        return self


class ShardedSoftmaxHead(Spread, SoftmaxHead):
    """`SoftmaxHead` with its I identities shared out, R to this process: `weight` (R, D), `bias` (R,). `sample` below 1: a training step computes
    that share of them, drawn anew, the batch's own among them (Partial FC, An et al. 2021). Label smoothing spreads over all
    identities, so it wants all of them."""

    def __init__(self, *, label_smoothing: float = 0.0, sample: float = 1.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.rows = Rows(sample)
        self.sampled = sample < 1
        if self.sampled and label_smoothing:
            raise UserError(
                "sharded softmax head: label_smoothing spreads over all identities; set sample: 1.0, or it to 0"
            )

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        self.rows.start(num_identities)
        bound = 1 / math.sqrt(embedding_size)
        self.weight = self.rows.fill_rows(lambda rows: nn.init.kaiming_uniform_(rows, a=math.sqrt(5)), embedding_size)
        self.bias = self.rows.fill_rows(lambda rows: rows.uniform_(-bound, bound))

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        everyone = collectives.gather_batch(features, in_parts=True)  # (N, D)
        drawn, places = self.rows.of_step(collectives.gather_batch(labels))
        weight, bias = chosen(self.weight, drawn), chosen(self.bias, drawn)
        logits = functional.linear(everyone, weight, bias)  # (N, n)
        own = own_of(logits, places)
        return cross_entropy(logits, own, torch.ones_like(own), places, smoothing=self.label_smoothing)


class ShardedMarginHead(Spread, MarginHead):
    """`MarginHead` with its I identities shared out, R to this process: `weight` (R, D). `sample` as in `ShardedSoftmaxHead`."""

    def __init__(
        self,
        *,
        kind: Literal["arcface", "cosface"],
        scale: float = 64.0,
        margin: float = 0.5,
        warmup_steps: int = 0,
        sample: float = 1.0,
    ) -> None:
        super().__init__(kind=kind, scale=scale, margin=margin, warmup_steps=warmup_steps)
        self.rows = Rows(sample)
        self.sampled = sample < 1

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        self.rows.start(num_identities)
        self.weight = self.rows.fill_rows(lambda rows: rows.normal_().div_(math.sqrt(embedding_size)), embedding_size)

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        everyone = collectives.gather_batch(embedding, in_parts=True)  # (N, D)
        drawn, places = self.rows.of_step(collectives.gather_batch(labels))
        directions = functional.normalize(chosen(self.weight, drawn))
        logits = functional.linear(self.scale * everyone, directions)  # (N, n), without the margin
        with torch.enable_grad():
            cosine = (own_of(logits, places) / self.scale).requires_grad_()
            lowered = self.with_margin(cosine)
            (slope,) = torch.autograd.grad(lowered.sum(), cosine)
        return cross_entropy(logits, self.scale * lowered.detach(), slope, places)


def chosen(parameter: Tensor, drawn: Tensor | None) -> Tensor:
    assert isinstance(parameter, nn.Parameter)
    return parameter if drawn is None else draw(parameter, drawn)


def own_of(logits: Tensor, places: Places) -> Tensor:
    """(N,), without gradient: each image's logit of its own identity; something else where that is in another process."""
    return logits.detach().gather(1, places.column[:, None])[:, 0]


def mix(word: Tensor) -> Tensor:
    """Integers below 2^32, each to another that has nothing of its order (the constants are Wellons's, "hash function prospector")."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & WORD
    word = ((word ^ (word >> 15)) * 0x846CA68B) & WORD
    return word ^ (word >> 16)


def cross_entropy(
    logits: Tensor, own: Tensor, slope: Tensor, places: Places, *, smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over N images, and accuracy by the logits as they are given. `logits` (N, n) are this process's, and their memory is used up.
    `own` (N,) takes the place of the own identity's where that is here, and rises by `slope` (N,) times what that does. The same on all processes,
    each of which gets the gradient of its own logits."""
    loss, accuracy = CrossEntropy.apply(logits, own, slope, places, smoothing)  # type: ignore[no-untyped-call]
    return loss, {"accuracy": accuracy}


class CrossEntropy(torch.autograd.Function):
    """Cross entropy written by hand, in the memory of the logits: at a million identities they are most of what a step needs, and torch's own keeps
    copies of them."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, own: Tensor, slope: Tensor, places: Places, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        mine, column, num_identities = places.mine, places.column[:, None], places.num_identities
        best = logits.max(dim=1)
        logits.scatter_(1, column, own.where(mine, own_of(logits, places))[:, None])
        tops = torch.stack([best.values, logits.amax(dim=1)])
        best_of_all, largest = torch.stack(collectives.gather(tops, [2] * collectives.world_size())).unbind(1)  # (W, N)
        first = best_of_all.argmax(dim=0) == collectives.rank()  # of equals the lowest identity, as one process has it
        hit = mine & first & (best.indices == column[:, 0])
        shift = largest.amax(dim=0)
        sums = logits.sum(dim=1) if smoothing else torch.zeros_like(own)
        exponentials = logits.sub_(shift[:, None]).exp_().sum(dim=1)
        parts = torch.stack([exponentials, own.where(mine, 0.0), sums, hit.to(own.dtype)])
        exponentials, own, sums, hits = collectives.total(parts)
        target = (1 - smoothing) * own + smoothing / num_identities * sums
        ctx.probability = logits.div_(exponentials[:, None])
        ctx.slope, ctx.places, ctx.smoothing = slope, places, smoothing
        accuracy = hits.mean()
        ctx.mark_non_differentiable(accuracy)
        return (exponentials.log() + shift - target).mean(), accuracy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, ctx.probability = ctx.probability, None  # the gradient takes its memory, once
        mine, column = ctx.places.mine, ctx.places.column[:, None]
        if ctx.smoothing:
            logits.sub_(ctx.smoothing / ctx.places.num_identities)
        own = own_of(logits, ctx.places)
        logits.scatter_(1, column, ((own - (1 - ctx.smoothing)) * ctx.slope).where(mine, own)[:, None])
        return logits.mul_(gradient / len(logits)), None, None, None, None
