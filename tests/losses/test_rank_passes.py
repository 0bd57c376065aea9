"""Against the definition, with all N^3 triplets in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from facenet.losses.mining import positives_in_groups, positives_of
from facenet.losses.rank_passes import MinedLoss, batch_all, semi_hard

KINDS = [batch_all, semi_hard]


def naive(
    rows: torch.Tensor, labels: torch.Tensor, margin: float, squared: bool, semi: bool
) -> tuple[torch.Tensor, int, int]:
    distance = (rows[:, None] - rows).square().sum(2)
    if not squared:
        distance = (distance + torch.eye(len(rows), dtype=rows.dtype)).sqrt()
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(rows), dtype=torch.bool)
    triplets = positive[:, :, None] & ~same[:, None, :]
    violation = distance[:, :, None] - distance[:, None, :] + margin
    active = triplets & (violation > 0)
    if semi:
        active &= violation < margin
    return violation[active].sum() / active.sum().clamp_min(1), int(active.sum()), int(triplets.sum())


@pytest.mark.parametrize("mine", KINDS)
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_loss_counts_and_gradient_are_those_of_the_definition(
    mine: Callable[..., MinedLoss], squared: bool, grouped: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(12).repeat_interleave(4) if grouped else torch.randint(0, 14, (48,), generator=generator)
    positives = positives_in_groups(48, 4, torch.device("cpu")) if grouped else positives_of(labels, most=len(labels))
    rows = functional.normalize(torch.randn(48, 6, dtype=torch.float64, generator=generator)).requires_grad_()
    expected, num_active, num_triplets = naive(rows, labels, 0.2, squared, mine is semi_hard)
    found = mine(rows, positives, margin=0.2, squared=squared, chunk=10)
    assert (int(found.num_active), int(found.num_triplets)) == (num_active, num_triplets) and num_active > 100
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    (wanted,) = torch.autograd.grad(expected, rows)
    (gradient,) = torch.autograd.grad(3 * found.loss, rows)
    torch.testing.assert_close(gradient, 3 * wanted, rtol=1e-9, atol=1e-12)
    single = mine(rows.detach().float(), positives, margin=0.2, squared=squared)
    assert single.loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("mine", KINDS)
@pytest.mark.parametrize("squared", [True, False])
def test_the_gradient_is_the_numeric_one(mine: Callable[..., MinedLoss], squared: bool) -> None:
    rows = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    positives = positives_in_groups(12, 3, torch.device("cpu"))
    assert torch.autograd.gradcheck(lambda rows: mine(rows, positives, margin=0.7, squared=squared, chunk=5).loss, rows)


def test_points_on_a_line() -> None:
    rows = torch.tensor([[0.0], [1.0], [1.5], [4.0]])  # identities 0 0 1 1, margin 1
    positives = positives_in_groups(4, 2, torch.device("cpu"))
    # violations: (0,1,2) 0.5, (1,0,2) 1.5, (2,3,0) 2, (2,3,1) 3, (3,2,1) 0.5; the first and the last are semi-hard
    every = batch_all(rows, positives, margin=1.0, squared=False)
    assert (every.loss.item(), int(every.num_active), int(every.num_triplets)) == (pytest.approx(7.5 / 5), 5, 8)
    some = semi_hard(rows, positives, margin=1.0, squared=False)
    assert (some.loss.item(), int(some.num_active)) == (pytest.approx(0.5), 2)


@pytest.mark.parametrize("mine", KINDS)
def test_rows_that_coincide_and_batches_without_triplets(mine: Callable[..., MinedLoss]) -> None:
    rows = torch.ones(6, 2, requires_grad=True)
    found = mine(rows, positives_in_groups(6, 3, torch.device("cpu")), margin=0.2, squared=False)
    (gradient,) = torch.autograd.grad(found.loss, rows)
    assert torch.isfinite(gradient).all()
    for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):
        found = mine(rows, positives_of(labels, most=len(labels)), margin=0.2, squared=False)
        assert (found.loss.item(), int(found.num_active), int(found.num_triplets)) == (0, 0, 0)
        assert not torch.autograd.grad(found.loss, rows)[0].any()


@pytest.mark.parametrize("mine", KINDS)
def test_a_nan_reaches_the_loss(mine: Callable[..., MinedLoss]) -> None:
    rows = torch.randn(8, 3).index_fill(0, torch.tensor([3]), torch.nan)
    assert mine(rows, positives_in_groups(8, 2, torch.device("cpu")), margin=0.2, squared=True).loss.isnan()
