"""Training on the device against training on the CPU, by facenet's own classes."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

from facenet.devices import accelerator as accelerators
from facenet.devices import table
from facenet.engine.progress import Progress
from facenet.engine.trainer import moved
from facenet.errors import UserError

from .job import batches, make_trainer, start, train

# Largest difference of a loss and of a parameter after four steps. The stand-in computes with the CPU's kernels: none. A GPU has its own, and
# Adam and Muon make a step of full length of a gradient that is near zero.
TOLERANCE = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.05}


@pytest.fixture
def fp16_everywhere(monkeypatch):
    """The product refuses fp16 on a CPU because it is slow, not because it is wrong: for a comparison it will do."""
    row = table.DEVICES["cpu"]
    monkeypatch.setitem(table.DEVICES, "cpu", dataclasses.replace(row, precisions=("fp32", "bf16", "fp16")))


@pytest.mark.usefixtures("fp16_everywhere", "exact_products")
@pytest.mark.parametrize(
    ("dtype", "optimizer", "options"),
    [
        ("fp32", "sgd", {"width": 1.0}),
        ("fp32", "adam", {}),
        ("fp32", "adam", {"head": "sampled"}),
        ("fp32", "muon", {}),
        ("bf16", "sgd", {"width": 1.0}),
        ("bf16", "muon", {}),
        ("fp16", "sgd", {}),
        ("fp16", "adam", {}),
        ("fp16", "sgd", {"head": "sampled"}),
    ],
)
def test_training_equals_the_cpu(device_name, dtype, optimizer, options):
    options = {"optimizer": optimizer, "clip_grad_norm": 5.0, **options}
    with start("cpu", dtype) as cpu:
        expected = train(cpu, **options)
    with start(device_name, dtype) as device:
        found = train(device, **options)
    tolerance = TOLERANCE[dtype] if device_name == "cuda" else 0.0
    assert found.losses == pytest.approx(expected.losses, abs=tolerance, rel=0) and found.losses[0] > 1
    for name, value in expected.state.items():
        torch.testing.assert_close(
            found.state[name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_sixteen_bits_train_to_a_loss_near_that_of_float32(device_name):
    """The comparison above would not see an autocast that does nothing on both sides."""
    losses = {}
    for dtype in ("fp32", "bf16", *(["fp16"] if device_name != "cpu" else [])):
        with start(device_name, dtype) as device:
            losses[dtype] = train(device, optimizer="adam", steps=10).losses
            assert losses[dtype][-1] < 0.8 * losses[dtype][0]
    for dtype in losses.keys() - {"fp32"}:
        assert losses[dtype] != losses["fp32"] and losses[dtype] == pytest.approx(losses["fp32"], rel=0.1)


def test_the_work_is_done_on_the_device(simulated):
    with start("sdaa") as device:
        trainer = make_trainer(device, optimizer="adam", log_every=100, width=0.25)
        trainer.train_epoch(batches(1), Progress())
        simulated.count_ops(True)
        trainer.train_epoch(batches(2), Progress(step=1))
    ran = simulated.op_counts()
    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in trainer.embedder.modules())
    norms = sum(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in trainer.embedder.modules())
    assert (convolutions, norms) == (27, 28)
    assert ran["aten::convolution_overrideable"] == ran["aten::convolution_backward_overrideable"] == 2 * convolutions
    assert ran["aten::native_batch_norm"] == ran["aten::native_batch_norm_backward"] == 2 * norms
    assert (
        ran["aten::nll_loss_forward.output"] == ran["aten::argmin.out"] == 2
    )  # the softmax head; the triplets' hardest negatives
    parameters = len(list(trainer.bare_module.parameters()))
    assert ran["aten::addcdiv.out"] == 2 * parameters  # Adam


@pytest.mark.parametrize(
    ("dtype", "head"), [("fp32", "whole"), ("bf16", "whole"), ("fp16", "whole"), ("fp32", "sampled")]
)
def test_nothing_waits_for_the_device_between_log_points(device_name, dtype, head, request):
    """fp16: torch's scaler asks once a step whether a gradient overflowed."""
    if device_name == "cpu":
        pytest.skip("nothing waits for a cpu")
    with start(device_name, dtype) as device:
        trainer = make_trainer(device, optimizer="adam", log_every=100, clip_grad_norm=1.0, head=head)
        trainer.train_epoch(batches(1), Progress())  # what is made once
        ready, steps = list(batches(3)), 3
        if device_name == "cuda":
            if dtype == "fp16":
                pytest.skip("torch's scaler reads an overflow flag each step")
            torch.cuda.set_sync_debug_mode("error")
            try:
                run_steps(trainer, ready)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            return
        simulated = request.getfixturevalue("simulated")
        simulated.count_ops(True)
        run_steps(trainer, ready)
        ran = simulated.op_counts()
    assert ran["aten::convolution_overrideable"] == 5 * steps
    assert ran["to device"] == 2 * steps  # images and labels
    reads = {name: ran.get(name, 0) for name in ("to host", "_local_scalar_dense", "synchronize")}
    assert reads == {"to host": 0, "_local_scalar_dense": steps if dtype == "fp16" else 0, "synchronize": 0}


