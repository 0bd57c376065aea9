import contextlib
import logging
import mmap
import sys

import numpy as np
import pytest
import torch
from torch import nn

from facenet.devices import accelerator as accelerators
from facenet.devices import table
from facenet.devices.accelerator import Accelerator, host_copy
from facenet.devices.table import (
    Device,
    DeviceChoice,
    Precision,
    absent,
    check_device_count,
    check_exchange,
    out_of_memory,
)
from facenet.distributed.choice import Distributed
from facenet.errors import UserError


@pytest.fixture
def only(monkeypatch):
    """only("cuda", "cpu"): which devices seem present; the others are absent for a reason."""

    def pretend(*present):
        monkeypatch.setattr(table, "absent", lambda name: None if name in present else f"no {name} here")

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
    monkeypatch.setitem(table.DEVICES, "sdaa", Device("torch_absent", "tccl", ("fp32",), "", "", ""))
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
        pytest.raises(UserError, match="precision=fp16: not on cpu, which offers fp32, bf16; set precision=auto"),
        Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="fp16")),
    ):
        raise AssertionError("must not start")


def test_what_torch_lacks_on_a_device_is_refused():
    with pytest.raises(UserError, match="distributed.sync_batch_norm: .* on cpu; set it to false"):
        check_exchange("cpu", Distributed(sync_batch_norm=True))
    for name in ("cpu", "sdaa"):
        with pytest.raises(
            UserError, match=f"distributed.compression=bf16: torch refuses it on {name}; set it to fp16"
        ):
            check_exchange(name, Distributed(compression="bf16"))
    check_exchange("cuda", Distributed(sync_batch_norm=True, compression="bf16"))
    check_exchange("cpu", Distributed(compression="fp16"))


def test_a_precision_that_the_device_only_pretends_to_have_is_found(monkeypatch):
    """A wrong device string gives float32 and a warning."""
    monkeypatch.setattr(accelerators, "spellings", lambda name, what: iter([lambda **_: contextlib.nullcontext()]))
    with (
        pytest.raises(UserError, match=r"precision=bf16: cpu computes in torch\.float32; set precision=fp32"),
        Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="bf16")),
    ):
        raise AssertionError("must not start")


def test_the_spelling_of_autocast_that_computes_in_the_asked_type_is_taken(monkeypatch):
    def unknown(**_):
        raise RuntimeError("unsupported autocast device_type")

    def old(enabled=True):  # knows no type
        return torch.autocast("cpu", enabled=enabled)

    def pretends(dtype=None, enabled=True):
        return torch.autocast("cpu", enabled=False)

    def works(dtype=None, enabled=True):
        return torch.autocast("cpu", dtype=dtype, enabled=enabled)

    monkeypatch.setattr(accelerators, "spellings", lambda name, what: iter([unknown, old, pretends, works, unknown]))
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="bf16")) as device:
        assert device.amp is works and device.product_dtype() == torch.bfloat16
        with device.autocast(), device.full_precision():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    monkeypatch.setattr(accelerators, "spellings", lambda name, what: iter([unknown]))
    with (
        pytest.raises(UserError, match="precision=bf16: cpu has no autocast; set precision=fp32"),
        Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="bf16")),
    ):
        raise AssertionError("must not start")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("sdaa out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert out_of_memory(error) is expected


def test_more_processes_than_devices_are_refused(monkeypatch):
    check_device_count("cpu", 7)
    monkeypatch.setattr(table, "device_count", lambda name: 2)
    check_device_count("cuda", 2)
    with pytest.raises(
        UserError, match="3 processes need as many sdaa devices and 2 are visible.*SDAA_VISIBLE_DEVICES"
    ):
        check_device_count("sdaa", 3)


def test_random_streams_go_on_where_their_state_was_taken():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        device.seed(3)
        (state,) = device.rng_states()
        drawn = torch.rand(5)
        assert not torch.equal(torch.rand(5), drawn)
        device.set_rng_state(state)
        assert torch.equal(torch.rand(5), drawn)


def test_memory_of_a_cpu_is_that_of_the_process():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        before = device.memory()
        kept = mmap.mmap(-1, 2**26)  # from the kernel, not from what an allocator has kept
        np.frombuffer(kept, np.uint8)[:] = 1
        after = device.memory()
    assert 2**26 * 0.9 < after.allocated - before.allocated < 2**26 * 1.5
    assert after.allocated <= after.peak + 2**20 < after.total


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
