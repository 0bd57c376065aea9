"""The benchmarks of a run, opened, and the figure of theirs that chooses its best epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from facenet import config as configs
from facenet.data.identities import Faces
from facenet.data.source import Data
from facenet.errors import UserError
from facenet.evaluation.contract import Benchmark, Opened
from facenet.evaluation.report import lower_is_better


def opened_of(benchmarks: Sequence[Benchmark], held: Faces | None = None, data: Data | None = None) -> list[Opened]:
    """Those that test anything. held: identities of the run's data that are kept out of training. Raises UserError for what is missing, told of the
    key where the benchmark stands."""
    found = []
    for benchmark in benchmarks:
        with configs.told_at(benchmark.key, type(benchmark)):
            opened = benchmark.open(held)
        if opened is not None and benchmark.needs_heldout and data is not None:  # images of the user's own
            opened = dataclasses.replace(opened, max_unreadable=data.max_unreadable, location=data.location)
        found += [] if opened is None else [opened]
    return found


def unresolved(benchmarks: Sequence[Opened]) -> dict[str, str]:
    """Metrics that so few images cannot tell, and why."""
    return {f"{each.name}/{figure}": why for each in benchmarks for figure, why in each.unresolved.items()}


def select_metric(asked: str | None, benchmarks: Sequence[Opened], num_val_batches: int) -> tuple[str, bool]:
    """The metric that chooses the best epoch, and whether lower is better. Raises UserError for one that no part of this run measures."""
    measured = {each.name: each.measures for each in benchmarks}
    if silent := [name for name, figures in measured.items() if not figures]:
        raise UserError(
            f"{silent[0]}: the benchmark says no figure that tells better from worse; its `measures` is empty"
        )
    sources = [*measured, *(["val"] if num_val_batches else []), "train"]
    if asked is None:
        figure = next(iter(measured[sources[0]])) if measured else "loss"
        asked = f"{sources[0]}/{figure}"
    source, _, figure = asked.partition("/")
    if source not in sources or not figure:
        known = ", ".join(f"{each}/..." for each in sources)
        raise UserError(f"trainer.select={asked}: this run measures {known}; the default is null")
    if figure in measured.get(source, {}):
        return asked, measured[source][figure]
    if source not in ("train", "val"):  # a set may be called val.bin
        known = ", ".join(f"{source}/{each}" for each in measured[source])
        raise UserError(f"trainer.select={asked}: not among {known}, the figures that tell better from worse")
    return asked, lower_is_better(asked)
