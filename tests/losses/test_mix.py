from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from facenet.data.layout import Layout
from facenet.errors import UserError
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss

LOSSES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])


def rows() -> torch.Tensor:
    return torch.randn(9, 8, generator=torch.Generator().manual_seed(4))


def mix(**terms: tuple[Any, Any]) -> LossMix:
    return LossMix(terms={name: {"weight": weight, "loss": loss} for name, (weight, loss) in terms.items()})


def layout_of(triplets: bool) -> Layout:
    return Layout("triplet" if triplets else "shuffle")


def from_file(path: Path) -> LossMix:
    built = instantiate(OmegaConf.load(path), _convert_="all")
    assert isinstance(built, LossMix)
    return built


def test_the_total_is_the_weighted_sum_and_every_term_is_logged() -> None:
    head = SoftmaxHead()
    value_of = mix(triplet=(0.5, TripletLoss()), ce=(2.0, head))
    value_of.start(embedding_size=8, num_identities=3)
    total, scalars = value_of(rows(), LABELS)
    unit = functional.normalize(rows())
    triplet, figures = TripletLoss()(rows(), unit, LABELS)
    ce, head_figures = head(rows(), unit, LABELS)
    torch.testing.assert_close(total, 0.5 * triplet + 2.0 * ce)
    assert {name: scalar.item() for name, scalar in scalars.items()} == {
        "triplet": triplet.item(),
        "triplet/active": figures["active"].item(),
        "triplet/positive_distance": figures["positive_distance"].item(),
        "triplet/negative_distance": figures["negative_distance"].item(),
        "ce": ce.item(),
        "ce/accuracy": head_figures["accuracy"].item(),
    }
    assert not any(scalar.requires_grad for scalar in scalars.values())
    assert total.requires_grad


def test_a_term_of_weight_zero_is_left_out_with_its_parameters() -> None:
    value_of = mix(triplet=(1.0, TripletLoss()), ce=(0, SoftmaxHead()))
    value_of.start(embedding_size=8, num_identities=3)
    assert "ce" not in value_of(rows(), LABELS).scalars
    assert list(value_of.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    value_of = mix(triplet=(1.0, TripletLoss()), ce=(1.0, SoftmaxHead()), arc=(1.0, MarginHead(kind="arcface")))
    value_of.start(embedding_size=8, num_identities=3)
    half = rows().to(dtype)
    total, scalars = value_of(half, LABELS)
    assert {total.dtype, *(scalar.dtype for scalar in scalars.values())} == {torch.float32}
    assert total.item() == value_of(half.float(), LABELS).total.item()


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes a host wait for its device: reading a number, and shapes that depend on numbers."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "_unique2")
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        self.count += any(mask is not None and mask.dtype == torch.bool for mask in masks)
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_a_read() -> None:
    with Reads() as reads:  # type: ignore[no-untyped-call]
        float(torch.ones(1).sum())
        torch.ones(3)[torch.tensor([True, False, True])]
    assert reads.count == 2


@pytest.mark.parametrize("triplets", [True, False])
@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_no_loss_makes_the_host_wait(path: Path, triplets: bool) -> None:
    value_of = from_file(path)
    value_of.start(embedding_size=8, num_identities=3, layout=layout_of(triplets))
    features = rows().requires_grad_()
    with Reads() as reads:  # type: ignore[no-untyped-call]
        value_of(features, LABELS).total.backward()
    assert reads.count == 0
    # The same without any numbers: tensors on "meta" have shapes only, and fail where a number is asked for.
    value_of.to("meta")(torch.empty(9, 8, device="meta"), LABELS.to("meta"))


@pytest.mark.parametrize("triplets", [True, False])
@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_every_configured_loss_falls_when_trained(path: Path, triplets: bool) -> None:
    torch.manual_seed(0)
    value_of = from_file(path)
    value_of.start(embedding_size=8, num_identities=3, layout=layout_of(triplets))
    features = rows().requires_grad_()
    optimizer = torch.optim.Adam([features, *value_of.parameters()], lr=0.2)
    first = value_of(features, LABELS).total.item()
    for _ in range(40):
        optimizer.zero_grad()
        value_of(features, LABELS).total.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [features, *value_of.parameters()])
    assert value_of(features, LABELS).total.item() < 0.5 * first


def test_identical_images_never_break_training() -> None:
    value_of = mix(triplet=(1.0, TripletLoss()), ce=(1.0, SoftmaxHead()))
    value_of.start(embedding_size=8, num_identities=3)
    for features in (torch.ones(9, 8), torch.zeros(9, 8)):
        for triplets in (True, False):
            value_of.start(embedding_size=8, num_identities=3, layout=layout_of(triplets))
            value_of(features.requires_grad_(), LABELS).total.backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "no term has a weight above 0"),
        ({"ce": {"weight": 0.0, "loss": SoftmaxHead()}}, "no term has a weight above 0"),
        ({"ce": {"loss": SoftmaxHead()}}, r"terms\.ce: expected the keys weight and loss, got loss"),
        ({"ce": None}, r"terms\.ce: expected the keys weight and loss, got NoneType"),
        (
            {"ce": {"weight": 1.0, "los": SoftmaxHead()}},
            r"terms\.ce: expected the keys weight and loss, got los, weight",
        ),
        ({"ce": {"weight": -1.0, "loss": SoftmaxHead()}}, r"terms\.ce\.weight: expected a number from 0 up, got -1\.0"),
        ({"ce": {"weight": "much", "loss": SoftmaxHead()}}, r"terms\.ce\.weight: .* got 'much'"),
        ({"ce": {"weight": float("inf"), "loss": SoftmaxHead()}}, r"terms\.ce\.weight"),
        ({"ce": {"weight": True, "loss": SoftmaxHead()}}, r"terms\.ce\.weight"),
        ({"ce": {"weight": 1.0, "loss": {"margin": 1}}}, r"terms\.ce\.loss: .* got dict"),
        ({"c.e": {"weight": 1.0, "loss": SoftmaxHead()}}, "a name is a word"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_key(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LossMix(terms=terms)
