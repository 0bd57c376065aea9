"""Registers "tccl" with torch.distributed, over gloo."""

from __future__ import annotations

import torch.distributed as dist

from . import _C


def create(store, rank, size, timeout):
    return _C.Tccl(dist.ProcessGroupGloo(store, rank, size, timeout=timeout), rank, size)


dist.Backend.register_backend("tccl", create, devices=["sdaa"])
