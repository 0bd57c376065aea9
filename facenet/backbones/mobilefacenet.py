"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573, table 1): inverted residuals, then a weighted mean per channel.

The block table and the input size are options, since published weight files differ; 1.0 M parameters with the paper's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import fx, nn

from facenet.backbones.embedder import Embedder
from facenet.backbones.initialization import Init, initialize
from facenet.errors import UserError, check_least


def convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def convolve_and_activate(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    """Returns `convolution` followed by a PReLU with one slope per channel."""
    return convolution(inputs, outputs, kernel, stride, padding, groups).append(nn.PReLU(outputs))


class InvertedResidual(nn.Module):
    """1 x 1 up, 3 x 3 within each channel, 1 x 1 down without activation; adds its input where the shapes agree."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.up = convolve_and_activate(inputs, inner, 1)
        self.depthwise = convolve_and_activate(inner, inner, 3, stride, 1, groups=inner)
        self.down = convolution(inner, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(self.depthwise(self.up(x)))
        return x + y if self.residual else y


def inverted_residuals(inputs: int, blocks: list[list[int]]) -> list[InvertedResidual]:
    made = []
    for row in blocks:
        if len(row) != 4 or min(row) < 1:
            raise UserError(
                f"backbone.blocks: a row is [expansion, channels, repeats, stride], all at least 1, got {row}"
            )
        expansion, channels, repeats, stride = row
        for repeat in range(repeats):
            made.append(InvertedResidual(inputs, inputs * expansion, channels, stride if repeat == 0 else 1))
            inputs = channels
    return made


class MobileFaceNet(Embedder):
    """Features (N, embedding_size) from images (N, 3, H, W) of exactly `input_size`.

    `blocks` are rows of the paper's table: expansion t, channels c, repeats n, stride s of the first repeat.
    `input_size` is [H, W] in pixels; it fixes the shape of the last depthwise convolution, which spans the whole map.
    `init` as for the other backbones."""

    head_prefixes = ("project.",)

    def __init__(
        self, *, blocks: list[list[int]], input_size: list[int], embedding_size: int = 128, init: Init = "kaiming"
    ) -> None:
        super().__init__()
        if len(input_size) != 2 or min(input_size) < 1:
            raise UserError(f"backbone.input_size: expected [height, width] in pixels, got {input_size}")
        if not blocks:
            raise UserError("backbone.blocks: expected at least one row [expansion, channels, repeats, stride]")
        check_least("backbone.embedding_size", embedding_size)
        self.embedding_size = embedding_size
        self.input_size = (input_size[0], input_size[1])
        self.stem = convolve_and_activate(3, 64, 3, 2, 1)
        self.stem_depthwise = convolve_and_activate(64, 64, 3, 1, 1, groups=64)
        self.blocks = nn.Sequential(*inverted_residuals(64, blocks))
        reduction = 2 * math.prod(stride for *_, stride in blocks)
        last_map = (math.ceil(input_size[0] / reduction), math.ceil(input_size[1] / reduction))
        self.widen = convolve_and_activate(blocks[-1][1], 512, 1)
        self.gather = convolution(512, 512, last_map, groups=512)
        self.project = convolution(512, embedding_size, 1)
        initialize(self, init)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        check_size(images, self.input_size)
        maps = self.widen(self.blocks(self.stem_depthwise(self.stem(images))))
        projected: torch.Tensor = self.project(self.gather(maps)).flatten(1)
        return projected

    def own_names(self, names: Sequence[str]) -> dict[str, str]:
        """This network's name for each tensor of a weight file; the two naming schemes under which such weights are published are known."""
        blocks: dict[str, int] = {}  # how a published file calls a block -> its place, counted in file order
        return {name: own_name(name, blocks) for name in names}


@fx.wrap  # a trace of the network holds this call instead of asking it for a shape that no trace knows
def check_size(images: torch.Tensor, input_size: tuple[int, int]) -> None:
    if (size := (images.shape[-2], images.shape[-1])) != input_size:
        raise UserError(
            f"backbone.input_size: images are {size} pixels but this network takes {input_size}; "
            "give backbone.input_size the value of preprocess.size"
        )


PARTS = {"conv": "up", "conv_dw": "depthwise", "project": "down"}
LAYERS = {"conv": 0, "bn": 1, "prelu": 2}
STAGES = {
    "conv1": "stem",
    "conv2_dw": "stem_depthwise",
    "dw_conv1": "stem_depthwise",
    "conv2": "widen",
    "linear7": "gather",
    "linear1": "project",
}
ENDS = {
    "sep": "widen.0", "sep_bn": "widen.1", "prelu": "widen.2",
    "GDC_dw": "gather.0", "GDC_bn": "gather.1", "features": "project.0", "last_bn": "project.1",
}  # fmt: skip


def own_name(name: str, blocks: dict[str, int]) -> str:
    """One published tensor name in this file's terms, or unchanged if it is none; `blocks` grows by each new block."""
    name = name.removeprefix("arcface.")
    if match := re.fullmatch(r"(conv_\d+(?:\.model\.\d+)?)\.(conv|conv_dw|project)\.(conv|bn|prelu)\.(\w+)", name):
        block, part, layer, tensor = match.groups()
        return f"blocks.{blocks.setdefault(block, len(blocks))}.{PARTS[part]}.{LAYERS[layer]}.{tensor}"
    if match := re.fullmatch(r"blocks\.(\d+)\.conv\.([0-7])\.(\w+)", name):
        part, layer = divmod(int(match[2]), 3)
        return f"blocks.{match[1]}.{('up', 'depthwise', 'down')[part]}.{layer}.{match[3]}"
    if (match := re.fullmatch(r"(\w+)\.(conv|bn|prelu)\.(\w+)", name)) and match[1] in STAGES:
        return f"{STAGES[match[1]]}.{LAYERS[match[2]]}.{match[3]}"
    if (match := re.fullmatch(r"(\w+)\.(\w+)", name)) and match[1] in ENDS:
        return f"{ENDS[match[1]]}.{match[2]}"
    return name
