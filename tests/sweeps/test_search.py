"""A search with Optuna, as its user runs it. Skips where the extra is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from facenet.tracking import reading

BIN = Path(sys.executable).parent
TINY = (
    "data.num_identities=12",
    "data.images_per_identity=8",
    "data.image_size=32",
    "backbone.trunk.width=0.25",
    "data.batch_size=12",
    "data.val_identities=0.34",
    "data.num_workers=1",
    "benchmark=none",
    "accelerator=cpu",
    "trainer.epochs=1",
)
try:
    FOUND = importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
except ModuleNotFoundError:
    FOUND = False
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason="pip install 'facenet[optuna]'"),
]


def search(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BIN / "facenet-train"),
        "sweep=optuna_lr",
        *TINY,
        f"hydra.sweep.dir={directory / 'sweep'}",
        *overrides,
    ]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=900)


def learning_rates(directory: Path) -> dict[float, float]:
    """Learning rate -> objective of each run."""
    found = reading.runs_of_sweep(f"sqlite:///{directory / 'mlflow.db'}", "sweep")
    assert {run.status for run in found} == {"FINISHED"}
    return {float(run.params["optimizer.lr"]): run.metrics["best/train/loss"] for run in found}


def test_the_best_of_four_trials_is_the_best_run_and_a_longer_search_goes_on_from_them(tmp_path):
    loss = ("trainer.select=train/loss", "hydra.sweeper.direction=minimize", "schedule=constant")
    done = search(tmp_path, *loss, "hydra.sweeper.n_trials=4", "sweep.jobs_per_node=2")
    assert done.returncode == 0, done.stderr[-3000:]
    first = learning_rates(tmp_path)
    assert len(first) == 4 and all(1e-5 <= lr <= 1e-2 for lr in first) and len(set(first.values())) == 4
    best = min(first, key=lambda lr: first[lr])
    told = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert told["best_params"] == {"optimizer.lr": pytest.approx(best)}
    assert told["best_value"] == pytest.approx(first[best])

    done = search(tmp_path, *loss, "hydra.sweeper.n_trials=6", "sweep.jobs_per_node=2")
    assert done.returncode == 0, done.stderr[-3000:]
    longer = learning_rates(tmp_path)
    assert len(longer) == 6 and longer.items() >= first.items(), "the four did not run again"


def test_a_direction_that_looks_for_the_worst_is_refused(tmp_path):
    done = search(tmp_path, "trainer.select=train/loss")
    assert done.returncode == 2
    assert done.stderr == (
        "hydra.sweeper.direction: train/loss is better when lower; set hydra.sweeper.direction=minimize\n"
    )
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("axes", "bad", "good", "code"),
    [
        (
            ("optimizer.lr=1e-3", "backbone.dropout=choice(0,-1)"),
            "failure-0.json",
            0,
            2,
        ),  # refused by the network
        (("optimizer.lr=choice(1e-3,1e30)",), "result.json", 1e-3, 0),  # no numbers are left after its first step
    ],
)
def test_a_trial_that_fails_or_has_no_number_does_not_end_the_search(axes, bad, good, code, tmp_path):
    """The sampler's seed draws the second value first."""
    loss = ("trainer.select=train/loss", "hydra.sweeper.direction=minimize", "schedule=constant")
    done = search(tmp_path, *loss, *axes, "hydra.sweeper.n_trials=2", "tracking=none")
    assert done.returncode == code, done.stderr[-3000:]
    ends = [{path.name for path in (tmp_path / "sweep" / num).glob("*.json")} for num in "01"]
    assert bad in ends[0] and "result.json" in ends[1]
    told = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert told["best_params"] == {axes[-1].split("=")[0]: good}
