"""A weighted sum of named losses, each logged by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet.data.layout import UNORDERED, Layout
from facenet.errors import UserError
from facenet.losses.term import Term

Gather = Callable[[Tensor], Tensor]


class LossValue(NamedTuple):
    """`total` (0-d) to go backward from; `scalars`: per term its loss before the weight under its name, its figures
    under "name/figure"."""

    total: Tensor
    scalars: dict[str, Tensor]


class Weighted(TypedDict):
    """A term and how much it counts."""

    weight: float
    loss: Term


class LossMix(nn.Module):
    """Sum of weight * loss over `terms`: {name: {weight: float, loss: Term}}. A term of weight 0 is left out whole,
    parameters too.

    Raises UserError for a name that is no word, a missing or unknown key, a weight that is no number >= 0, and nothing
    left to train on."""

    def __init__(self, *, terms: dict[str, Weighted]) -> None:
        super().__init__()
        self.weights = {name: weight_of(name, entry) for name, entry in terms.items()}
        self.terms = nn.ModuleDict({name: terms[name]["loss"] for name, weight in self.weights.items() if weight > 0})
        if not self.terms:
            raise UserError("loss.terms: no term has a weight above 0; set loss.terms.<name>.weight")
        self.layout = UNORDERED

    def parts(self) -> Iterator[tuple[str, Term]]:
        """Each term with its name."""
        for name, term in self.terms.items():
            assert isinstance(term, Term)
            yield name, term

    def misfits(self, layout: Layout) -> dict[str, str]:
        """Name of a term -> why it can do nothing with batches of this layout; empty where all can."""
        found = {name: term.misfit(layout, f"loss.terms.{name}.loss") for name, term in self.parts()}
        return {name: why for name, why in found.items() if why is not None}

    def mining_terms(self, layout: Layout) -> list[str]:
        """Names of the terms that look for triplets themselves in batches of this layout."""
        return [name for name, term in self.parts() if term.mines(layout)]

    def sharded_terms(self) -> list[str]:
        """Names of the terms whose identities are spread over the processes."""
        return [name for name, term in self.parts() if term.sharded]

    def sampled_terms(self) -> list[str]:
        """Names of the terms that draw identities for each batch."""
        return [name for name, term in self.parts() if term.sampled]

    def start(self, *, embedding_size: int, num_identities: int, layout: Layout = UNORDERED) -> None:
        """Makes the parameters of the heads: once, before the move to the device and before the optimizer is built. layout: of all batches to
        come."""
        self.layout = layout
        for _, term in self.parts():
            term.layout = layout
            term.start(embedding_size=embedding_size, num_identities=num_identities)

    def forward(self, features: Tensor, labels: Tensor, *, gather: Gather | None = None) -> LossValue:
        """(total, scalars): the sum to go backward from (0-d), and for each term its loss before the weight under its name and its figures under
        "name/figure", 0-d too.

        `features` (B, D) before normalisation, in any float type; the arithmetic is float32. `labels` (B,) int64.

        `gather` turns rows of this process into those of all, for the terms that ask for them; None where there is one process."""
        # Half precision cannot tell distances near the margin apart; doubles stay doubles, for gradient checks.
        features = features if features.dtype == torch.float64 else features.float()
        own = (features, functional.normalize(features), labels)
        everyone = own
        if gather is not None and any(term.gather for term in self.terms.values()):
            every_feature, every_label = (whole_batch(rows, gather, self.layout) for rows in (features, labels))
            everyone = (every_feature, functional.normalize(every_feature), every_label)
        total = features.new_zeros(())
        scalars: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            loss, figures = term(*(everyone if term.gather else own))
            total = total + self.weights[name] * loss
            scalars[name] = loss.detach()
            scalars.update({f"{name}/{figure}": value for figure, value in figures.items()})
        return LossValue(total, scalars)


def whole_batch(rows: Tensor, gather: Gather, layout: Layout) -> Tensor:
    """The rows (B, ...) of all processes; of batches of triplets all anchors first, then all positives, then all negatives."""
    gathered = gather(rows)
    if layout.kind != "triplet":
        return gathered
    thirds = gathered.reshape(-1, 3, len(rows) // 3, *rows.shape[1:])
    return thirds.transpose(0, 1).reshape(gathered.shape)


def weight_of(name: str, entry: Any) -> float:
    if not re.fullmatch(r"[A-Za-z]\w*", name, flags=re.ASCII):
        raise UserError(f"loss.terms: a name is a word (letters, digits, _), got {name!r}")
    if not isinstance(entry, dict) or set(entry) != {"weight", "loss"}:
        given = ", ".join(sorted(map(str, entry))) if isinstance(entry, dict) else type(entry).__name__
        raise UserError(f"loss.terms.{name}: expected the keys weight and loss, got {given or 'nothing'}")
    if not isinstance(entry["loss"], Term):
        given = type(entry["loss"]).__name__
        raise UserError(f"loss.terms.{name}.loss: expected a loss of facenet.losses, got {given}")
    weight = entry["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise UserError(f"loss.terms.{name}.weight: expected a number from 0 up, got {weight!r}")
    return float(weight)
