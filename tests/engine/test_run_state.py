"""The options of an optimizer that goes on are those that it was made with; its state is the saved one."""

import copy
import functools

import pytest
import torch
from torch import nn

from facenet.devices.accelerator import Accelerator
from facenet.devices.table import Precision
from facenet.engine import run_state
from facenet.engine.muon import Muon

CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.5, "weight_decay": 0.3}),
    "adam": (torch.optim.Adam, {"lr": 0.1}, {"betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0.3}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1}, {"betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0.3}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9}, {"alpha": 0.5, "momentum": 0.1, "eps": 1e-2}),
    "muon": (
        Muon,
        {"lr": 0.1, "bf16": False},
        {"momentum": 0.5, "weight_decay": 0.3, "adamw_lr": 0.05, "betas": (0.5, 0.6), "eps": 1e-2},
    ),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def step(module, optimizer):
    optimizer.zero_grad()
    module(torch.linspace(-1, 1, 12).view(3, 4)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_changed_options_train_as_if_they_had_been_set_on_the_running_optimizer(case):
    kind, before, changed = CASES[case]
    running = network()
    optimizer = kind(running.parameters(), **before)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # a schedule's
    step(running, optimizer)
    saved, weights = copy.deepcopy(run_state.optimizer_state(optimizer)), copy.deepcopy(running.state_dict())

    resumed = network()
    resumed.load_state_dict(weights)
    again = kind(resumed.parameters(), **{**before, **changed})
    lrs = [group["lr"] for group in again.param_groups]
    run_state.load_optimizer_state(again, saved)
    for group, lr in zip(again.param_groups, lrs, strict=True):
        group["lr"] = lr  # as a schedule does before each step

    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group.update({name: value for name, value in changed.items() if name in group}, lr=lr)
    for module, each in ((running, optimizer), (resumed, again)):
        step(module, each)
    for name, value in running.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for own, other in zip(optimizer.param_groups, again.param_groups, strict=True):
        assert {k: v for k, v in own.items() if k not in ("params", "initial_lr")} == {
            k: v for k, v in other.items() if k not in ("params", "initial_lr")
        }


def test_unchanged_options_are_the_saved_ones_and_a_count_in_a_group_stays():
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    step(module, optimizer)
    optimizer.param_groups[0]["k"] = 7  # some optimizers count their steps there
    saved = run_state.optimizer_state(optimizer)
    again = torch.optim.AdamW(network().parameters(), lr=0.1)
    run_state.load_optimizer_state(again, saved)
    assert again.param_groups[0]["k"] == 7
    assert run_state.optimizer_state(again)["param_groups"] == saved["param_groups"]


def test_the_kernels_of_another_device_are_not_taken_over():
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1, foreach=True)
    step(module, optimizer)
    again = torch.optim.Adam(module.parameters(), lr=0.1, foreach=False)
    run_state.load_optimizer_state(again, run_state.optimizer_state(optimizer))
    assert again.param_groups[0]["foreach"] is False


def test_a_loss_scale_goes_on_and_grows_as_it_is_asked_for_now():
    def scaled(growth_interval):
        accelerator = Accelerator("cpu", Precision(dtype="fp32"), rank=0, local_rank=0, world_size=1)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=growth_interval)
        return accelerator

    def steps(accelerator, count):
        weight = nn.Parameter(torch.ones(1))
        for _ in range(count):
            accelerator.backward(weight.sum())
            accelerator.step(torch.optim.SGD([weight], lr=0.1))
        return accelerator.scaler.get_scale()

    first = scaled(3)
    assert steps(first, 4) == 128.0  # doubled after three, and one counted towards the next
    same, other = scaled(3), scaled(2)
    for each in (same, other):
        each.load_scale(first.scaler.state_dict())
        assert each.scaler.get_scale() == 128.0
    assert steps(other, 1) == 256.0 and steps(same, 1) == 128.0 and steps(same, 1) == 256.0
    none = Accelerator("cpu", Precision(dtype="fp32"), rank=0, local_rank=0, world_size=1)
    none.load_scale(first.scaler.state_dict())  # a device that computes in another precision


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state, None),
        (lambda state: {**state, "0.weight": torch.zeros(5, 4)}, r"0.weight is [4, 4], was [5, 4]"),
        (lambda state: {**state, "0.weight": "x"}, r"0.weight is [4, 4], was [None]"),
        (lambda state: {name: value for name, value in state.items() if name != "1.bias"}, "1.bias is new"),
        (lambda state: {**state, "2.bias": torch.zeros(3)}, "2.bias is not in it"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    module = network()
    assert run_state.misfit(module, change(dict(module.state_dict()))) == said


def test_an_optimizer_of_a_partial_is_found_by_its_class():
    make = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = network()
    optimizer = make(module.parameters())
    assert run_state.options(optimizer, optimizer.param_groups[0])["momentum"] == 0.9
