"""A long run with everything on: memory, open files, threads and processes stay flat, and a step costs at the end what it cost before.

FACENET_NIGHTLY=1 FACENET_SOAK_MINUTES=30 pytest -s tests/engine/test_soak.py; one minute of it comes first.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

EVERYTHING = (
    *("accelerator=cpu", "distributed=ddp", "loss=triplet_ce", "augment=standard", "optimizer=adamw", "watch=default"),
    *(
        "data.num_identities=12",
        "data.images_per_identity=8",
        "data.image_size=32",
        "data.batch_size=12",
        "data.val_images=0.1",
    ),
    *("data.val_identities=0.34", "benchmark.num_pairs=60", "benchmark.num_folds=3", "backbone.trunk.init=kaiming"),
    *("trainer.epochs=1000000", "trainer.accumulate=2", "trainer.ema_decay=0.9", "trainer.clip_grad_norm=1.0"),
    *("trainer.log_every=2", "data.num_workers=2", "tracking.dllogger=true", "schedule=constant"),
)
WARM = 0.34  # share of the time that caches, pools and MLflow take to fill
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """Of the command and all its processes. cpu_s: spent so far by rank 0."""

    at_s: float
    rss_mib: float
    files: int
    threads: int
    processes: int
    cpu_s: float
    step: int


def processes_of(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def sample(root: int, run_dir: Path, begun: float) -> Sample | None:
    """None where a process came or went meanwhile."""
    try:
        pids = processes_of(root)
        stats = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids}
        rank = next(pid for pid in pids if b"\0RANK=0\0" in Path(f"/proc/{pid}/environ").read_bytes())
        return Sample(
            at_s=time.monotonic() - begun,
            rss_mib=sum(int(stat[21]) for stat in stats.values()) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            files=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
            threads=sum(int(stat[17]) for stat in stats.values()),
            processes=len(pids),
            cpu_s=(int(stats[rank][11]) + int(stats[rank][12])) / TICKS,
            step=last_step(run_dir / "metrics.jsonl"),
        )
    except (OSError, StopIteration):
        return None


def last_step(journal: Path) -> int:
    with journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - 20000))
        steps = [json.loads(line).get("step", 0) for line in file.read().splitlines()[1:-1]]
    return max(steps, default=0)


def soak(folder: Path, minutes: float) -> tuple[list[Sample], int, Path]:
    """Samples of a run that is stopped after so long, and its exit code."""
    run_dir, log = folder / "run", folder / "log"
    command = [str(Path(sys.executable).parent / "facenet-train"), *EVERYTHING]
    store = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"hydra.run.dir={run_dir}"]
    samples: list[Sample] = []
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *store], cwd=folder, stdout=output, stderr=output)
        try:
            while not (run_dir / "history.json").exists():  # the first epoch
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            begun = time.monotonic()
            while time.monotonic() - begun < minutes * 60:
                assert process.poll() is None, log.read_text()[-4000:]
                if (found := sample(process.pid, run_dir, begun)) is not None:
                    samples.append(found)
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            code = process.wait(600)
        finally:
            process.kill()
            process.wait()
    return samples, code, run_dir


def flat(samples: list[Sample]) -> dict[str, float]:
    """Figures of the time after the warm-up: level and change of each, the change by a straight line over that time."""
    rest = [one for one in samples if one.at_s >= WARM * samples[-1].at_s]
    at = np.array([one.at_s for one in rest])
    found = {"seconds": at[-1] - at[0], "samples": len(rest), "steps": rest[-1].step - rest[0].step}
    for name in ("rss_mib", "files", "threads", "processes"):
        values = np.array([getattr(one, name) for one in rest], dtype=float)
        found[name], found[f"{name} change"] = float(np.median(values)), change(at, values)
    # Processor time per step in twelve pieces: wall time would be that of the other programs on the machine.
    marks = rest[:: max(1, len(rest) // 12)]
    costs = [(b.cpu_s - a.cpu_s) / max(b.step - a.step, 1) for a, b in itertools.pairwise(marks)]
    middle = np.array([(a.at_s + b.at_s) / 2 for a, b in itertools.pairwise(marks)])
    found["cpu_ms_per_step"] = float(np.median(costs)) * 1000
    found["cpu_ms_per_step change"] = change(middle, np.array(costs)) * 1000
    return found


def change(at: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(at, values, 1)[0] * (at[-1] - at[0]))


def check(folder: Path, minutes: float) -> None:
    samples, code, run_dir = soak(folder, minutes)
    found = flat(samples)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))
    assert code == 143 and (run_dir / "checkpoints" / "last.pt").is_file()
    assert found["steps"] > 20 * minutes and found["samples"] > 20 * minutes
    assert (
        found["rss_mib change"] < 0.03 * found["rss_mib"]
    )  # of about 2 GiB in all; a leak of a batch per step is 10 MiB a minute
    assert abs(found["files change"]) < 3 and abs(found["threads change"]) < 3 and abs(found["processes change"]) < 0.5
    assert (
        found["cpu_ms_per_step change"] < 0.25 * found["cpu_ms_per_step"]
    )  # beside other programs the first steps are the dear ones
    tags = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines() if '"tag"' in line]
    assert [tag for tag in tags if tag["tag"] in ("watch.nonfinite", "watch.hang", "watch.frozen")] == []


@pytest.mark.nightly
def test_a_minute(tmp_path):
    check(tmp_path, 1.0)


@pytest.mark.nightly
@pytest.mark.timeout(0)
def test_soak(tmp_path):
    check(tmp_path, float(os.environ.get("FACENET_SOAK_MINUTES", "30")))
