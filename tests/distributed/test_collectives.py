"""Real processes over gloo; each script asserts in every process what one process would have computed on the whole."""

import contextlib

import pytest
import torch
from torch import nn

from facenet.distributed import collectives
from facenet.distributed.choice import Distributed
from facenet.errors import UserError


def test_one_process_needs_no_group():
    rows = torch.ones(2, 3, requires_grad=True)
    assert collectives.world_size() == 1 and collectives.mean(rows) is rows
    assert collectives.gather(rows, [2]) == [rows]
    collectives.gather_batch(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(2, 3))
    collectives.broadcast([rows])
    assert isinstance(collectives.local_gradients(nn.Linear(1, 1)), contextlib.nullcontext)


@pytest.mark.parametrize(
    "options", [{"num_processes": 0}, {"bucket_cap_mb": 0.0}, {"grace_s": -1.0}, {"timeout_s": 0.0}]
)
def test_values_that_make_no_sense(options):
    ((key, value),) = options.items()
    with pytest.raises(UserError, match=rf"distributed\.{key}: expected .*, got {value:g}"):
        Distributed(**options)


START = """
import torch
from torch import nn
from facenet.distributed import collectives
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.distributed.choice import Distributed

started = Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=300)
device = started.__enter__()
rank, world = device.rank, device.world_size
"""

WORDS = """
assert torch.distributed.get_backend() == "gloo" and collectives.world_size() == world
values = torch.tensor([1.0 + rank, 10.0 * rank])
assert collectives.mean(values).tolist() == [1 + (world - 1) / 2, 5.0 * (world - 1)]
assert values.tolist() == [1.0 + rank, 10.0 * rank]
assert device.any(rank == 1) is True and device.any(False) is False
counts = [2 - other % 2 for other in range(world)]
parts = collectives.gather(torch.full((counts[rank], 2), float(rank)), counts)
assert [part.tolist() for part in parts] == [[[float(r)] * 2] * n for r, n in enumerate(counts)]
assert collectives.gather_texts("é" * rank, device.device) == ["é" * other for other in range(world)]
buffer, counter = torch.tensor([float(rank)]), torch.tensor(rank)
collectives.broadcast([buffer, counter])
assert buffer.item() == 0 and counter.item() == 0
device.seed(5)
states = device.rng_states()
drawn = torch.rand(3)
assert len(states) == world and not torch.equal(states[0]["host"], states[1]["host"])
device.set_rng_state(states[rank])
assert torch.equal(torch.rand(3), drawn)

for options in (
    {}, {"gradient_as_bucket_view": False}, {"static_graph": True}, {"find_unused_parameters": True},
    {"compression": "fp16"}, {"compression": "powersgd"},
):
    torch.manual_seed(rank)  # each process draws its own weights; rank 0's count
    wrapped = device.prepare(nn.Linear(1, 1, bias=False), Distributed(**options))
    weight = wrapped.module.weight
    before, optimizer = weight.item(), torch.optim.SGD([weight], lr=1.0)
    assert torch.equal(collectives.mean(weight.data), weight.data)
    for step in (1, 2):
        device.backward(wrapped(torch.tensor([[2.0 + 2 * rank]])).sum())
        device.step(optimizer)
        gap = abs(weight.item() - (before - step * (1 + world)))  # the mean of 2, 4, ... is 1 + world
        assert gap < (1e-2 if "compression" in options else 1e-5), (options, gap)
# Parts of a batch send nothing before the last: until then the gradient is this process's own.
wrapped = device.prepare(nn.Linear(1, 1, bias=False))
with collectives.local_gradients(wrapped):
    wrapped(torch.tensor([[2.0 + 2 * rank]])).sum().backward()
assert wrapped.module.weight.grad.item() == 2.0 + 2 * rank
wrapped(torch.tensor([[2.0 + 2 * rank]])).sum().backward()
assert wrapped.module.weight.grad.item() == 2.0 * (1 + world)
"""

GATHERED = """
from facenet.data.layout import Layout
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss

LOCAL = 6
generator = torch.Generator().manual_seed(0)
images = torch.randn(world * LOCAL, 5, generator=generator, dtype=torch.float64)
labels = torch.arange(world * LOCAL) % 4
def step(mining, gather, triplets):
    torch.manual_seed(1)
    loss = LossMix(terms={
        "triplet": {"weight": 1.0, "loss": TripletLoss(mining=mining, margin=0.5, gather=gather)},
        "ce": {"weight": 0.5, "loss": SoftmaxHead()},
    })
    loss.start(embedding_size=3, num_identities=4, layout=Layout("triplet" if triplets else "shuffle"))
    return nn.ModuleDict({"network": nn.Linear(5, 3), "loss": loss}).double()
class Step(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts
    def forward(self, images, labels, gather):
        value = self.parts["loss"](self.parts["network"](images), labels, gather=gather)
        return value.total, value.scalars
for mining, triplets in (("batch_hard", False), ("given", True)):
    whole = Step(step(mining, False, triplets))
    total, expected = whole(images, labels, None)
    total.backward()
    if triplets:  # the rows of this process: its part of the anchors, the positives and the negatives
        thirds = torch.arange(world * LOCAL).reshape(3, world, LOCAL // 3)
        mine = thirds[:, rank].reshape(-1)
    else:
        mine = torch.arange(rank * LOCAL, (rank + 1) * LOCAL)
    for gather in (True, False):
        sharded = device.prepare(Step(step(mining, gather, triplets)))
        total, figures = sharded(images[mine], labels[mine], collectives.gather_batch)
        total.backward()
        gaps = [
            (ours.grad - theirs.grad).abs().max().item()
            for ours, theirs in zip(sharded.module.parameters(), whole.parameters(), strict=True)
        ]
        if gather:
            assert max(gaps) < 1e-12, (mining, gaps)
            assert abs(figures["triplet"].item() - expected["triplet"].item()) < 1e-12
            assert figures["triplet/active"].item() == expected["triplet/active"].item() > 0
        else:  # local batches are another loss, and the comparison could not fail otherwise
            assert max(gaps) > 1e-4, (mining, gaps)
"""

END = """
started.__exit__(None, None, None)
assert not torch.distributed.is_initialized()
"""


@pytest.mark.parametrize("num_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_together_compute_what_one_does_on_the_whole(together, num_processes):
    together(START + WORDS + GATHERED + END, num_processes)
