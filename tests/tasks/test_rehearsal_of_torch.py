"""Whatever schedule or optimizer of torch a config names: it is played as it will run, or refused in one line."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler

from facenet.data.transforms import Augment
from facenet.engine.schedule import TorchSchedule
from facenet.errors import UserError
from facenet.tasks.rehearsal import check_rates, trial

STEPS = 40


def started(scheduler, *, lr=0.1, every="step"):
    schedule = TorchSchedule(scheduler=scheduler, every=every)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.9)
    schedule.start(optimizer, batch_size=12, steps_per_epoch=4, epochs=STEPS // 4)
    return schedule


def partial(name, **options):
    return functools.partial(getattr(lr_scheduler, name), **options)


def test_a_warm_up_before_a_cosine_is_a_schedule():
    parts = [
        partial("LinearLR", start_factor=0.1, total_iters=5),
        partial("CosineAnnealingLR", T_max=STEPS - 5, eta_min=0.01),
    ]
    schedule = started(partial("SequentialLR", schedulers=parts, milestones=[5]))
    check_rates(schedule, steps=STEPS)
    assert [round(schedule.lr_at(step), 4) for step in (0, 4, 5, STEPS)] == [0.01, 0.082, 0.1, 0.01]
    assert schedule.lr_at(4) == pytest.approx(0.082)  # an earlier step again


def test_schedules_are_multiplied():
    parts = [partial("ConstantLR", factor=0.5, total_iters=2), partial("ExponentialLR", gamma=0.9)]
    schedule = started(partial("ChainedScheduler", schedulers=parts))
    assert [schedule.lr_at(step) for step in range(4)] == pytest.approx([0.05, 0.045, 0.081, 0.0729])


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (partial("SequentialLR", schedulers=[partial("CosineAnnealingLR")], milestones=[]), "'T_max'"),
        (partial("ChainedScheduler", schedulers=[None]), "refuses its options"),
        (partial("LRScheduler"), "LRScheduler refuses its options over 40 steps: NotImplementedError"),
        (partial("ConstantLR", factor=1e-9, total_iters=10**6), "1e-10 at most.*set schedule.scheduler.total_iters=40"),
        (partial("LinearLR", start_factor=1e-9, total_iters=10**9), "at most, below 1e-06 of optimizer.lr=0.1"),
        (partial("LinearLR", end_factor=0.0), "from step 5 of 40 on the lr is below"),  # where rounding leaves -1e-20
    ],
)
def test_a_schedule_that_cannot_teach_is_refused(scheduler, told):
    with pytest.raises(UserError, match=told):
        check_rates(started(scheduler), steps=STEPS)


def test_schedules_that_touch_zero_are_played():
    for scheduler, step in (
        (partial("CosineAnnealingLR", T_max=5), 5),
        (partial("CyclicLR", base_lr=0.0, max_lr=0.1), 0),
    ):
        check_rates(schedule := started(scheduler), steps=STEPS)
        assert schedule.lr_at(step) == pytest.approx(0, abs=1e-12) and schedule.lr_at(step + 1) > 0
    check_rates(schedule := started(partial("LinearLR", start_factor=1e-4, total_iters=10 * STEPS)), steps=STEPS)
    assert schedule.lr_at(0) == pytest.approx(1e-5)


def adam(**options):
    return functools.partial(torch.optim.Adam, lr=1e-3, **options)


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        (adam(differentiable=True), "optimizer.differentiable=true"),
        (adam(foreach=True, fused=True), "optimizer.foreach"),
        (adam(capturable=True), "optimizer.capturable=True: Adam cannot step"),
        (functools.partial(torch.optim.RMSprop, lr=1e-3, alpha=1.0), "optimizer.alpha=1"),
        (functools.partial(torch.optim.SparseAdam, lr=1e-3), "optimizer: SparseAdam cannot step"),
    ],
)
def test_an_optimizer_that_could_not_step_here_is_refused(optimizer, told):
    with pytest.raises(UserError, match=told):
        trial(optimizer)


@pytest.mark.parametrize("name", ["Adafactor", "ASGD", "Rprop", "NAdam", "RAdam", "Adamax", "Adadelta"])
def test_optimizers_of_torch_are_tried(name):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    assert moved(trial(functools.partial(getattr(torch.optim, name), lr=1e-3)))


def moved(optimizer):
    """From ones, by its step."""
    return all((weight < 1).all() for group in optimizer.param_groups for weight in group["params"])


def test_options_of_another_device_are_left_to_it():
    assert moved(trial(adam(capturable=True), on_host=False))
    assert moved(trial(functools.partial(torch.optim.ASGD, lr=1e-3, alpha=1.0)))  # a power there, no share
    assert moved(trial(adam(foreach=True)))


@pytest.mark.parametrize("wrong", [None, ["x"], "flip", 3])
def test_what_is_no_transform_is_named(wrong):
    with pytest.raises(UserError, match=r"augment.pipeline.0: expected a transform of albumentations, got "):
        Augment(pipeline=[wrong])
    assert Augment(pipeline=None).pipeline == []


def test_the_precision_has_a_scale_above_0():
    from facenet.devices.table import Precision

    for options in ({"init_scale": 0.0}, {"init_scale": -1.0}, {"growth_interval": 0}):
        with pytest.raises(UserError, match=f"precision.{next(iter(options))}: expected a number above 0"):
            Precision(dtype="fp16", **options)
    assert Precision(dtype="fp16", init_scale=0.5).init_scale == 0.5


def test_a_rank_whose_peer_failed_leaves_the_telling_to_it(monkeypatch: pytest.MonkeyPatch):
    from facenet.commands import torchrun
    from facenet.launch.failure import Failure

    monkeypatch.setattr(torchrun, "FAREWELL_S", 0.3)
    own, mistake = Failure.of(1, RuntimeError("connection closed by peer")), Failure.of(0, UserError("disk full"))
    told = SimpleNamespace(found=[own])
    monkeypatch.setattr(torchrun, "failures", lambda group: group.found)
    assert torchrun.cause_elsewhere(told, own) is None  # nobody else: its own traceback is what there is
    told.found.append(mistake)
    assert torchrun.cause_elsewhere(told, own) == mistake
    told.found[1] = Failure.of(0, UserError(f"rank 1:\n{own.text}"))  # no more than this rank's own, out of memory say
    assert torchrun.cause_elsewhere(told, own) is None
