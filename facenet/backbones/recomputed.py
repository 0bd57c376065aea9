"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): maps inside a block are computed again in the backward pass instead of kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Sequential):
    """A Sequential whose parts are checkpointed one by one in training when `checkpointing` is set."""

    checkpointing: bool = False

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        for part in self:
            maps = recomputed(part, maps) if self.checkpointing and self.training else part(maps)
        return maps


def recomputed(part: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """`part(maps)`; the second run draws no random numbers and leaves the running statistics alone."""
    result = checkpoint(
        part,
        maps,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), still(part)),
    )
    return cast(torch.Tensor, result)


@contextlib.contextmanager
def still(part: nn.Module) -> Iterator[None]:
    """Batch norms inside leave their running statistics and their count of batches as they are."""
    norms = [norm for norm in part.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None  # without statistics torch would save other tensors
        yield
    finally:
        for norm, before in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = before


def set_checkpointing(trunk: nn.Module, wanted: bool) -> bool:
    """Whether the trunk has blocks for it."""
    blocks = [part for part in trunk.modules() if isinstance(part, Blocks)]
    for part in blocks:
        part.checkpointing = wanted
    return bool(blocks)
