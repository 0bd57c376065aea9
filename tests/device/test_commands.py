"""Whole commands on the device, from Hydra to MLflow."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.devices.table import device_count
from facenet.engine import checkpoint

pytestmark = pytest.mark.slow
TINY = (
    "loss=triplet_ce",
    "sampler=triplet",
    "optimizer=adam",
    "backbone=mobilenet_v1",
    "backbone.trunk.init=kaiming",
    "backbone.trunk.width=0.25",
    "data.num_identities=12",
    "data.images_per_identity=4",
    "data.image_size=32",
    "data.batch_size=12",
    "data.num_workers=1",
    "trainer.epochs=2",
    "trainer.log_every=2",
)


def command(program: str, run_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from facenet.commands.composed import {program}; {program}()",
            *arguments,
            f"hydra.run.dir={run_dir}",
        ],
        cwd=run_dir.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """Six drawn identities x 4 images in LFW's layout, with a list of 2 folds of 4 + 4 pairs."""
    root = tmp_path_factory.mktemp("lfw")
    faces = SyntheticFaces(num_identities=6, images_per_identity=4, size=48, seed=7)
    for index, label in enumerate(faces.labels.tolist()):
        path = root / f"Name_{label}" / f"Name_{label}_{index % 4 + 1:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(faces.load(index)).save(path, quality=95)
    lines = ["2\t4"]
    for fold in range(2):
        lines += [f"Name_{3 * fold + i % 3}\t{i // 3 + 1}\t{i // 3 + 2}" for i in range(4)]
        lines += [f"Name_{3 * fold + i % 3}\t1\tName_{3 * fold + (i + 1) % 3}\t{i // 3 + 2}" for i in range(4)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


def check_job(
    name: str, lfw: Path, tmp_path: Path, *overrides: str, again_on: list[str], tolerance: float
) -> dict[str, str]:
    """Trains with LFW tests and evaluates the checkpoint anew, in one process; the run's parameters in MLflow where that is installed."""
    run_dir, database = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    tracked = importlib.util.find_spec("mlflow") is not None
    tracking = [f"tracking.uri={database}"] if tracked else ["tracking=none"]
    test = ["benchmark=lfw", f"benchmark.root={lfw}"]
    done = command("train", run_dir, f"accelerator={name}", *TINY, *test, *tracking, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((run_dir / "history.json").read_text())
    assert len(rows) == 2 and all(np.isfinite(row["train/loss"]) and 0 <= row["lfw/accuracy"] <= 1 for row in rows)
    assert f"device {name}" in (run_dir / "train.log").read_text()

    last = run_dir / "checkpoints" / "last.pt"
    assert all(value.device.type == "cpu" for value in checkpoint.load(last)["embedder"].values())
    again = command(
        "evaluate",
        tmp_path / "again",
        f"checkpoint={last}",
        f"benchmark.root={lfw}",
        "tracking=none",
        *again_on,
    )
    assert again.returncode == 0, again.stderr
    verdict = json.loads((tmp_path / "again" / "lfw.json").read_text())
    assert verdict["accuracy"] == pytest.approx(rows[-1]["lfw/accuracy"], abs=tolerance)
    assert verdict["threshold"]["value"] == pytest.approx(rows[-1]["lfw/threshold"], abs=tolerance)
    return recorded(database, rows) if tracked else {}


def recorded(database: str, rows: list[dict[str, float]]) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database)
    (run,) = client.search_runs([client.get_experiment_by_name("facenet").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "lfw/accuracy")
    assert [point.value for point in history if point.step] == [  # at step 0 a place is held, without a number
        row["lfw/accuracy"] for row in rows
    ]
    return run.data.params


def test_a_job_with_lfw_from_hydra_to_mlflow(device_name, lfw, tmp_path):
    params = check_job(
        device_name, lfw, tmp_path, again_on=["accelerator=cpu"], tolerance=0.05 if device_name == "cuda" else 0
    )
    if params:
        assert params["plan.device"] == device_name and params["plan.precision"] == "fp32"


def test_a_job_of_two_processes_in_fp16(device_name, lfw, tmp_path):
    if device_name == "cpu" or device_count(device_name) < 2:
        pytest.skip("needs 2 devices")
    ddp = ["distributed=ddp", "distributed.num_processes=2", "precision=fp16"]
    again_on = [f"accelerator={device_name}", "precision=fp16"]
    params = check_job(device_name, lfw, tmp_path, *ddp, again_on=again_on, tolerance=0)
    if params:
        assert params["plan.device"] == device_name and params["plan.precision"] == "fp16"
        assert params["distributed.num_processes"] == params["plan.num_processes"] == "2"


def test_a_plugin_without_a_card_is_passed_over_and_refused_by_name(simulated, tmp_path):
    """In one process: `auto` and its reason, then the command that names the device."""
    script = "from facenet.devices.table import DeviceChoice; print(DeviceChoice().resolve()); "
    script += "from facenet.commands.composed import train; train()"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "accelerator=sdaa",
            *TINY,
            "tracking=none",
            "benchmark=none",
            "hydra.run.dir=run",
        ],
        cwd=tmp_path,
        env={**os.environ, "SDAA_SIM_DEVICE_COUNT": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "'cpu', 'sdaa: torch sees no such device; cuda: " in done.stdout
    assert done.returncode == 2
    assert done.stderr == (
        "accelerator=sdaa: torch sees no such device; install the vendor's torch_sdaa and check teco-smi, or run with accelerator=auto\n"
    )
    assert not any(tmp_path.iterdir())


def test_processes_without_memory_end_the_job_with_advice(simulated, tmp_path):
    """A rank that tries smaller batches must not wait for the others, nor they for it."""
    big = ["data.batch_size=48", "data.image_size=64", "benchmark=none", "tracking=none", "distributed=ddp"]
    big.append("backbone.trunk.width=1.0")
    limit = str(60 * 2**20)  # the network and its gradients, and not 24 images
    done = command("train", tmp_path / "run", "accelerator=sdaa", *TINY, *big, SDAA_SIM_MEMORY_LIMIT=limit)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert "ran out of memory with 24 images at once" in last and "sdaa out of memory. Tried to allocate" in last
    assert "data.batch_size=" in last or "smaller data.image_size" in last
