from __future__ import annotations

import math
import re
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from facenet.data.layout import Layout
from facenet.errors import UserError
from facenet.losses.triplet import TripletLoss

GOLDEN = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0.1], [0.9, 0.1, 0], [1, 0, 0.2]]


def layout_of(triplets: bool) -> Layout:
    return Layout("triplet" if triplets else "shuffle")


def value(
    loss: TripletLoss, rows: torch.Tensor, labels: torch.Tensor, *, triplets: bool
) -> tuple[float, dict[str, float]]:
    loss.layout = layout_of(triplets)
    total, figures = loss(rows, rows, labels)
    return total.item(), {name: figure.item() for name, figure in figures.items()}


def naive(
    rows: torch.Tensor, triplets: list[tuple[int, int, int]], margin: float, squared: bool
) -> tuple[float, dict[str, float]]:
    """The same loss and figures, one triplet after the other in Python numbers."""
    power = 2 if squared else 1
    pulls = [math.dist(rows[a].tolist(), rows[p].tolist()) ** power for a, p, _ in triplets]
    pushes = [math.dist(rows[a].tolist(), rows[n].tolist()) ** power for a, _, n in triplets]
    violations = [pull - push + margin for pull, push in zip(pulls, pushes, strict=True) if pull - push + margin > 0]
    count = max(1, len(triplets))
    return sum(violations) / max(1, len(violations)), {
        "active": len(violations) / count,
        "positive_distance": sum(pulls) / count,
        "negative_distance": sum(pushes) / count,
    }


def test_golden_value_of_the_reference() -> None:
    rows = functional.normalize(torch.tensor(GOLDEN))
    loss, figures = value(TripletLoss(), rows, torch.tensor([0, 1, 0, 1, 2, 2]), triplets=True)
    assert loss == pytest.approx(0.854766, abs=1e-6)
    assert figures["active"] == 0.5
    assert figures["positive_distance"] == pytest.approx((0.765367 + 0.099627) / 2, abs=1e-6)
    assert figures["negative_distance"] == pytest.approx((0.110601 + 1.414214) / 2, abs=1e-6)


@pytest.mark.parametrize("distance", ["l2", "squared_l2"])
@pytest.mark.parametrize("seed", range(4))
def test_given_triplets_agree_with_a_loop(distance: Literal["l2", "squared_l2"], seed: int) -> None:
    rows = functional.normalize(torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    loss, figures = value(TripletLoss(distance=distance), rows, torch.zeros(30), triplets=True)
    expected = naive(rows, [(i, i + 10, i + 20) for i in range(10)], 0.2, distance == "squared_l2")
    assert loss == pytest.approx(expected[0])
    assert figures == pytest.approx(expected[1])
    assert 0 < figures["active"] < 1


@pytest.mark.parametrize("distance", ["l2", "squared_l2"])
@pytest.mark.parametrize("seed", range(4))
def test_batch_hard_agrees_with_a_loop(distance: Literal["l2", "squared_l2"], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = functional.normalize(torch.randn(21, 4, dtype=torch.float64, generator=generator))
    labels = torch.randint(0, 7, (21,), generator=generator)
    triplets = []
    for a in range(21):
        positives = [i for i in range(21) if i != a and labels[i] == labels[a]]
        negatives = [i for i in range(21) if labels[i] != labels[a]]
        if positives:
            far = max(positives, key=lambda i: math.dist(rows[a].tolist(), rows[i].tolist()))
            near = min(negatives, key=lambda i: math.dist(rows[a].tolist(), rows[i].tolist()))
            triplets.append((a, far, near))
    loss, figures = value(TripletLoss(margin=0.5, distance=distance), rows, labels, triplets=False)
    expected = naive(rows, triplets, 0.5, distance == "squared_l2")
    assert loss == pytest.approx(expected[0])
    assert figures == pytest.approx(expected[1])


def test_mining_says_which_triplets_are_taken() -> None:
    rows = torch.tensor([[0.0], [5.0], [1.0], [6.0], [10.0], [3.0]])
    labels = torch.tensor([0, 1, 0, 1, 1, 0])  # thirds: (0, 1, 10) and (5, 6, 3)
    given = naive(rows, [(0, 2, 4), (1, 3, 5)], 2.0, False)
    mined = naive(rows, [(0, 5, 1), (1, 4, 5), (2, 5, 1), (3, 4, 5), (4, 1, 5), (5, 0, 1)], 2.0, False)
    for mining, triplets, expected in [
        ("auto", True, given),
        ("auto", False, mined),
        ("given", True, given),
        ("batch_hard", True, mined),
        ("batch_hard", False, mined),
    ]:
        loss, figures = value(TripletLoss(margin=2.0, mining=mining), rows, labels, triplets=triplets)  # type: ignore[arg-type]
        assert loss == pytest.approx(expected[0])
        assert figures == pytest.approx(expected[1])


@pytest.mark.parametrize("triplets", [True, False])
def test_the_gradient_is_the_numeric_one(triplets: bool) -> None:
    rows = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])
    loss = TripletLoss(margin=3.0)
    loss.layout = layout_of(triplets)
    assert torch.autograd.gradcheck(lambda rows: loss(rows, rows, labels)[0], rows)


