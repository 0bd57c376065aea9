"""The table of a run directory in docs/training.md names what a run leaves, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facenet.files.run_dir import Checkpoints, Named, RunDir

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def patterns() -> dict[str, re.Pattern[str]]:
    """By name as the table has it; NAME, NNN, ID and N stand for what differs."""
    table = PAGE.read_text(encoding="utf-8").partition("## What a run leaves")[2].partition("\n## ")[0]
    names = [
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall("`([^`]+)`", row)
    ]
    return {name: re.compile(re.sub("NAME|NNN|ID|(?<=-)N|(?<=/)N", ".+", re.escape(name))) for name in names}


def named(path: str) -> list[str]:
    return [name for name, pattern in patterns().items() if pattern.fullmatch(path)]


def test_every_name_of_a_run_directory_is_in_the_table():
    files = {each.name.format(1) for each in vars(RunDir).values() if isinstance(each, Named)}
    kept = {f"checkpoints/{each.name.format(1)}" for each in vars(Checkpoints).values() if isinstance(each, Named)}
    files = (files - {RunDir.folder, RunDir.ranks}) | kept | {"train.log", "ranks/1.log"}
    assert {path for path in files if not named(path)} == set()
    assert named("heldout.csv") == []


@pytest.mark.slow
def test_every_file_that_a_run_leaves_is_in_the_table(tiny_run):
    files = {path.relative_to(tiny_run.run_dir).as_posix() for path in tiny_run.run_dir.rglob("*") if path.is_file()}
    found = {path: named(path) for path in files}
    assert {path for path, names in found.items() if not names} == set()
    rare = {
        "best-epoch",
        "figures-",
        "unreadable",
        "pending",
        "output",
        "ranks/",
        "metrics-ID",
        "dllogger",
        "tensorboard",
        "nonfinite",
        "failure",
    }
    absent = set(patterns()) - {name for names in found.values() for name in names}
    assert {name for name in absent if not any(word in name for word in rare)} == set()
