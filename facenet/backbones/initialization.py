"""The two ways in which the trunks start."""

from __future__ import annotations

from typing import Literal

from torch import nn

Init = Literal["reference", "kaiming"]


def initialize(trunk: nn.Module, init: Init) -> None:
    """Draws the convolutions' weights anew, from N(0, 0.1) or Kaiming's normal over fan-out; biases stay as they are.

    He et al. 2015, arXiv 1502.01852, eq. 14. Fan-out as PyTorch takes it: a depthwise one counts all channels."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            if init == "reference":
                nn.init.normal_(module.weight, 0.0, 0.1)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
