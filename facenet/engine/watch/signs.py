"""What a batch tells about a run. Letters: B images in the batch, D numbers in an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

AT_MARGIN = 0.02  # of the margin
ROWS = 8  # of a weight, such as filters of a convolution
NO_TRIPLET = 1e-6  # a share of active triplets that is none


def spread(features: Tensor) -> Tensor:
    """(2,): variance and effective rank of the unit rows of (B, D).

    Variance: mean squared distance to their mean, 0 where all are one, near 1 where they point everywhere. Effective rank: the
    participation ratio (sum of eigenvalues)^2 / sum of their squares of the covariance, from 1 to min(B - 1, D); 1 for no spread at all."""
    rows = functional.normalize(features.float())
    centred = rows - rows.mean(dim=0)
    gram = centred @ centred.T  # has the eigenvalues of the covariance, times B
    total, squares = gram.diagonal().sum(), gram.square().sum()
    rank = torch.where(squares > 0, total.square() / squares.clamp_min(1e-30), torch.ones_like(total))
    return torch.stack([total / len(rows), rank])


def weights_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of the first rows of each (P,): of all of them unchanged, no weight has changed. To read all weights took 1 % of a step."""
    weights = [parameter.detach() for parameter in parameters]
    return torch.stack(torch._foreach_norm([each[:ROWS] if each.dim() else each for each in weights]))


def terms_with_triplets(figures: Mapping[str, float]) -> list[str]:
    return [name.removesuffix("/active") for name in figures if name.endswith("/active")]


def at_margin(figures: Mapping[str, float], margins: Mapping[str, float]) -> str | None:
    """The term that violates by the margin in every triplet: each image is as far from its own identity as from others."""
    for name in terms_with_triplets(figures):
        margin = margins.get(name, 0.0)
        stuck = abs(figures[name] - margin) <= AT_MARGIN * margin and figures[f"{name}/active"] > 0.999
        if margin > 0 and stuck:
            return name
    return None


def dead(figures: Mapping[str, float]) -> list[str]:
    """The terms without an active triplet."""
    return [name for name in terms_with_triplets(figures) if figures[f"{name}/active"] < NO_TRIPLET]
