"""The tensor names of the published trunks, written out from their description and not from our modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small batches gain nothing from threads, whose barriers cost 290 s instead of 26 s on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def norm(name: str) -> list[str]:
    return [f"{name}.{tensor}" for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


@pytest.fixture(scope="session")
def mobilenet_names() -> list[str]:
    names = ["stage1.0.0.weight", *norm("stage1.0.1")]
    for block in [
        f"stage{stage}.{i}" for stage, blocks in ((1, range(1, 6)), (2, range(6)), (3, range(2))) for i in blocks
    ]:
        names += [f"{block}.0.weight", *norm(f"{block}.1"), f"{block}.3.weight", *norm(f"{block}.4")]
    return names


def convolutions(block: str, *depths: int) -> list[str]:
    """Branch i of a block holds `depths[i]` convolutions, numbered where they are several."""
    names = []
    for branch, depth in enumerate(depths):
        places = [f"{block}.branch{branch}.{i}" for i in range(depth)] if depth > 1 else [f"{block}.branch{branch}"]
        for place in places:
            names += [f"{place}.conv.weight", *norm(f"{place}.bn")]
    return names


def residual(block: str, *depths: int) -> list[str]:
    return [*convolutions(block, *depths), f"{block}.conv2d.weight", f"{block}.conv2d.bias"]


@pytest.fixture(scope="session")
def inception_names() -> list[str]:
    """Inception-ResNet-v1 without any head: the same in the reference and in the widely used port with 512 numbers."""
    names = []
    for stem in ("1a", "2a", "2b", "3b", "4a", "4b"):
        names += [f"conv2d_{stem}.conv.weight", *norm(f"conv2d_{stem}.bn")]
    names += [n for i in range(5) for n in residual(f"repeat_1.{i}", 1, 2, 3)] + convolutions("mixed_6a", 1, 3)
    names += [n for i in range(10) for n in residual(f"repeat_2.{i}", 1, 3)] + convolutions("mixed_7a", 2, 2, 3)
    return names + [n for i in range(5) for n in residual(f"repeat_3.{i}", 1, 3)] + residual("block8", 1, 3)
