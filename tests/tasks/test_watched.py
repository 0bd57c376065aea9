"""Watchdogs on whole runs: those that were built to go wrong, each in one way, and one that is well."""

import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.engine import checkpoint
from facenet.errors import Halted
from facenet.launch.local import StopFlag
from facenet.tasks import train
from facenet.tasks.run import Run
from facenet.tools.replay import replay
from facenet.tracking import journal

pytestmark = pytest.mark.slow
OFTEN = ("trainer.log_every=1", "watch.patience=3")


def tags_of(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["tag"].removeprefix("watch."): line["value"] for line in lines if line.get("tag", "").startswith("watch.")
    }


@pytest.fixture
def watched(compose, tmp_path):
    """watched(*overrides): trains the tiny job in this process, as a rank does; returns its directory and the watchdogs that fired."""

    def run(*overrides):
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        journal.begin(run_dir, "a run", "nowhere")
        config = compose("tracking=mlflow", *overrides)
        with contextlib.closing(StopFlag(30.0)) as stop:
            train.run(Run(run_dir, config, "a run", stop))
        return tags_of(run_dir)

    return run


@pytest.fixture
def command(started, finished, tiny, tmp_path):
    """command(*overrides): the tiny job as a user runs it, tracked."""

    def run(*overrides):
        store = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
        job = [*tiny, store, "tracking.system_metrics=false", *overrides]
        return finished(started("facenet-train", tmp_path / "run", *job), tmp_path / "run")

    return run


def faces_in(root, label_of, image_of):
    """Writes 12 x 8 faces as root/<label>/<number>.png."""
    faces = SyntheticFaces(num_identities=12, images_per_identity=8, size=32)
    for index in range(len(faces)):
        folder = root / str(label_of(index))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(image_of(index))).save(folder / f"{index}.png")
    return ("data=folder", f"data.root={root}", "data.image_size=32", "data.batch_size=12", "data.num_workers=1")


def test_a_learning_rate_too_high_ends_with_the_batch_to_replay(command, tmp_path):
    done = command(
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "schedule=constant",
        "trainer.epochs=20",
        *OFTEN,
        "watch.nonfinite_in_row=3",
    )
    assert done.code == 1, done.err
    assert "Traceback" not in done.err and "stopped by watch.nonfinite: 3 steps in a row" in done.err
    tags = tags_of(done.run_dir)
    assert "synthetic/" in tags["nonfinite"] and "lower optimizer.lr" in done.err
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FAILED",)]
        assert database.execute("select value from tags where key = 'watch.nonfinite'").fetchall() == [
            (tags["nonfinite"],)
        ]
    path = done.run_dir / "nonfinite-0.pt"
    assert torch.load(path, weights_only=True)["batches"][0]["images"].shape == (12, 32, 32, 3)
    lines = replay(path, "cpu")
    assert "synthetic/" in lines[0] and "nan" in lines[1] and "none" not in lines[2] and "none" not in lines[3]
    said = subprocess.run([sys.executable, "-m", "facenet.tools.replay", str(path)], capture_output=True, text=True)
    assert said.returncode == 0 and "first output that is not finite" in said.stdout


def test_the_reference_repeats_its_batches(watched, tmp_path):
    with pytest.raises(Halted, match=r"stopped by watch.repeats: .* of the batches of this epoch were there before"):
        watched(
            "sampler=reference", "watch.repeats=stop", "trainer.log_every=1", "watch.max_repeats=0.9"
        )  # in the second epoch
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["epoch"] == 1


def test_a_margin_of_nothing_has_no_semi_hard_triplets(watched):
    """The plan refuses batches that can hold no triplet; whether those that can do is seen in training alone."""
    tags = watched(
        *(
            "sampler=identity",
            "sampler.images_per_identity=4",
            "loss=triplet_semi_hard",
            "loss.terms.triplet.loss.margin=0",
        ),
        *(*OFTEN, "watch.dead_steps=5", "data.val_images=0.0"),
    )
    assert "triplet had no active triplet in 5 steps" in tags["dead_triplets"]


@pytest.mark.nightly
def test_shuffled_labels_are_learned_and_do_not_transfer(watched, tmp_path):
    labels = [index // 8 for index in range(96)]
    random.Random(0).shuffle(labels)
    data = faces_in(tmp_path / "people", labels.__getitem__, lambda index: index)
    tags = watched(
        *data,
        *("loss=ce", "sampler=shuffle", "backbone.dropout=0.0", "trainer.epochs=60", "trainer.evaluate_every=5"),
        *("optimizer.lr=3e-3", "augment=none", "watch.benchmark_accuracy=0.65", "schedule=constant"),
        "watch.train_accuracy=0.8",  # of 12 labels; at this lr it goes up and down about 0.9
        "backbone.trunk.width=1.0",  # a narrow network does not come to that in 60 epochs
    )
    assert "on training identities and 0." in tags["generalisation"]


def test_frozen_weights(watched):
    tags = watched("optimizer.lr=1e-30", "schedule=constant", *OFTEN)
    assert "no weight of the network has changed for 3 log points" in tags["frozen"]


def test_a_dataset_of_copies(watched, tmp_path):
    data = faces_in(tmp_path / "people", lambda index: index // 8, lambda index: 0)
    tags = watched(*data, "augment=none", "trainer.epochs=4", *OFTEN)
    assert "collapse" in tags


def test_a_slow_loader_starves_the_device(watched, tmp_path):
    faces = faces_in(tmp_path / "people", lambda index: index // 8, lambda index: index)
    big = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(big, "JPEG", quality=95)
    for path in (tmp_path / "people").rglob("*.png"):
        path.write_bytes(big.getvalue())
    tags = watched(*faces, "trainer.max_steps=6", *OFTEN, "benchmark=none")
    assert "so the device starves" in tags["loader"]


def test_a_rank_that_stands_still_ends_the_run_with_the_stacks_of_the_others(started, tiny, tmp_path):
    run_dir = tmp_path / "run"
    job = [*tiny, "distributed=ddp", "trainer.epochs=200", "tracking=none", "watch.hang_s=6", "trainer.log_every=1"]
    process = started("facenet-train", run_dir, *job)
    log = run_dir / "train.log"
    end = time.monotonic() + 300
    while not log.exists() or "step 5 of" not in log.read_text():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    ranks = {rank_of(pid): int(pid) for pid in children if is_worker(pid)}
    os.kill(ranks["1"], signal.SIGSTOP)
    begun = time.monotonic()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and time.monotonic() - begun < 200
    assert "stopped by watch.hang: no batch done in 6 s" in err
    assert (
        "Current thread" in (run_dir / "ranks" / "hang-0.txt").read_text()
        or "Thread 0x" in (run_dir / "ranks" / "hang-0.txt").read_text()
    )
    assert not any(os.path.exists(f"/proc/{pid}") for pid in ranks.values())


def is_worker(pid):
    return "facenet.tasks.worker" in Path(f"/proc/{pid}/cmdline").read_text()


def rank_of(pid):
    return Path(f"/proc/{pid}/environ").read_text().split("\0RANK=")[1][0]


def test_the_tiny_job_is_well(watched):
    tags = watched("trainer.epochs=4", "trainer.log_every=1", "watch.loader=off")
    assert tags == {}
