"""Muon: orthogonal directions for matrices, AdamW to the last digit for the rest."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from facenet.engine.muon import Muon, is_matrix, orthogonalise
from facenet.errors import UserError


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (40, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix, torch.float32)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    diagonal = u.mT @ result @ vh.mT  # the same singular vectors: nothing beside the diagonal
    assert torch.allclose(diagonal, torch.diag(diagonal.diagonal()), atol=1e-4)
    assert (diagonal.diagonal() > 0).all()


def test_bfloat16_agrees_with_float32() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 128)
    exact, rough = orthogonalise(matrix, torch.float32), orthogonalise(matrix, torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (exact * rough).sum() / exact.norm() / rough.norm() > 0.999


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_made_finite(value: float) -> None:
    matrix = torch.ones(6, 9)
    matrix[2, 3] = value
    assert orthogonalise(matrix, torch.float32).isnan().all()


def test_no_gradient_is_no_direction() -> None:
    assert orthogonalise(torch.zeros(6, 9), torch.float32).abs().max() == 0


def test_first_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, -0.5]]))
    weight.grad = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5, bf16=False)
    before = weight.detach().clone()
    direction = orthogonalise(weight.grad, torch.float32)  # only the direction of the momentum matters
    optimizer.step()
    assert torch.allclose(weight.detach(), before * (1 - 0.1 * 0.5) - 0.1 * direction, atol=1e-6)


@pytest.mark.parametrize(("bf16", "dtype"), [("auto", torch.float32), (True, torch.bfloat16), (False, torch.float32)])
def test_the_type_of_a_step(bf16: Literal["auto"] | bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(4, 6))
    weight.grad = torch.randn(4, 6)
    Muon([weight], lr=1.0, momentum=0.0, bf16=bf16).step()
    assert torch.allclose(-weight.detach(), orthogonalise(weight.grad, dtype), atol=1e-6)


def test_the_rest_is_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(7)), nn.Parameter(torch.empty(7))
    theirs.data = ours.data.clone()
    optimizer = Muon([ours], adamw_lr=0.01, weight_decay=0.1, betas=[0.8, 0.99])
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0, betas=(0.8, 0.99))
    for _ in range(5):
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_which_parameters_are_matrices() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
    )
    matrices = [name for name, parameter in network.named_parameters() if is_matrix(parameter)]
    assert matrices == ["2.weight", "4.weight"]
    groups = Muon(network.parameters(), lr=0.5, adamw_lr=0.25).param_groups
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.5, 2), (0.25, 8)]


def test_state_round_trip_continues_exactly() -> None:
    def steps(optimizer: Muon, parameters: list[nn.Parameter], seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    first = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(5))]
    optimizer = Muon(first)
    steps(optimizer, first, range(3))
    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    resumed = Muon(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, first, range(3, 5))
    steps(resumed, second, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_wrong_values_are_refused() -> None:
    with pytest.raises(UserError, match="momentum 1"):
        Muon([nn.Parameter(torch.ones(2, 2))], momentum=1.0)
