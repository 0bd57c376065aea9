"""Memory of batches, used again when nobody holds the batch any more.

Fresh pages cost as much as the copy into them: 96 images of 160 x 160 are 7.4 MB, 1,800 pages that the kernel has to clear.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Buffers:
    """Call with a shape for a uint8 tensor of it. From several threads at once."""

    def __init__(self) -> None:
        self.free: deque[NDArray[np.uint8]] = deque()

    def __call__(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        try:
            whole = self.free.popleft()
        except IndexError:
            whole = np.empty(size, np.uint8)
        if len(whole) < size:
            whole = np.empty(size, np.uint8)
        part = whole[:size].reshape(shape)
        tensor = torch.from_numpy(part)  # its storage holds `part`, and so does whatever is made of the same storage
        weakref.finalize(part, self.free.append, whole).atexit = False
        return tensor
