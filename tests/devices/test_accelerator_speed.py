"""What makes steps faster and changes nothing: fused updates, compiled networks, batches copied ahead."""

import copy
import dataclasses
import functools
import logging

import pytest
import torch
from torch import nn

from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DEVICES, Precision


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, rows):
        return self.layer(rows).relu()


@pytest.fixture
def cpu(monkeypatch):
    """With the fused kernels that a CPU has too: there they are not taken, for want of a gain."""
    monkeypatch.setitem(DEVICES, "cpu", dataclasses.replace(DEVICES["cpu"], fused=True))
    return Accelerator("cpu", Precision(), rank=0, local_rank=0, world_size=1)


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.AdamW, functools.partial(torch.optim.SGD, momentum=0.9)]
)
def test_a_fused_update_equals_the_plain_one(cpu, make):
    torch.manual_seed(0)
    one = nn.Linear(8, 4)
    two = copy.deepcopy(one)
    fused = cpu.optimizer(functools.partial(make, lr=0.01), list(one.parameters()))
    plain = make(two.parameters(), lr=0.01)
    assert fused.defaults["fused"] is True and not plain.defaults["fused"]
    for _ in range(5):
        for network, optimizer in ((one, fused), (two, plain)):
            optimizer.zero_grad()
            network(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


def test_an_optimizer_of_another_kind_or_with_its_own_wish_is_left_alone(cpu):
    parameters = [nn.Parameter(torch.ones(2))]
    assert "fused" not in cpu.optimizer(torch.optim.Rprop, parameters, lr=0.1).defaults
    assert cpu.optimizer(torch.optim.Adam, parameters, foreach=True).defaults["fused"] is None
    assert not DEVICES["sdaa"].fused  # torch would take it for a device with such kernels


def test_a_compiler_that_fails_leaves_the_network_as_it_was(cpu, monkeypatch, caplog):
    def broken(graph, inputs):
        raise ValueError("no compiler")

    monkeypatch.setitem(vars(DEVICES["cpu"]), "compiler", broken)
    network = Network()
    expected = network(torch.ones(1, 3))
    cpu.compile(network, mode="default")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(network(torch.ones(1, 3)), expected) and torch.equal(network(torch.ones(1, 3)), expected)
    assert sum("trainer.compile" in record.message for record in caplog.records) == 1


def test_a_compiled_network_computes_the_same_and_copies_without_it(cpu, monkeypatch):
    ran = []

    def backend(graph, inputs):
        ran.append(graph)
        return graph.forward

    monkeypatch.setitem(vars(DEVICES["cpu"]), "compiler", backend)
    network = Network()
    expected, names = network(torch.ones(1, 3)), list(network.state_dict())
    cpu.compile(network, mode="default")
    assert torch.equal(network(torch.ones(1, 3)), expected) and len(ran) == 1
    assert list(network.state_dict()) == names and copy.deepcopy(network)._compiled_call_impl is None


def test_nothing_is_copied_ahead_on_a_cpu(cpu):
    items = [torch.ones(1), torch.zeros(1)]
    found = list(cpu.ahead(iter(items), lambda item, to: to(item)))
    assert all(one is two for one, two in zip(found, items, strict=True))
