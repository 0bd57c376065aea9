"""Several processes, each on a device of its own, against one process on the whole batch."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from facenet.devices.table import device_count

from .job import Trained, start, train

PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import job
job.train_as_rank({name!r}, json.loads({scenarios!r}), Path({out!r}))
"""
SYNC = {"sync_batch_norm": True}
# torch 2.4 looks for the page-locked memory that it needs for this on CUDA alone.
STATIC = {"static graph": {"distributed": {**SYNC, "static_graph": True}}} if hasattr(torch, "accelerator") else {}
SCENARIOS = {
    "plain": {"distributed": SYNC},
    "copied in small buckets": {"distributed": {**SYNC, "gradient_as_bucket_view": False, "bucket_cap_mb": 0.001}},
    **STATIC,
    "sent as fp16": {"distributed": {**SYNC, "compression": "fp16"}},
    "sent as rank 1": {"distributed": {**SYNC, "compression": "powersgd"}, "steps": 14},  # from the tenth step on
    "own statistics": {},
    "sharded": {"distributed": SYNC, "head": "sharded"},
    "fp16": {"distributed": SYNC, "dtype": "fp16"},
}
# Largest difference of a gradient of the first step (they reach 1.7), and of a parameter and a loss after four steps. Measured: 5e-6 and
# 7e-7 in fp32, 8e-4 and 2e-3 with gradients sent as fp16.
EXACT, ROUNDED = (2e-5, 2e-6), (5e-3, 5e-3)


@pytest.fixture(scope="module")
def trained(device_name, together, tmp_path_factory):
    """trained(num_processes, scenario): what each process had at the end. One set of processes trains all scenarios."""
    out = tmp_path_factory.mktemp("ranks")

    def of(num_processes: int, name: str) -> list[Trained]:
        if device_name == "cpu":
            pytest.skip("torch has no batch norm over processes on a cpu")
        if device_count(device_name) < num_processes:
            pytest.skip(f"needs {num_processes} devices")
        wanted = list(SCENARIOS) if num_processes == 2 else ["plain"]
        folder = out / str(num_processes)
        if not folder.exists():
            folder.mkdir()
            scenarios = [
                {**SCENARIOS[each], "port": port} for each, port in zip(wanted, free_ports(len(wanted)), strict=True)
            ]
            home = str(Path(__file__).parent)
            code = PROGRAM.format(folder=home, name=device_name, scenarios=json.dumps(scenarios), out=str(folder))
            together(code, num_processes)
        files = [folder / f"{wanted.index(name)}-{rank}.pt" for rank in range(num_processes)]
        return [Trained(**torch.load(file, weights_only=True)) for file in files]

    return of


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def alone(device_name):
    """alone(dtype): the same training in this process, each batch whole."""
    done = {}

    def of(dtype: str) -> Trained:
        if dtype not in done:
            with start(device_name, dtype) as device:
                done[dtype] = train(device)
        return done[dtype]

    return of


def gap(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("num_processes", "name", "tolerance"),
    [
        (2, "plain", EXACT),
        (3, "plain", EXACT),
        (2, "copied in small buckets", EXACT),
        *((2, name, EXACT) for name in STATIC),
        (2, "sent as fp16", ROUNDED),
        (2, "fp16", ROUNDED),
        (2, "sharded", EXACT),
    ],
)
def test_processes_train_as_one_process_does_on_the_whole_batch(trained, alone, num_processes, name, tolerance):
    ranks, whole = trained(num_processes, name), alone(SCENARIOS[name].get("dtype", "fp32"))
    most = tolerance[1]
    if (
        name == "fp16"
    ):  # by a CPU's products in it other triplets become the hardest: no farther than float32 leads, twice (0.027; one was 0.028)
        most = 2 * gap(list(alone("fp32").state.values()), list(whole.state.values()))
    for rank in ranks:
        assert gap(rank.gradients, whole.gradients) <= tolerance[0]
        assert gap(list(rank.state.values()), list(whole.state.values())) <= most
    assert ranks[0].losses == pytest.approx(whole.losses, abs=most)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_process_ends_with_the_same_parameters(trained, name):
    first, second = trained(2, name)
    statistics = [key for key in first.state if "running" in key]
    same = [torch.equal(first.state[key], second.state[key]) for key in first.state if key not in statistics]
    assert all(same) and gap(first.gradients, second.gradients) == 0
    shared = all(torch.equal(first.state[key], second.state[key]) for key in statistics)
    assert shared == (name != "own statistics")


def test_batch_statistics_of_the_parts_are_not_those_of_the_whole(trained, alone):
    """What the comparisons above would not show if the option did nothing."""
    assert gap(trained(2, "own statistics")[0].gradients, alone("fp32").gradients) > 1e-3
