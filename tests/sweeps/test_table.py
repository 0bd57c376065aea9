"""The table of a sweep's jobs: which columns a reader sees."""

from __future__ import annotations

import re

import pytest

from facenet.sweeps import table

PLANNED = {"lr": "0.001", "batch": "30", "per process": "30", "steps": "710", "epochs": "5"}


def columns(*rows: dict[str, str]) -> list[str]:
    text = table.as_text([{"job": str(number), **row} for number, row in enumerate(rows)])
    return re.split("  +", text.splitlines()[0])


def test_a_number_is_shown_once():
    """`optimizer.lr` beside an equal `lr` and `data.batch_size` beside two equal batches were five columns of two numbers."""
    rows = [{"optimizer.lr": lr, "data.batch_size": "30", **PLANNED, "lr": lr} for lr in ("3e-4", "0.001")]
    assert columns(*rows) == ["job", "optimizer.lr", "data.batch_size", "steps", "epochs"]
    unplanned = {"optimizer.lr": "1", "data.batch_size": "x", **dict.fromkeys(PLANNED, "")}
    assert columns(*rows, unplanned) == ["job", "optimizer.lr", "data.batch_size", "steps", "epochs"]
    assert table.as_csv(rows).splitlines()[0] == "optimizer.lr,data.batch_size,lr,batch,per process,steps,epochs"


@pytest.mark.parametrize(
    ("swept", "planned", "kept"),
    [
        ({"optimizer.lr": "0.01"}, {"lr": "0.001"}, "lr"),  # clipped
        ({"data.batch_size": "32"}, {"batch": "30"}, "batch"),
        ({"data.batch_size": "auto"}, {"batch": "30"}, "batch"),
        ({"batch": "60"}, {"per process": "30"}, "per process"),
        ({"seed": "5"}, {"epochs": "5"}, "epochs"),  # equal by chance
        ({"seed": "0"}, {}, "seed"),
    ],
)
def test_what_was_asked_for_and_what_is_done_are_both_shown(swept, planned, kept):
    assert kept in columns({**swept, **planned})
