import json
import time

import pytest
import torch

from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.tracking import journal
from facenet.tracking.tracker import JournalTracker


@pytest.fixture
def path(tmp_path):
    return journal.begin(tmp_path, "a" * 32, None)


def lines(path):
    return [{**json.loads(line), "time": None} for line in path.read_text().splitlines()[1:]]


def test_a_point_is_there_at_once_and_once(path, tmp_path):
    tracker = JournalTracker(tmp_path)
    tracker.metrics({"loss": 0.5, "tar@far": 1}, step=2)
    assert lines(path) == [{"time": None, "step": 2, "metrics": {"loss": 0.5, "tar_far": 1.0}}]
    tracker.metrics({"loss": 0.4, "samples_seen": 20}, step=2)
    tracker.metrics({"loss": 0.4}, step=2)
    assert lines(path)[1:] == [{"time": None, "step": 2, "metrics": {"samples_seen": 20.0}}]
    tracker.close()


def test_a_killed_process_repeats_nothing_and_leaves_no_gap(path, tmp_path):
    first = JournalTracker(tmp_path)
    for step in (10, 20, 30):
        first.metrics({"loss": 1 / step}, step=step)
    again = JournalTracker(tmp_path)  # from the checkpoint of step 15; the first one never closed
    for step in (20, 30, 40):
        again.metrics({"loss": 1 / step}, step=step)
    again.metrics({"val": 1.0}, step=20)
    assert [(line["step"], line["metrics"]) for line in lines(path)] == [
        *[(step, {"loss": 1 / step}) for step in (10, 20, 30, 40)],
        (20, {"val": 1.0}),
    ]
    first.close()
    again.close()


def test_files_of_the_run_are_named_from_its_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = JournalTracker(tmp_path)
    tracker.artifact(tmp_path / "records" / "lfw.json", "records")
    tracker.artifact(tmp_path.parent / "other.txt")
    tracker.tag("x@y", "z" * 8001)
    tracker.close()
    assert [line.get("artifact") for line in lines(path)] == [
        "records/lfw.json",
        str(tmp_path.parent / "other.txt"),
        None,
    ]
    assert lines(path)[2]["tag"] == "x_y" and "sha256" in lines(path)[2]["value"]


def test_it_costs_less_than_a_hundredth_of_the_smallest_step(path, tmp_path):
    """In CPU time of the thread that trains: a step of the smallest job of these tests, and what it logs each step."""
    network = FaceNet(trunk=MobileNetV1())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.rand(12, 3, 32, 32)

    def step():
        optimizer.zero_grad()
        network(images).sum().backward()
        optimizer.step()

    tracker = JournalTracker(tmp_path)
    names = ["train/loss", "train/ce", "train/ce/accuracy", "train/triplet", "train/lr", "train/ips", "samples_seen"]
    step()
    steps = cpu_time(step, repeat=5)
    numbers = iter(range(500))
    logged = cpu_time(lambda: tracker.metrics(dict.fromkeys(names, 0.123456), step=next(numbers)), repeat=500)
    tracker.close()
    assert logged < 0.01 * steps, f"{logged * 1e6:.0f} us a call, {steps * 1e3:.1f} ms a step"


def cpu_time(call, repeat):
    began = time.thread_time()
    for _ in range(repeat):
        call()
    return (time.thread_time() - began) / repeat
