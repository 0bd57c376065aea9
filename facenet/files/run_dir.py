"""The names of a run directory's files, once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from facenet.errors import shown

MOST_NAMED = 4


class Named:
    """The path of a file in a directory, as an attribute of that; of its class, the name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, directory: None, kind: type) -> str: ...
    @overload
    def __get__(self, directory: RunDir | Checkpoints, kind: type) -> Path: ...
    def __get__(self, directory: RunDir | Checkpoints | None, kind: type) -> str | Path:
        return self.name if directory is None else directory.path / self.name


class Each(Named):
    """The same for files that differ in a number or a word: a function of that."""

    def __get__(self, directory: RunDir | Checkpoints, kind: type) -> Callable[[int | str], Path]:  # type: ignore[override]
        return lambda which: directory.path / self.name.format(which)


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a run's checkpoints. best_of: a `best.pt` of a later epoch than that from which the run went on."""

    path: Path
    last, best = Named("last.pt"), Named("best.pt")
    of_epoch, best_of = Each("epoch-{:03d}.pt"), Each("best-epoch-{:03d}.pt")

    def numbered(self) -> dict[Path, int]:
        """The checkpoints of single epochs, oldest first, with the number of each."""
        found = {path: int(path.stem[6:]) for path in self.path.glob("epoch-*.pt") if path.stem[6:].isdecimal()}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def set_aside(self) -> list[Path]:
        return [*self.path.glob("best-epoch-*.pt")]


@dataclass(frozen=True)
class RunDir:
    """The directory of a run, a test, or a job of a sweep.

    resolved, pending: `config.recorded`. folder, ranks: in which the processes write; hang: the stacks of one that got no batch done.
    journal: `tracking.journal`; journal_of: of another run, while MLflow lacks some of it. store: `tasks.run_store`. output: of a job without a
    terminal. nonfinite: a batch for `tools.replay`. benchmark: what one of that name found. The rest is written as a run trains."""

    path: Path
    resolved, pending = Named("resolved.yaml"), Named("resolved.pending.yaml")
    folder, ranks, hang = Named("checkpoints"), Named("ranks"), Each("ranks/hang-{}.txt")
    journal, journal_of, store = Named("metrics.jsonl"), Each("metrics-{}.jsonl"), Named("tracking.json")
    result, failure, output = Named("result.json"), Each("failure-{}.json"), Named("output.log")
    nonfinite, vendor_log, benchmark = Each("nonfinite-{}.pt"), Each("dllogger-{}.json"), Each("{}.json")
    split, history, unreadable = Named("split.json"), Named("history.json"), Named("unreadable.json")
    roc, losses, accuracies = Named("roc.png"), Named("epoch_loss.png"), Named("epoch_acc.png")
    figures = Each("figures-{}.png")
    first_batch, tensorboard = Named("faces-batch.png"), Named("tensorboard")

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder)

    def log(self, rank: int) -> Path:
        return self.ranks / f"{rank}.log" if rank > 0 else self.path / "train.log"

    def failures(self) -> list[Path]:
        return sorted(self.path.glob("failure-*.json"))


def told_runs_in(directory: Path) -> str:
    """ "; runs lie in it: A, B", the newest last, for a directory that is none itself; empty where it holds none."""
    runs = sorted({path.parent.parent for path in directory.glob("*/checkpoints/*.pt")}, key=os.path.getmtime)
    return f"; runs lie in it: {shown(', '.join(map(str, runs[-MOST_NAMED:])))}" if runs else ""


# The records of a run in JSON, but for those of its benchmarks.
OF_RUN = re.compile(
    "|".join(
        re.escape(each.name).replace(r"\{\}", ".*")
        for key, each in vars(RunDir).items()
        if isinstance(each, Named) and each.name.endswith(".json") and key != "benchmark"
    ),
    re.IGNORECASE,
)


def is_of_run(name: str) -> bool:
    """Whether a file of this name, in whichever case, is a record of the run itself, which a benchmark may not take."""
    return OF_RUN.fullmatch(name) is not None
