"""Triplets mined in a batch against pytorch-metric-learning: forward and backward on N embeddings, 4 images per identity. Goal 7.

That triplets whose margin is met weigh nothing, and the mean is over the others, is the same in both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure
from facenet.data.layout import Layout
from facenet.losses.triplet import TripletLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
PER_IDENTITY = 4


SIZES = {"batch-hard": (128, 512, 1024, 2048), "batch-all": (128, 512, 1024), "semi-hard": (128, 512, 1024)}
WANTED = {"batch-hard": 3.0, "batch-all": 4.0, "semi-hard": 4.0}
LIMITS = {
    "batch-hard": "N x N distances in fp32 by MKL",
    "batch-all": "N x N distances and a sort of each row",
    "semi-hard": "N x N distances and a sort of each row",
}
MOST_MB = 100


def run(context: Context) -> Outcome:
    torch.set_num_threads(1)
    tables, goals = [], []
    for number, (name, sizes) in enumerate(SIZES.items(), 1):
        found = [table_of(context, name, size) for size in (sizes[:1] if context.quick else sizes)]
        ratios = [table.rows[-1].ratio for table in found]
        known = [ratio for ratio in ratios if ratio is not None]
        least = min(known) if known and len(known) == len(ratios) else None
        text = f"{name} against pytorch-metric-learning at every N, CPU"
        goals.append(Goal(f"7.{number}", text, WANTED[name], least, limit=LIMITS[name]))
        tables += found
    peaks = {f"{name}, MB at N = 4096": peak_mb(name) for name in SIZES} if not context.quick else {}
    most = max(peaks.values(), default=0) or None  # 0: this kernel does not let the peak be set back
    text = "most memory of a step at N = 4096, MB"
    goals.append(Goal("7.4", text, MOST_MB, most, at_most=True, limit="the embeddings and one chunk of distances"))
    return Outcome(tables, goals, peaks)


def ours() -> dict[str, Loss]:
    def loss(mining: Any) -> Loss:
        term = TripletLoss(mining=mining, distance="l2", margin=0.2)
        term.layout = Layout("pk", PER_IDENTITY)
        return lambda rows, labels: term(rows, functional.normalize(rows), labels)[0]

    return {"batch-hard": loss("batch_hard"), "batch-all": loss("all"), "semi-hard": loss("semi_hard")}


def theirs() -> dict[str, Loss]:
    from pytorch_metric_learning import losses, miners

    hard, semi = miners.BatchHardMiner(), miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    loss = losses.TripletMarginLoss(margin=0.2)
    return {
        "batch-hard": lambda rows, labels: loss(rows, labels, hard(rows, labels)),
        "batch-all": loss,
        "semi-hard": lambda rows, labels: loss(rows, labels, semi(rows, labels)),
    }


def batch_of(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(size, 128, generator=torch.Generator().manual_seed(0))
    return rows, torch.arange(size) // PER_IDENTITY


def table_of(context: Context, name: str, size: int) -> Table:
    rows, labels = batch_of(size)
    loss, times = ours()[name], max(1, 256 // size)
    candidates, notes = [], []
    if context.peers.library("pml") is not None:
        their = theirs()[name]
        apart = abs(float(loss(rows, labels)) - float(their(rows, labels)))
        require(apart < 1e-5, f"{name} at N = {size}: the loss differs by {apart}")
        notes.append(f"loss within {apart:.0e} of pytorch-metric-learning's")
        candidates.append(Candidate("pytorch-metric-learning", both_ways(their, rows, labels, times), times))
    candidates.append(Candidate("facenet", both_ways(loss, rows, labels, times), times))
    return measure("mining", f"Mining, {name}, N = {size}", "step", candidates, rounds=context.rounds, notes=notes)


def peak_mb(name: str, size: int = 4096) -> float:
    """By how much a step of so many rows raises the memory of a fresh process at its most; a small step came before."""
    code = f"from bench import mining_subject as m; print(m.raised_mb({name!r}, {size}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def raised_mb(name: str, size: int) -> float:
    torch.set_num_threads(1)
    both_ways(ours()[name], *batch_of(64), 1)()
    rows, labels = batch_of(size)
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is now
    before = most_kib()
    both_ways(ours()[name], rows, labels, 1)()
    return (most_kib() - before) * 1024 / 1e6


def most_kib() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def both_ways(loss: Loss, rows: torch.Tensor, labels: torch.Tensor, times: int) -> Callable[[], Any]:
    def work() -> None:
        for _ in range(times):
            leaf = rows.clone().requires_grad_()
            loss(leaf, labels).backward()

    return work
