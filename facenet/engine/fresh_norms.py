"""Batch norms that have seen nothing yet: their running statistics begin as the plain average of what they see.

torch starts them at mean 0 and variance 1 and takes in a tenth of each batch, so that after 10 steps a third of them is still that start. Through the
27 layers of MobileNetV1 this made one embedding of all images in evaluation, for 60 steps of training; with the plain average two identities are
1.3 apart after 2. From the tenth batch on it is torch's rule.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FreshNorms:
    """Those of a module; of None there are none."""

    def __init__(self, module: nn.Module | None) -> None:
        parts = [] if module is None else module.modules()
        self.norms = [
            (part, float(part.momentum or 0)) for part in parts if isinstance(part, _BatchNorm) and is_fresh(part)
        ]

    def before(self, seen: int) -> None:
        """Call it before each forward pass in training; seen: how many there were."""
        if not self.norms:
            return
        for norm, momentum in self.norms:
            norm.momentum = max(momentum, 1 / (seen + 1))
        if all(norm.momentum == momentum for norm, momentum in self.norms):
            self.norms = []


def is_fresh(norm: _BatchNorm) -> bool:
    """Whether its statistics are torch's first ones: those of a network that has been trained stay what they are."""
    if not norm.momentum or norm.running_mean is None or norm.running_var is None:
        return False
    return not bool(norm.running_mean.any()) and bool(torch.all(norm.running_var == 1))