@pytest.mark.parametrize("triplets", [True, False])
@pytest.mark.parametrize("distance", ["l2", "squared_l2"])
@pytest.mark.parametrize("margin", [0.0, 0.2, 9.0])  # inactive and active triplets
def test_the_gradient_is_finite_where_embeddings_coincide(
    triplets: bool, distance: Literal["l2", "squared_l2"], margin: float
) -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    term = TripletLoss(margin=margin, distance=distance)
    term.layout = layout_of(triplets)
    loss, _ = term(rows, rows, torch.tensor([0, 1, 0, 1, 2, 2]))
    loss.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_without_an_active_triplet_loss_and_gradient_are_zero() -> None:
    rows = torch.tensor([[0.0], [0.1], [5.0]], requires_grad=True)
    loss, figures = TripletLoss(mining="given")(rows, rows, torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert figures["active"] == 0
    assert rows.grad is not None
    assert rows.grad.tolist() == [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_any_triplet_gives_zeros(labels: list[int]) -> None:
    rows = torch.rand(3, 2, requires_grad=True)
    loss, figures = TripletLoss(margin=9.0)(rows, rows, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert {figure.item() for figure in figures.values()} == {0.0}
    assert rows.grad is not None
    assert not rows.grad.any()


@pytest.mark.parametrize("triplets", [True, False])
def test_a_nan_embedding_shows_in_the_loss(triplets: bool) -> None:
    rows = functional.normalize(torch.tensor(GOLDEN))
    rows[0] = torch.nan
    loss = TripletLoss()
    loss.layout = layout_of(triplets)
    assert loss(rows, rows, torch.tensor([0, 1, 0, 1, 2, 2]))[0].isnan()


@pytest.mark.parametrize(
    ("mining", "fits", "told"),
    [
        (
            "given",
            {"triplet"},
            "mining=given needs batches of triplets, and shuffle .*set sampler=triplet, or key.mining=batch_hard",
        ),
        (
            "semi_hard",
            {"pk"},
            "this mining needs several images .* shuffle batches do not .*sampler=identity, or key.mining=auto",
        ),
        ("auto", {"triplet", "pk", "shuffle"}, None),
    ],
)
def test_a_term_says_which_layouts_it_can_use(mining: Any, fits: set[str], told: str | None) -> None:
    loss, layouts = TripletLoss(mining=mining), [Layout("triplet"), Layout("pk", 4), Layout("shuffle")]
    reasons = {layout.kind: loss.misfit(layout, "key") for layout in layouts}
    assert {kind for kind, reason in reasons.items() if reason is None} == fits
    assert told is None or re.search(told, reasons["shuffle"] or "")
    assert [layout.multiple for layout in layouts] == [3, 4, 1]


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(UserError, match="margin"):
        TripletLoss(margin=-0.1)
