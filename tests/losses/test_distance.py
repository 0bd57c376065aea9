from __future__ import annotations

import torch

from facenet.losses.distance import l2, sqrt_finite, squared_l2


def test_distances_of_points_placed_by_hand() -> None:
    left, right = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert l2(left, right).tolist() == [5.0, 0.0]
    assert squared_l2(left, right).tolist() == [25.0, 0.0]


def test_l2_has_the_numeric_gradient_away_from_zero() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(l2, (left.requires_grad_(), right.requires_grad_()))


def test_l2_has_zero_gradient_at_exactly_zero() -> None:
    left = torch.tensor([[0.6, 0.8], [1.0, 0.0]], requires_grad=True)
    l2(left, torch.tensor([[0.6, 0.8], [0.0, 0.0]])).sum().backward()
    assert left.grad is not None
    assert left.grad.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_sqrt_keeps_a_nan() -> None:
    assert sqrt_finite(torch.tensor([torch.nan, 4.0])).isnan().tolist() == [True, False]
