"""What a checkpoint of 67 MB costs the loop that it is made in: a copy, and whatever the writing beside it takes from the next steps. Goal 9."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from bench.context import Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, tabulate
from facenet.devices.accelerator import host_copy
from facenet.engine import checkpoint
from facenet.engine.writer import Writer

COPY, WRITE, HAND_OVER = "copy on the host", "write in the loop", "hand over to the writer"
ALONE, BESIDE = "a step, nothing written", "a step while a checkpoint is written"


def run(context: Context) -> Outcome:
    torch.set_num_threads(1)
    state = {f"weight {number}": torch.randn(250_000) for number in range(67)}
    rows, path = torch.randn(96, 512), context.scratch / "last.pt"
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def step() -> None:
        for _ in range(20):  # small products, which hold the interpreter lock as often as a training step does
            rows @ rows.T

    pauses = []
    with Writer() as writer:
        for _ in range(context.rounds):
            content = {**EMPTY, "embedder": timed(COPY, lambda: host_copy(state))}
            timed(WRITE, functools.partial(checkpoint.write, content, path))
            for _ in range(20):
                timed(ALONE, step)
            before = len(seen[BESIDE])
            timed(HAND_OVER, lambda content=content: writer.start(functools.partial(checkpoint.write, content, path)))
            while writer.pending is not None and not writer.pending.done():
                timed(BESIDE, step)
            writer.finish()
            longest = max(wall for wall, _ in seen[BESIDE][before:])
            usual = statistics.median(wall for wall, _ in seen[ALONE][-20:])
            pauses.append(seen[HAND_OVER][-1][0] + max(0.0, longest - usual))
    require(torch.equal(checkpoint.load(path)["embedder"]["weight 0"], state["weight 0"]), "another state was written")
    names = (COPY, WRITE, HAND_OVER, ALONE, BESIDE)
    table = tabulate("checkpoint", "A checkpoint of 67 MB", "time", [Candidate(n, step, 1) for n in names], seen)
    text = "most that a checkpoint delays the loop beyond the copy, with the longest step beside the write, ms"
    limit = "the interpreter lock and memory bandwidth, shared with the writer"
    return Outcome([table], [Goal("9.5", text, 50, max(pauses) * 1e3, at_most=True, limit=limit)])


EMPTY = {"config": {}, "identities": [], "embedder": {}, "loss": {}, "epoch": 1, "step": 1, "metrics": {}}
