from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from facenet.engine.schedule import (
    Constant,
    EffectiveLr,
    ReferenceCosine,
    ReferenceStep,
    Schedule,
    TorchSchedule,
    WarmupCosine,
)
from facenet.errors import UserError

ADAM, SGD = [3e-4, 1e-3], [5e-4, 1e-1]
CONF = Path(__file__).parents[2] / "conf"


def adam(*lrs: float) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs])


def started(schedule: Schedule, *, lr: float = 1e-3, batch_size: int = 96, steps: int = 1, epochs: int) -> Schedule:
    schedule.start(adam(lr), batch_size=batch_size, steps_per_epoch=steps, epochs=epochs)
    return schedule


def set_by(schedule: Schedule, num_steps: int) -> list[float]:
    """The lr that the optimizer holds at each step."""
    seen = []
    for step in range(num_steps):
        schedule.step(step)
        seen.append(schedule.optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.parametrize(
    ("batch_size", "base_lr", "lr", "clipped"),
    [
        (96, 1e-3, 1e-3, True),
        (30, 3e-5, 3e-4, True),
        (96, 3e-5, 3e-4, True),
        (96, 1e-4, 3e-4, True),
        (12, 1e-3, 3e-4, True),
        (30, 1e-3, 4.6875e-4, False),
        (384, 1e-3, 1e-3, True),
    ],
)
def test_batch_rule_gives_the_printed_values(batch_size: int, base_lr: float, lr: float, clipped: bool) -> None:
    found = ReferenceCosine(lr_limits=ADAM).effective(base_lr, batch_size)
    assert [found.lr, found.min_lr] == pytest.approx([lr, lr * 0.01])
    assert found.clipped == clipped == ("clipped" in found.note)


def test_batch_rule_under_the_limits_of_sgd() -> None:
    schedule = ReferenceStep(lr_limits=SGD)
    assert schedule.effective(1e-2, 96).lr == pytest.approx(0.015)
    assert schedule.effective(1.0, 96).lr == 0.1
    assert schedule.effective(1e-5, 96).lr == 5e-4


def test_the_note_names_the_numbers_and_the_switch() -> None:
    assert ReferenceCosine(lr_limits=ADAM).effective(3e-5, 96).note == (
        "lr 3e-05 x batch 96 / 64 = 4.5e-05, clipped to 0.0003 by schedule.lr_limits [0.0003, 0.001]; "
        "schedule.batch_rule=false keeps 3e-05"
    )


def test_without_the_batch_rule_the_lr_stays() -> None:
    schedule = ReferenceCosine(lr_limits=ADAM, batch_rule=False)
    assert schedule.effective(3e-5, 96) == EffectiveLr(3e-5, 3e-5 * 0.01)
    assert max(set_by(started(schedule, lr=3e-5, epochs=14), 14)) == pytest.approx(3e-5, rel=0.02)


def test_reference_cosine_over_14_epochs() -> None:
    printed = [1e-4, 5.59e-4, 9.88e-4, 9.14e-4, 7.84e-4, 6.15e-4, 4.31e-4, 2.57e-4, 1.18e-4, 3.2e-5, *[1e-5] * 4]
    seen = set_by(started(ReferenceCosine(lr_limits=ADAM), epochs=14), 14)
    assert seen == pytest.approx(printed, rel=0.005)
    assert seen[10:] == pytest.approx([1e-5] * 4)


def test_reference_cosine_over_100_epochs_is_constant_within_an_epoch() -> None:
    seen = set_by(started(ReferenceCosine(lr_limits=ADAM), steps=3, epochs=100), 300)
    assert seen[0::3] == seen[1::3] == seen[2::3]
    assert seen[0:12:3] == pytest.approx([1e-4, 2e-4, 5e-4, 1e-3])
    assert seen[85 * 3 :] == pytest.approx([1e-5] * 45)
    assert seen[84 * 3] > 1e-5
    assert all(a > b for a, b in itertools.pairwise(seen[3 * 3 : 86 * 3 : 3]))


@pytest.mark.parametrize(("epochs", "lrs"), [(1, [1e-4]), (2, [1e-4, 1e-3]), (3, [1e-4, 1e-3, 1e-5])])
def test_reference_cosine_over_a_few_epochs_warms_up_first(epochs: int, lrs: list[float]) -> None:
    assert set_by(started(ReferenceCosine(lr_limits=ADAM), epochs=epochs), epochs) == pytest.approx(lrs)


def test_reference_step_falls_by_one_factor_in_ten_steps() -> None:
    seen = set_by(started(ReferenceStep(lr_limits=ADAM), epochs=20), 20)
    factor = 0.01 ** (1 / 9)
    assert seen == pytest.approx([1e-3 * factor ** (epoch // 2) for epoch in range(20)])
    assert seen[-1] == pytest.approx(1e-5)


def test_reference_step_refuses_fewer_than_ten_epochs() -> None:
    with pytest.raises(UserError, match=r"trainer\.epochs is 9"):
        started(ReferenceStep(lr_limits=ADAM), epochs=9)
    assert len(set_by(started(ReferenceStep(lr_limits=ADAM), epochs=10), 10)) == 10


def test_warmup_cosine_meets_its_corners() -> None:
    schedule = WarmupCosine(warmup_epochs=1.5, min_lr_ratio=0.01, start_lr_ratio=0.1)
    seen = set_by(started(schedule, lr=1.0, steps=10, epochs=6), 60)
    assert seen[:16] == pytest.approx([0.1 + 0.9 * step / 15 for step in range(16)])  # a line, at its top at step 15
    assert seen[37] == pytest.approx(0.505)  # half way down between 15 and 59
    assert seen[-1] == pytest.approx(0.01)
    assert schedule.lr_at(75) == pytest.approx(0.01)
    assert schedule.effective(1.0, 96) == EffectiveLr(1.0, 0.01)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.0])
def test_warmup_cosine_survives_one_step(warmup_epochs: float) -> None:
    schedule = WarmupCosine(warmup_epochs=warmup_epochs, min_lr_ratio=0.0, start_lr_ratio=0.5)
    assert set_by(started(schedule, lr=1.0, epochs=1), 1) == [1.0 if warmup_epochs == 0 else 0.5]


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.warmup_epochs: 5 is more than the whole run of 3"):
        started(WarmupCosine(warmup_epochs=5), epochs=3)


def test_constant_stays() -> None:
    assert set_by(started(Constant(), lr=0.3, epochs=4), 4) == [0.3] * 4


@pytest.mark.parametrize(
    ("scheduler", "every", "filled"),
    [
        (functools.partial(OneCycleLR), "step", {"max_lr": [1e-3, 1e-2], "total_steps": 20}),
        (functools.partial(OneCycleLR, cycle_momentum=False), "epoch", {"max_lr": [1e-3, 1e-2], "total_steps": 5}),
        (functools.partial(OneCycleLR, max_lr=0.5, epochs=5, steps_per_epoch=4), "step", {}),
        (functools.partial(CosineAnnealingLR, eta_min=1e-5), "step", {"T_max": 20}),
        (functools.partial(CosineAnnealingLR), "epoch", {"T_max": 5}),
        (functools.partial(CosineAnnealingLR, T_max=3), "epoch", {}),
        (functools.partial(CosineAnnealingWarmRestarts, T_0=3), "step", {}),
        (functools.partial(StepLR, step_size=2, gamma=0.5), "epoch", {}),
        (functools.partial(StepLR, step_size=7), "step", {}),
    ],
)
def test_a_torch_schedule_sets_what_torch_alone_would(
    scheduler: functools.partial[LRScheduler], every: Any, filled: dict[str, Any]
) -> None:
    alone = adam(1e-3, 1e-2)
    running = scheduler(alone, **filled)
    ours = adam(1e-3, 1e-2)
    schedule = TorchSchedule(scheduler=scheduler, every=every)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.start(ours, batch_size=96, steps_per_epoch=4, epochs=5)
        for step in range(20):
            schedule.step(step)
            for group, other in zip(ours.param_groups, alone.param_groups, strict=True):
                assert (group["lr"], group["betas"]) == (other["lr"], tuple(other["betas"]))
            assert schedule.lr_at(step) == ours.param_groups[0]["lr"]
            alone.step()
            if every == "step" or step % 4 == 3:
                running.step()


def test_a_torch_schedule_leaves_the_optimizers_other_state_alone() -> None:
    optimizer = adam(1e-3)
    before = set(optimizer.param_groups[0])
    schedule = TorchSchedule(scheduler=functools.partial(OneCycleLR))
    schedule.start(optimizer, batch_size=96, steps_per_epoch=4, epochs=5)
    schedule.step(3)
    assert set(optimizer.param_groups[0]) - before == {"initial_lr"}


@pytest.mark.parametrize("cycle", [{}, {"cycle_momentum": False}])
def test_one_cycle_moves_the_momentum_of_sgd_when_asked(cycle: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    schedule = TorchSchedule(scheduler=functools.partial(OneCycleLR, **cycle))
    schedule.start(optimizer, batch_size=96, steps_per_epoch=10, epochs=1)
    schedule.step(0)
    assert optimizer.param_groups[0]["momentum"] == (0.9 if cycle else 0.95)


def test_a_torch_schedule_that_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="ReduceLROnPlateau follows a metric"):
        TorchSchedule(scheduler=functools.partial(ReduceLROnPlateau))
    with pytest.raises(UserError, match="_partial_: true"):
        TorchSchedule(scheduler="StepLR")
    with pytest.raises(UserError, match=r"StepLR refuses its options .*step_size"):
        started(TorchSchedule(scheduler=functools.partial(StepLR)), epochs=3)
    with pytest.raises(UserError, match=r"OneCycleLR refuses its options .*pct_start"):
        started(TorchSchedule(scheduler=functools.partial(OneCycleLR, pct_start=2.0)), epochs=3)


def test_an_explicit_max_lr_is_told_in_the_plan() -> None:
    schedule = TorchSchedule(scheduler=functools.partial(OneCycleLR, max_lr=0.5))
    assert schedule.effective(1e-3, 96).lr == 0.5
    assert "0.5 stands in for optimizer.lr 0.001" in schedule.effective(1e-3, 96).note
    assert TorchSchedule(scheduler=functools.partial(OneCycleLR)).effective(1e-3, 96) == EffectiveLr(1e-3, None)


def every_schedule() -> dict[str, Schedule]:
    paths = sorted((CONF / "schedule").glob("*.yaml"))
    return {path.stem: instantiate(OmegaConf.load(path), _convert_="all") for path in paths}


@pytest.mark.parametrize("name", every_schedule())
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_configured_schedule_drives_every_configured_optimizer(name: str, optimizer: str) -> None:
    make = instantiate(OmegaConf.load(CONF / "optimizer" / f"{optimizer}.yaml"), _convert_="all")
    weights = torch.ones(3, requires_grad=True)
    built = make([weights])
    schedule = every_schedule()[name]
    schedule.start(built, batch_size=64, steps_per_epoch=3, epochs=12)
    for step in range(36):
        schedule.step(step)
        weights.square().sum().backward()
        built.step()
        built.zero_grad()
    assert 0 < built.param_groups[0]["lr"] <= 0.01
    assert weights.isfinite().all()


@pytest.mark.parametrize("name", every_schedule())
def test_groups_keep_their_ratio_or_their_limits(name: str) -> None:
    optimizer = adam(8e-4, 4e-4)
    schedule = every_schedule()[name]
    schedule.start(optimizer, batch_size=64, steps_per_epoch=3, epochs=12)
    for step in range(36):
        schedule.step(step)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(2 * second)


@pytest.mark.parametrize("name", every_schedule())
@pytest.mark.parametrize("start_first", [True, False])
def test_a_resumed_run_continues_the_curve(name: str, start_first: bool) -> None:
    whole = every_schedule()[name]
    whole.start(adam(1e-3), batch_size=64, steps_per_epoch=3, epochs=12)
    expected = set_by(whole, 36)
    whole.step(17)
    saved, optimizer, resumed = whole.optimizer.state_dict(), adam(1e-3), every_schedule()[name]
    if start_first:
        resumed.start(optimizer, batch_size=64, steps_per_epoch=3, epochs=12)
    optimizer.load_state_dict(saved)
    if not start_first:
        resumed.start(optimizer, batch_size=64, steps_per_epoch=3, epochs=12)
    resumed.load_state_dict(whole.state_dict())
    for step in range(18, 36):
        resumed.step(step)
        assert optimizer.param_groups[0]["lr"] == expected[step]
    assert [resumed.lr_at(step) for step in (35, 0, 20)] == [expected[step] for step in (35, 0, 20)]


@pytest.mark.parametrize("limits", [[], [1e-3], [1e-3, 3e-4], [0.0, 1e-3]])
def test_limits_that_make_no_range_are_refused(limits: list[float]) -> None:
    with pytest.raises(UserError, match=r"schedule\.lr_limits"):
        ReferenceCosine(lr_limits=limits)


def test_ratios_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.min_lr_ratio"):
        ReferenceCosine(lr_limits=ADAM, min_lr_ratio=2.0)
    with pytest.raises(UserError, match=r"schedule\.start_lr_ratio"):
        WarmupCosine(start_lr_ratio=-1.0)
    with pytest.raises(UserError, match=r"schedule\.warmup_epochs"):
        WarmupCosine(warmup_epochs=-1.0)
