"""A classification head of I identities alone: forward, backward and optimizer step of 96 embeddings, whole in every process or spread over them.

`python -m bench.head_subject KIND I STEPS PATH` is one process of a measurement, which the subject starts: each in a fresh one, so that peaks
of memory are its own. The peer is arcface_torch's PartialFC_V2, with the weights of ours. Its gradient leaves out the slope of the margin, which
ours has: the losses of the first step are compared, not those after it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.allocation import as_peers
from bench.context import Context, Outcome, require
from bench.peers import ARCFACE, Peers
from bench.rounds import CONTROL, Candidate, Table, tabulate
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.losses.heads import MarginHead
from facenet.losses.sharded import ShardedMarginHead

BATCH, SIZE = 96, 128
HEADS: dict[str, Any] = {
    "whole": lambda: MarginHead(kind="arcface"),
    "sharded": lambda: ShardedMarginHead(kind="arcface"),
    "sharded, sample 0.1": lambda: ShardedMarginHead(kind="arcface", sample=0.1),
}
THEIRS = {"arcface_torch": 1.0, "arcface_torch, sample 0.1": 0.1}


def run(context: Context) -> Outcome:
    outcome = Outcome()
    for num_identities in (10_000,) if context.quick else (100_000, 1_000_000):
        for num_processes in (1, 2):
            outcome.tables.append(compared(context, num_identities, num_processes, outcome.counters))
    return outcome


def compared(context: Context, num_identities: int, num_processes: int, counters: dict[str, float]) -> Table:
    where = f"I = {num_identities:,}, {num_processes} process" + ("es" if num_processes > 1 else "")
    seen, losses = {}, {}
    names = [*HEADS, *(THEIRS if context.peers.arcface("partial_fc_v2") is not None else ()), CONTROL]
    place = str(context.peers.paths.get(ARCFACE, ""))
    for name in names:
        kind = "whole" if name == CONTROL else name
        found = processes(kind, num_identities, context.rounds, num_processes, place)
        seen[name], losses[name] = [tuple(step) for step in found["steps"]], found["loss"]
        if name != CONTROL:
            counters[f"peak MiB of a process, {name}, {where}"] = round(found["peak"] / 2**20)
    notes = ["CPU time of one process of them, AdamW, one thread"]
    for name in ("sharded", "arcface_torch"):
        if name in losses:
            apart = abs(losses[name] - losses["whole"]) / losses["whole"]
            require(apart < 1e-5, f"{where}: the loss, {name}, differs by {apart:.0e} of the whole head's")
            notes.append(f"{name}: loss within {apart:.0e} of the whole head's")
    runners = [Candidate(name, lambda: None, 1) for name in names]
    return tabulate("head", f"Head, {where}", "step", runners, seen, notes)


def processes(kind: str, num_identities: int, steps: int, num_processes: int, place: str) -> dict[str, Any]:
    """What process 0 of so many says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.head_subject", kind, str(num_identities), str(steps), place],
            env={
                **os.environ,
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_processes)},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    said = [process.communicate()[0] for process in started]
    require(not any(process.returncode for process in started), f"{kind}, I = {num_identities}: a process failed")
    answer: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return answer


class Step(nn.Module):
    """A stand-in for a network, and the head."""

    def __init__(self, head: Any, num_identities: int) -> None:
        super().__init__()
        self.network = stand_in()
        self.head = head
        head.start(embedding_size=SIZE, num_identities=num_identities)

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        features = self.network(rows)
        loss: Tensor = self.head(features, functional.normalize(features), labels)[0]
        return loss


class TheirStep(nn.Module):
    """The network averaged over processes, the head not: every process has its share of the identities."""

    def __init__(self, place: str, sample: float, num_identities: int, device: Accelerator) -> None:
        super().__init__()
        as_peers()
        if not torch.distributed.is_initialized():  # which it insists on
            torch.distributed.init_process_group("gloo")
        torch.Tensor.cuda = lambda tensor: tensor  # type: ignore[method-assign, assignment]
        peers = Peers([f"{ARCFACE}={place}"])
        losses, partial_fc = peers.arcface("losses"), peers.arcface("partial_fc_v2")
        require(losses is not None and partial_fc is not None, "; ".join(peers.skipped))
        self.network = device.prepare(stand_in())
        ours = ShardedMarginHead(kind="arcface")
        ours.start(embedding_size=SIZE, num_identities=num_identities)
        self.head = partial_fc.PartialFC_V2(losses.CombinedMarginLoss(64, 1, 0.5, 0), SIZE, num_identities, sample)
        self.head.weight.data.copy_(ours.weight.detach())

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.head(self.network(rows), labels)
        return loss


def stand_in() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(SIZE, SIZE)


def one_process(kind: str, num_identities: int, steps: int, place: str) -> dict[str, Any]:
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=600) as device:
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(BATCH, SIZE, generator=generator).chunk(device.world_size)[device.rank]
        labels = torch.randint(num_identities, (BATCH,), generator=generator).chunk(device.world_size)[device.rank]
        base = memory("VmRSS")
        if kind in THEIRS:
            bare = module = TheirStep(place, THEIRS[kind], num_identities, device)
        else:
            bare = Step(HEADS[kind](), num_identities)
            module = device.prepare(bare)
        optimizer = torch.optim.AdamW(bare.parameters())
        seen, losses = [], []
        for step in range(steps + 1):
            if step == 1:  # what a start holds for a moment is no part of it, what the first step made is
                Path("/proc/self/clear_refs").write_text("5")
            wall, cpu = time.perf_counter(), time.process_time()
            loss = module(rows, labels)
            device.backward(loss)
            device.step(optimizer)
            seen.append((time.perf_counter() - wall, time.process_time() - cpu))
            losses.append(float(loss.detach()))
        # The whole head's loss is of this process's images alone.
        mean = loss.new_tensor(losses[0])
        if device.world_size > 1:
            torch.distributed.all_reduce(mean)
        return {"steps": seen[1:], "loss": float(mean) / device.world_size, "peak": memory("VmHWM") - base}


def memory(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the most since it was last cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


if __name__ == "__main__":
    print(json.dumps(one_process(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])), flush=True)
    os._exit(0)