def test_batches_copied_ahead_are_the_same_in_order(device_name):
    with start(device_name) as device:
        ready = list(batches(4))
        found = list(device.ahead(iter(ready), moved))
        assert len(found) == 4
        for one, two in zip(found, ready, strict=True):
            assert torch.equal(one.images.cpu(), two.images) and torch.equal(one.labels.cpu(), two.labels)


def run_steps(trainer, ready):
    for batch in ready:
        trainer.step(batch, Progress(step=1))


def test_the_scaler_leaves_out_a_step_that_overflows(device_name):
    if device_name == "cpu":
        pytest.skip("a cpu trains without a loss scale")
    with start(device_name, "fp16", init_scale=2.0**30, growth_interval=1) as device:
        trainer = make_trainer(device, optimizer="adam")
        before = [parameter.detach().clone() for parameter in trainer.bare_module.parameters()]

        def moved():
            return any(not torch.equal(a, b) for a, b in zip(before, trainer.bare_module.parameters(), strict=True))

        trainer.train_epoch(batches(1), Progress())
        assert device.scaler.get_scale() == 2.0**29 and not moved() and not trainer.optimizer.state_dict()["state"]
        steps = 1
        while not moved():
            trainer.train_epoch(batches(1), Progress(step=steps))
            steps += 1
            assert steps < 30
        taken = 1  # with a growth interval of one step, it doubled the scale; each step left out had halved it
        assert device.scaler.get_scale() == 2.0 ** (30 - (steps - taken) + taken)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_spelling_that_trains_in_float32_is_found(device_name, dtype, monkeypatch):
    """The wrong device's name in autocast is a warning to torch, no error."""
    if device_name == "cpu" and dtype == "fp16":
        pytest.skip("a cpu is refused before")
    wrong = {"cuda": "cpu"}.get(device_name, "cuda")
    if wrong == "cuda" and torch.cuda.is_available():
        pytest.skip("with a GPU here that spelling is no mistake to torch")
    monkeypatch.setattr(
        accelerators, "spellings", lambda *_: iter([lambda **options: torch.autocast(wrong, **options)])
    )
    said = rf"precision={dtype}: {device_name} computes in torch\.float32; set precision=fp32"
    with warnings.catch_warnings(), pytest.raises(UserError, match=said):
        warnings.simplefilter("ignore")
        with start(device_name, dtype):
            raise AssertionError("must not start")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_every_spelling_of_mixed_precision_works(simulated, dtype):
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    found = list(accelerators.spellings("sdaa", "autocast"))
    assert len(found) == 3  # torch.autocast, torch.sdaa.amp.autocast, torch_sdaa.amp.autocast
    for spelling in found:
        with spelling(dtype=wanted):
            assert (torch.ones(2, 2, device="sdaa") @ torch.ones(2, 2, device="sdaa")).dtype == wanted
    scalers = [spelling(init_scale=8.0) for spelling in accelerators.spellings("sdaa", "GradScaler")]
    assert [scaler.scale(torch.ones(1, device="sdaa")).item() for scaler in scalers] == [8.0] * 3


def test_a_precision_that_the_plugin_lacks_is_refused(simulated, monkeypatch):
    monkeypatch.setattr(torch.sdaa, "get_amp_supported_dtype", lambda: [torch.float16])
    with start("sdaa", "fp16"):
        pass
    with (
        pytest.warns(UserWarning, match="target dtype is not supported"),
        pytest.raises(UserError, match=r"precision=bf16: sdaa computes in torch\.float32; set precision=fp32"),
        start("sdaa", "bf16"),
    ):
        raise AssertionError("must not start")


def test_fresh_memory_holds_nothing_that_training_may_count_on(simulated):
    """What is not written reads NaN on the stand-in, so that equal results above mean that nobody reads it."""
    assert (
        torch.empty(1000, device="sdaa").isnan().all()
        and torch.empty(4, 4, device="sdaa", dtype=torch.float16).isnan().all()
    )


def test_an_operation_that_the_device_lacks_is_named(simulated):
    with start("sdaa") as device:
        trainer = make_trainer(device)
        simulated.block_ops(["aten::native_batch_norm"])
        with pytest.raises(NotImplementedError, match="Could not run 'aten::native_batch_norm'.*'sdaa'"):
            trainer.train_epoch(batches(1), Progress())
