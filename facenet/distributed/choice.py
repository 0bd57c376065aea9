"""What `distributed=` chooses: how many processes train, and how they exchange gradients. Values only; `launch` and `accelerator` act on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facenet.errors import UserError, check_least


@dataclass(frozen=True, kw_only=True)
class Distributed:
    """The `num_processes` of one run. One process needs no process group, and the options of the gradient exchange then do nothing.

    sync_batch_norm: batch statistics over the images of all processes. bucket_cap_mb, gradient_as_bucket_view, static_graph and
    find_unused_parameters are those of torch.nn.parallel.DistributedDataParallel. compression: what gradients are sent as;
    `powersgd` sends a rank-1 approximation with error feedback (Vogels et al. 2019). grace_s: from a stop signal to the end of the
    step and the checkpoint, before a process is ended; three of its longest steps and a checkpoint where those take longer. timeout_s: how long a
    collective waits for the other processes."""

    num_processes: int = 1
    sync_batch_norm: bool = False
    bucket_cap_mb: float = 25.0
    gradient_as_bucket_view: bool = True
    static_graph: bool = False
    find_unused_parameters: bool = False
    compression: Literal["none", "fp16", "bf16", "powersgd"] = "none"
    grace_s: float = 30.0
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        check_least("distributed.num_processes", self.num_processes)
        for key in ("bucket_cap_mb", "grace_s", "timeout_s"):
            if getattr(self, key) <= 0:
                raise UserError(f"distributed.{key}: expected a number above 0, got {getattr(self, key):g}")
