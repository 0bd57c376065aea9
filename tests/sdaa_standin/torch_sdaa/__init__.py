"""Stand-in for Tecorigin's `torch_sdaa`, for tests only: importing it registers a device "sdaa" whose memory and kernels are the host's.

It cannot be undone within a process. README.md beside this package says what it shows and what it cannot.
"""

from __future__ import annotations

import sys

import torch

from ._build import library

IS_SIMULATED = True

_C = library()
sys.modules[f"{__name__}._C"] = _C

torch.utils.rename_privateuse1_backend("sdaa")
from . import sdaa  # noqa: E402  (its tensors need the name)

torch._register_device_module("sdaa", sdaa)
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)

from . import _sync_batch_norm, amp, tccl  # noqa: E402, F401  (the first only registers kernels)

__all__ = ["IS_SIMULATED", "amp", "sdaa", "tccl", "testing"]
sdaa.amp = amp
sys.modules["torch.sdaa.amp"] = amp


class testing:
    """What a test may ask of the device or make it do; the real package has none of this.

    count_ops(True) starts counting, op_counts() gives {name: calls}; `to host` and `_local_scalar_dense` are the reads that make a host
    wait on a real device. block_ops(names) makes those ops unimplemented. limit_memory(bytes) sets the size of each device, 0 for none.
    """

    count_ops = staticmethod(_C.count_ops)
    op_counts = staticmethod(_C.op_counts)
    block_ops = staticmethod(_C.block_ops)
    limit_memory = staticmethod(_C.limit_memory)
