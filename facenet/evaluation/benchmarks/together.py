"""The benchmarks of one run: each under a name of its own, by which its figures and files are called."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

from facenet.errors import UserError, shown
from facenet.evaluation.benchmarks.choice import NoBenchmark
from facenet.evaluation.contract import Benchmark
from facenet.files.run_dir import is_of_run

RESERVED = ("train", "val", "best", "epoch", "folds", "system", "none")  # first parts of a run's own metrics


def together(short: Benchmark, named: Mapping[str, Benchmark]) -> list[Benchmark]:
    """That of `benchmark=`, under its own name, and those of `benchmarks`, each under the name that it has there. Raises UserError for a name that
    two have, or whose figures or files would be those of a run or of another."""
    found = [] if isinstance(short, NoBenchmark) else [short]
    for each in found:  # a set may be called val.bin, but no file of it as one of the run's
        if any(map(is_of_run, files_of(str(each.name)))) or not re.fullmatch(r"[\w.-]+", str(each.name)):
            raise UserError(
                f"{each.key}: its name is {shown(str(each.name))!r}, as no figures and files of a benchmark are called; give it one with "
                "+benchmark@benchmarks.NAME=... beside benchmark=none"
            )
    for name, each in named.items():
        if isinstance(each, NoBenchmark):
            continue
        key = f"benchmarks.{name}"
        if name in RESERVED or any(map(is_of_run, files_of(name))) or not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{shown(key)}: figures and files of a run are called so; give it another name")
        for other in found:
            if shared := files_of(name) & files_of(str(other.name)):
                said = f"{other.key}=" if other.key == "benchmark" else other.key
                told = f"is called {name}, too" if name == other.name else f"writes {min(shared)}, too"
                raise UserError(f"{key}: {said} {told}; give this one another name, such as {name}_2")
        found.append(named_so(each, name, key))
    return found


def files_of(name: str) -> set[str]:
    """Records of a benchmark of this name, in small letters: there are disks that know no others. Its pictures are called after it alone."""
    return {f"{name}.json".casefold(), f"hardest-{name}.json".casefold()}


def named_so(benchmark: Benchmark, name: str, key: str) -> Benchmark:
    """A copy under this name. Raises UserError for a class that lets none be set."""
    found = copy.copy(benchmark)
    try:
        object.__setattr__(found, "name", name)  # a stranger's may be a frozen dataclass
        object.__setattr__(found, "key", key)
    except AttributeError:
        raise UserError(f"{key}: {type(found).__name__} lets no name and key be set, which one has here") from None
    return found
