"""A real sweep, MLflow's server on it, and a browser. All of these tests are slow, and skip where no Chromium is found.

FACENET_TEST_CHROMIUM=PATH          the browser, where it is not chromium, chromium-browser or google-chrome on PATH
FACENET_TEST_SCREENSHOTS=docs       also write docs/sweep-*.png and docs/report*.png
FACENET_TEST_SWEEP=URI#SWEEP_ID     look at this sweep of optimizer.lr and data.batch_size instead of training a tiny one
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.evaluation.report import interval
from facenet.reports.study import Study, read_study
from facenet.tasks.job import run_job
from facenet.tracking import reading
from facenet.tracking.reading import RunRecord
from facenet.tracking.tracker import JournalTracker

BIN = Path(sys.executable).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Root may not use the sandbox; the rest keeps it from calling home.
FLAGS = (
    "no-sandbox",
    "disable-gpu",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "no-first-run",
)
AXES = ("optimizer.lr=3e-4,3e-3", "data.batch_size=12,24")
TINY = (
    "backbone.trunk.width=0.25",
    *("backbone=mobilenet_v1", "loss=triplet_ce", "sampler=triplet", "augment=flip", "preprocess=letterbox"),
    *("optimizer=adam", "schedule=constant", "precision=fp32", "accelerator=cpu", "backbone.trunk.init=kaiming"),
    *("data.num_identities=12", "data.images_per_identity=16", "data.image_size=32", "data.val_images=0.1"),
    *("data.num_workers=1", "trainer.epochs=4", "trainer.log_every=2", "tracking.experiment=lr-batch"),
    "tracking.model=true",
)


@dataclass(frozen=True)
class Sweep:
    """`runs` in the order of their jobs."""

    uri: str
    study: Study
    runs: list[RunRecord]

    @property
    def experiment(self) -> str:
        return self.runs[0].experiment_id


@pytest.fixture(scope="session")
def chromium() -> str:
    pytest.importorskip("playwright")
    found = os.environ.get("FACENET_TEST_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} on PATH; install one or set FACENET_TEST_CHROMIUM")
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=[f"--{flag}" for flag in FLAGS])
        yield started
        started.close()


@pytest.fixture(scope="session")
def screenshot() -> Callable[..., None]:
    """screenshot(page, name) writes docs/<name>.png where that is asked for."""
    folder = os.environ.get("FACENET_TEST_SCREENSHOTS")

    def write(page: Any, name: str) -> None:
        if folder is not None:
            shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shown.quantize(256).save(Path(folder) / f"{name}.png", optimize=True)  # a third of the bytes

    return write


@pytest.fixture(scope="session")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 drawn identities x 8 images in LFW's layout, and a list of 10 folds of 6 + 6 pairs."""
    root, rng = tmp_path_factory.mktemp("lfw"), np.random.default_rng(0)
    faces = SyntheticFaces(num_identities=16, images_per_identity=8, size=32, seed=7)
    for index in range(len(faces)):
        person, image = divmod(index, 8)
        path = root / f"person_{person}" / f"person_{person}_{image + 1:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(faces.load(index)).save(path)
    lines = ["10\t6"]
    for _ in range(10):
        for _ in range(6):
            first, second = rng.choice(8, 2, replace=False) + 1
            lines.append(f"person_{rng.integers(16)}\t{first}\t{second}")
        for _ in range(6):
            one, other = rng.choice(16, 2, replace=False)
            lines.append(f"person_{one}\t{rng.integers(1, 9)}\tperson_{other}\t{rng.integers(1, 9)}")
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def sweep(chromium: str, lfw: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Four jobs, trained and tested as a user would."""
    given = os.environ.get("FACENET_TEST_SWEEP")
    if given is not None:
        uri, sweep_id = given.split("#")
    else:
        folder, sweep_id = tmp_path_factory.mktemp("sweep"), "lr-and-batch"
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        place = ["benchmark=lfw", f"benchmark.root={lfw}", f"hydra.sweep.dir={folder / sweep_id}"]
        command = [str(BIN / "facenet-train"), "-m", *AXES, *TINY, *place]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Sweep(uri, read_study(uri, sweep_id), reading.runs_of_sweep(uri, sweep_id))


PLAIN = {  # what five people change, and the accuracies that they find
    "loss=triplet_ce sampler=triplet": (0.55, 0.60),
    "loss=arcface sampler=shuffle": (0.52, 0.58),
    "loss=ce sampler=shuffle optimizer.lr=3e-3": (0.50, 0.65),
    "loss=triplet sampler=triplet data.batch_size=24": (0.51, 0.62),
    "loss=cosface sampler=shuffle data.batch_size=48": (0.54, 0.56),
}


@pytest.fixture(scope="session")
def plain(
    sweep: Sweep, lfw: Path, compose_train: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[RunRecord, str, tuple[float, float]]]:
    """Five runs of no sweep in the sweep's store, recorded by the command's own code, but that nothing is trained; with what was changed and
    the accuracies of its epochs."""
    found = []
    for changed, accuracies in PLAIN.items():
        folder = tmp_path_factory.mktemp("plain")
        place = ["benchmark=lfw", f"benchmark.root={lfw}", f"tracking.uri={sweep.uri}", "tracking.experiment=plain"]
        kept = [each for each in TINY if each.partition("=")[0] not in ("loss", "sampler", "tracking.experiment")]
        overrides = [*kept, *place, *changed.split(), "tracking.system_metrics=false"]

        def start(run_dir: Path, *_: Any, accuracies: tuple[float, ...] = accuracies) -> dict[str, Any]:
            with contextlib.closing(JournalTracker(run_dir)) as tracker:
                for epoch, value in enumerate(accuracies, start=1):
                    tracker.metrics({"lfw/accuracy": value, "train/loss": 1.0 / epoch}, step=10 * epoch)
                tracker.metrics({"best/lfw/accuracy": accuracies[-1]}, step=20)
                tracker.tag("interval.lfw", interval(accuracies[-1], 120))
            row = {"epoch": float(len(accuracies)), "lfw/accuracy": accuracies[-1]}
            best = str(run_dir / "checkpoints" / "best.pt")
            return {"objective": accuracies[-1], "checkpoint": best, "metrics": row, "pruned": None, "seconds": 1.0}

        result = run_job(compose_train(*overrides), run_dir=folder, overrides=overrides, tags={}, start=start)
        found.append((reading.run(sweep.uri, str(result.run_id)), changed, accuracies))
    return found


@pytest.fixture(scope="session")
def server(sweep: Sweep) -> Iterator[str]:
    """Address of MLflow's server on the sweep's database; it listens on this machine alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(BIN / "mlflow"), "server", "--backend-store-uri", sweep.uri, "--host", "127.0.0.1", "--port", port]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # 10 processes less
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        env={**os.environ, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=120)


def wait_for(address: str, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "MLflow's server ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} did not answer for {seconds:g} s")
