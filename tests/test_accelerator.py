import logging
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from facenet import accelerator as accelerators
from facenet.accelerator import Accelerator, Device, DeviceChoice, Precision, absent, check_sync_batch_norm, host_copy
from facenet.errors import UserError


@pytest.fixture
def only(monkeypatch):
    """only("cuda", "cpu"): which devices seem present; the others are absent for a reason."""

    def pretend(*present):
        monkeypatch.setattr(accelerators, "absent", lambda name: None if name in present else f"no {name} here")

    return pretend


@pytest.mark.parametrize(
    ("present", "chosen", "reason"),
    [
        (("sdaa", "cuda", "cpu"), "sdaa", "first choice"),
        (("cuda", "cpu"), "cuda", "sdaa: no sdaa here"),
        (("cpu",), "cpu", "sdaa: no sdaa here; cuda: no cuda here"),
    ],
)
def test_auto_takes_the_first_present_and_says_why(only, present, chosen, reason):
    only(*present)
    assert DeviceChoice(name="auto").resolve() == (chosen, reason)


def test_a_named_device_wins_over_a_better_one(only):
    only("sdaa", "cuda", "cpu")
    assert DeviceChoice(name="cpu").resolve() == ("cpu", "asked for")


@pytest.mark.parametrize(("name", "fix"), [("sdaa", "teco-smi"), ("cuda", "nvidia-smi")])
def test_a_named_device_that_is_absent_is_an_error_with_the_way_out(only, name, fix):
    only("cpu")
    with pytest.raises(UserError, match=f"accelerator={name}: no {name} here; .*{fix}.*accelerator=auto"):
        DeviceChoice(name=name).resolve()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (None, "no module torch_absent"),
        ("import torch_deeper", "no module torch_deeper"),
        ("raise ImportError('libtecodnn.so: cannot open')", r"does not import \(libtecodnn"),
        ("raise OSError('driver')", r"does not import \(driver\)"),
        ("", "torch sees no such device"),  # the plugin is there, the card is not
    ],
)
def test_why_a_plugin_device_is_absent(monkeypatch, tmp_path, body, problem):
    monkeypatch.syspath_prepend(tmp_path)
    if body is not None:
        (tmp_path / "torch_absent.py").write_text(body)
    monkeypatch.delitem(sys.modules, "torch_absent", raising=False)
    monkeypatch.setitem(accelerators.DEVICES, "sdaa", Device("torch_absent", "tccl", ("fp32",), ""))
    with pytest.raises(UserError, match=problem):
        DeviceChoice(name="sdaa").resolve()
    assert absent("cpu") is None


def test_the_log_says_device_reason_and_precision(caplog):
    with caplog.at_level(logging.INFO), Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        assert device.device == torch.device("cpu") and (device.rank, device.world_size) == (0, 1)
    assert "device cpu (asked for), precision fp32, process 0 of 1" in caplog.text


def test_bf16_computes_in_bf16_and_keeps_losses_in_fp32():
    layer = nn.Linear(4, 4)
    images = torch.full((1, 4), 1 + 2**-12)  # bf16 cannot tell it from 1
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="bf16")) as device:
        assert device.scaler is None
        with device.autocast():
            out = layer(images)
            with device.full_precision():
                exact = layer(images)
        outside = layer(images)
    assert out.dtype == torch.bfloat16 and exact.dtype == outside.dtype == torch.float32
    assert torch.equal(exact, outside) and not torch.equal(out.float(), exact)
    assert layer.weight.dtype == torch.float32


def test_fp32_leaves_types_alone():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device, device.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_fp16_is_refused_on_the_cpu_with_what_it_offers():
    with (
        pytest.raises(UserError, match="precision=fp16: not on cpu, which offers fp32, bf16; set precision=bf16"),
        Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="fp16")),
    ):
        raise AssertionError("must not start")


def test_sync_batch_norm_is_refused_on_the_cpu():
    with pytest.raises(UserError, match="distributed.sync_batch_norm: .* on cpu; set it to false"):
        check_sync_batch_norm("cpu")
    check_sync_batch_norm("cuda")


def test_a_precision_that_the_device_only_pretends_to_have_is_found(monkeypatch):
    """A wrong device string gives float32 and a warning."""
    device = Accelerator("cpu", Precision(dtype="bf16"), rank=0, local_rank=0, world_size=1)
    monkeypatch.setattr(device, "autocast", lambda: torch.autocast("cpu", enabled=False))
    with pytest.raises(UserError, match=r"precision=bf16: cpu computes in torch\.float32; set precision=fp32"):
        device.verify_precision()


def test_a_step_clips_the_norm_and_clears_the_gradients():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        device.backward((parameter * torch.tensor([3.0, 4.0])).sum())
        device.step(optimizer, clip_grad_norm=1.0)
        torch.testing.assert_close(parameter.detach(), torch.tensor([-0.6, -0.8]), rtol=1e-5, atol=0)
        assert parameter.grad is None
        device.backward((parameter * torch.tensor([3.0, 4.0])).sum())
        device.step(optimizer)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-3.6, -4.8]), rtol=1e-5, atol=0)


def test_prepare_puts_convolutions_in_channels_last():
    conv = nn.Conv2d(8, 8, 3)
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        assert device.prepare(conv) is conv  # nothing to wrap for one process
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_seeds_repeat_and_differ_by_seed_and_rank():
    def draw(seed, rank):
        Accelerator("cpu", Precision(), rank=rank, local_rank=0, world_size=4).seed(seed)
        return torch.rand(3).tolist()

    assert draw(0, 1) == draw(0, 1)
    drawn = {tuple(draw(seed, rank)) for seed in range(3) for rank in range(3)}
    assert len(drawn) == 9


def test_host_copy_is_deep_and_apart():
    weight = nn.Parameter(torch.ones(2))
    state = {"a": [weight, (weight, 3)], "b": {"c": "x", 5: None}}
    copied = host_copy(state)
    with torch.no_grad():
        weight += 1
    assert copied["b"] == {"c": "x", 5: None} and copied["a"][1][1] == 3 and type(copied["a"][1]) is tuple
    assert copied["a"][0].tolist() == copied["a"][1][0].tolist() == [1, 1] and not copied["a"][0].requires_grad


def test_collectives_of_one_process_are_free():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        value = torch.tensor([1.0])
        assert device.mean(value) is value and device.any(True) is True and device.any(False) is False
        device.barrier()


TWO = """
import os, torch
from torch import nn
from facenet.accelerator import Accelerator, DeviceChoice, Precision
with Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=60) as device:
    rank = device.rank
    assert device.world_size == 2 and torch.distributed.get_backend() == "gloo"
    values = torch.tensor([1.0 + rank, 10.0 * rank])
    assert device.mean(values).tolist() == [1.5, 5.0] and values.tolist() == [1.0 + rank, 10.0 * rank]
    assert device.any(rank == 1) is True and device.any(False) is False
    device.barrier()
    module = device.prepare(nn.Linear(1, 1, bias=False))  # each rank drew its own; rank 0's is broadcast
    weight = module.module.weight
    before = weight.item()
    device.backward(module(torch.tensor([[2.0 + 2 * rank]])).sum())
    device.step(torch.optim.SGD([weight], lr=1.0))
    assert abs(weight.item() - (before - 3.0)) < 1e-6  # the mean of 2 and 4
    assert device.mean(weight.data).item() == weight.item()
assert not torch.distributed.is_initialized()
os._exit(0)  # as facenet.worker: leaving the interpreter after a process group aborts now and then
"""


def test_mean_any_and_gradients_over_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO], env={**os.environ, **group, "RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
