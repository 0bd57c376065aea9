from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from facenet.errors import UserError
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.term import Term

Kind = Literal["arcface", "cosface"]


def batch(num_images: int = 6, size: int = 4, num_identities: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_images, size, dtype=torch.float64, generator=generator)
    return features, torch.randint(0, num_identities, (num_images,), generator=generator)


def started(head: Term, size: int = 4, num_identities: int = 5) -> Any:
    torch.manual_seed(11)
    head.start(embedding_size=size, num_identities=num_identities)
    return head.double()


def cross_entropy(logits: list[list[float]], labels: list[int], smoothing: float = 0.0) -> float:
    """Mean over rows of -sum(target * log softmax), in Python numbers."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(x - max(row)) for x in row)) + max(row)
        for i, x in enumerate(row):
            target = (1 - smoothing) * (i == label) + smoothing / len(row)
            total -= target * (x - log_sum)
    return total / len(labels)


def angles_to(weight: torch.Tensor, embedding: torch.Tensor) -> list[list[float]]:
    directions = functional.normalize(weight.detach())
    return [[math.acos(max(-1.0, min(1.0, float(e @ w)))) for w in directions] for e in embedding]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_is_cross_entropy_on_the_features(smoothing: float) -> None:
    features, labels = batch()
    head = started(SoftmaxHead(label_smoothing=smoothing))
    loss, figures = head(features, functional.normalize(features), labels)
    logits = (features @ head.weight.T + head.bias).tolist()
    assert loss.item() == pytest.approx(cross_entropy(logits, labels.tolist(), smoothing))
    hits = [max(range(5), key=row.__getitem__) == label for row, label in zip(logits, labels.tolist(), strict=True)]
    assert figures["accuracy"].item() == pytest.approx(sum(hits) / 6)


def test_softmax_starts_as_a_linear_layer() -> None:
    head = SoftmaxHead()
    torch.manual_seed(5)
    head.start(embedding_size=8, num_identities=3)
    torch.manual_seed(5)
    linear = torch.nn.Linear(8, 3)
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert torch.equal(head.weight, linear.weight)
    assert torch.equal(head.bias, linear.bias)


def naive_margin(kind: Kind, angle: float, margin: float) -> float:
    if kind == "cosface":
        return math.cos(angle) - margin
    if angle + margin <= math.pi:
        return math.cos(angle + margin)
    return math.cos(angle) - margin * math.sin(margin)


@pytest.mark.parametrize(("kind", "margin"), [("arcface", 0.5), ("cosface", 0.35), ("arcface", 0.0), ("cosface", 0.0)])
def test_margin_agrees_with_the_papers_formula(kind: Kind, margin: float) -> None:
    features, labels = batch()
    embedding = functional.normalize(features)
    head = started(MarginHead(kind=kind, scale=8.0, margin=margin))
    loss, figures = head(features, embedding, labels)
    angles = angles_to(head.weight, embedding)
    logits = [
        [8.0 * (naive_margin(kind, angle, margin) if i == label else math.cos(angle)) for i, angle in enumerate(row)]
        for row, label in zip(angles, labels.tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(cross_entropy(logits, labels.tolist()))
    nearest = [min(range(5), key=row.__getitem__) for row in angles]
    hits = [guess == label for guess, label in zip(nearest, labels.tolist(), strict=True)]
    assert figures["accuracy"].item() == pytest.approx(sum(hits) / 6)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_margin_over_all_angles_matches_and_never_rises(kind: Kind) -> None:
    angles = torch.linspace(0, math.pi, 181, dtype=torch.float64)  # past pi - 0.5 = 151.4 degrees too
    lowered = MarginHead(kind=kind, margin=0.5).with_margin(angles.cos()[:, None])[:, 0]
    assert lowered.tolist() == pytest.approx([naive_margin(kind, angle, 0.5) for angle in angles.tolist()], abs=1e-7)
    assert (lowered.diff() < 0).all()
    assert lowered.max() < 1


def test_the_margin_head_has_the_numeric_gradient() -> None:
    features, labels = batch()
    for kind in ("arcface", "cosface"):
        head = started(MarginHead(kind=kind, scale=4.0))
        assert torch.autograd.gradcheck(
            lambda rows, head=head: head(rows, functional.normalize(rows), labels)[0],
            features.requires_grad_(),
        )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_arcface_gradient_is_finite_at_angles_zero_and_pi(sign: float) -> None:
    head = MarginHead(kind="arcface")
    torch.manual_seed(0)
    head.start(embedding_size=16, num_identities=40)
    features = (
        sign * functional.normalize(head.weight.detach())
    ).requires_grad_()  # float32: cosines of 1 + 1e-7 occur
    loss, _ = head(features, functional.normalize(features), torch.arange(40))
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()


def test_the_margin_rises_over_the_first_training_batches_only() -> None:
    features, labels = batch()
    embedding = functional.normalize(features)
    head = started(MarginHead(kind="cosface", scale=4.0, margin=0.4, warmup_steps=4))
    fixed = [started(MarginHead(kind="cosface", scale=4.0, margin=m)) for m in (0.0, 0.1, 0.2, 0.3, 0.4)]
    expected = [other(features, embedding, labels)[0].item() for other in fixed]
    seen = [head(features, embedding, labels)[0].item() for _ in range(6)]
    assert seen == pytest.approx([*expected, expected[-1]])
    head.num_batches.fill_(2)
    head.eval()
    for _ in range(3):
        assert head(features, embedding, labels)[0].item() == pytest.approx(expected[2])
    assert head.state_dict()["num_batches"].item() == 2


def test_margin_rows_start_near_unit_length() -> None:
    head = started(MarginHead(kind="arcface"), size=128, num_identities=500)
    assert head.weight.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)


def test_options_out_of_range_are_refused() -> None:
    for options in ({"margin": 30.0}, {"margin": -0.1}, {"scale": 0.0}, {"warmup_steps": -1}):
        with pytest.raises(UserError, match=next(iter(options))):
            MarginHead(kind="arcface", **options)
    with pytest.raises(UserError, match="label_smoothing"):
        SoftmaxHead(label_smoothing=1.0)
