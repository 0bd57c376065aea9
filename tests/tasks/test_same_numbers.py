"""The numbers of a training and its test are those of commit de87537, as .ci/same_numbers.py --record kept them on another day and machine."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch  # noqa: F401  the script does, and importing it turns gradients on, which tests must leave as they were

ROOT = Path(__file__).parents[2]
KEPT = json.loads((ROOT / "tests" / "golden" / "numbers.json").read_text())
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("same_numbers", ROOT / ".ci" / "same_numbers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_a_training_has_the_numbers_that_were_kept(script, tmp_path, name):
    installed = script.Code(
        (f"{BIN}/facenet-train",), (f"{BIN}/facenet-evaluate",), {"FACENET_CACHE": f"{tmp_path}/cache"}
    )
    ((_, found),) = script.results(replace(script.CASES[name], stop_at=None), installed, tmp_path / "case")
    assert script.first_difference(KEPT[name], script.comparable(found), script.TOLERANCE) is None


def test_a_difference_is_the_first_number_or_name_that_differs(script):
    kept = {"metrics": {"1 train/loss": 2.5, "2 train/loss": float("nan")}, "weights": {"embedder/a": "0a"}}
    assert script.first_difference(kept, {part: dict(kept[part]) for part in kept}) is None
    other = {**kept, "weights": {"embedder/a": "0b"}}
    assert script.first_difference(kept, other) == "weights: embedder/a: 0a and 0b"
    other = {**kept, "metrics": {**kept["metrics"], "1 train/loss": 2.5000001}}
    assert script.first_difference(kept, other) == "metrics: 1 train/loss: 2.5 and 2.5000001"
    assert script.first_difference(kept, other, 1e-3) is None
    other = {**kept, "evaluation": {"auc": 0.5}}
    assert script.first_difference(kept, other, 1e-3) == "evaluation: auc: None and 0.5"
