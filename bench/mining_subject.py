"""Triplets mined in a batch against pytorch-metric-learning: forward and backward on N embeddings, 4 images per identity. Goal 7.

Another kind of mining is one more entry of `ours` and of `theirs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure
from facenet.losses.triplet import TripletLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def run(context: Context) -> Outcome:
    torch.set_num_threads(1)
    sizes = (128,) if context.quick else (128, 512, 1024, 2048)
    tables = [table for size in sizes for table in tables_of(context, size)]
    ratios = [table.rows[-1].ratio for table in tables]
    known = [ratio for ratio in ratios if ratio is not None]
    found = min(known) if known and len(known) == len(ratios) else None
    goal = Goal(
        "7.1",
        "batch-hard against pytorch-metric-learning at every N, CPU",
        3,
        found,
        limit="N x N distances in fp32 by MKL",
    )
    return Outcome(tables, [goal])


def ours() -> dict[str, Loss]:
    hard = TripletLoss(mining="batch_hard", distance="l2", margin=0.2)
    return {"batch-hard": lambda rows, labels: hard(rows, functional.normalize(rows), labels, triplets=False)[0]}


def theirs() -> dict[str, Loss]:
    from pytorch_metric_learning import losses, miners

    miner, loss = miners.BatchHardMiner(), losses.TripletMarginLoss(margin=0.2)
    return {"batch-hard": lambda rows, labels: loss(rows, labels, miner(rows, labels))}


def tables_of(context: Context, size: int) -> list[Table]:
    rows = torch.randn(size, 128, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(size) // 4
    peers = theirs() if context.peers.library("pml") is not None else {}
    times = max(1, 256 // size)
    tables = []
    for name, loss in ours().items():
        candidates, notes = [], []
        if name in peers:
            apart = abs(float(loss(rows, labels)) - float(peers[name](rows, labels)))
            require(apart < 1e-5, f"{name} at N = {size}: the loss differs by {apart}")
            notes.append(f"loss within {apart:.0e} of pytorch-metric-learning's")
            candidates.append(Candidate("pytorch-metric-learning", both_ways(peers[name], rows, labels, times), times))
        candidates.append(Candidate("facenet", both_ways(loss, rows, labels, times), times))
        tables.append(
            measure("mining", f"Mining, {name}, N = {size}", "step", candidates, rounds=context.rounds, notes=notes)
        )
    return tables


def both_ways(loss: Loss, rows: torch.Tensor, labels: torch.Tensor, times: int) -> Callable[[], Any]:
    def work() -> None:
        for _ in range(times):
            leaf = rows.clone().requires_grad_()
            loss(leaf, labels).backward()

    return work
