"""The device suite: `FACENET_TEST_DEVICE=sdaa|cuda|cpu pytest tests/device`, in a process of its own. Left out where that is not set.

`sdaa` is the real plugin where it is installed, else the stand-in, whose tests of itself skip beside a real one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from facenet.devices.table import absent

HERE = Path(__file__).parent
DEVICE = os.environ.get("FACENET_TEST_DEVICE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if DEVICE is None:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="FACENET_TEST_DEVICE names no device"))
    elif len(ours) < len(items):
        raise pytest.UsageError(
            "FACENET_TEST_DEVICE: run tests/device alone, since a device changes torch for its whole process"
        )


@pytest.fixture(scope="session")
def device_name(request: pytest.FixtureRequest) -> str:
    """The device to test, ready for this process and those that it starts."""
    assert DEVICE is not None
    if DEVICE == "sdaa" and importlib.util.find_spec("torch_sdaa") is None:
        environment = request.getfixturevalue("standin")
        os.environ.update(environment)
        sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    assert absent(DEVICE) is None
    return DEVICE


@pytest.fixture
def simulated(device_name: str) -> Iterator[Any]:
    """torch_sdaa.testing, put back afterwards; skips where a real device is tested."""
    module = sys.modules.get("torch_sdaa")
    if not getattr(module, "IS_SIMULATED", False):
        pytest.skip("only the stand-in can be asked for this")
    yield module.testing
    module.testing.count_ops(False)
    module.testing.block_ops([])
    module.testing.limit_memory(0)


@pytest.fixture
def exact_products() -> Iterator[None]:
    """cuDNN computes float32 convolutions with ten bits of mantissa unless told otherwise."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags
